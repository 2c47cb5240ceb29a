"""What happens inside: attention weights, attention that is cut, and logs that are moved."""
