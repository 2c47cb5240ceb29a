"""What notebooks measure, one module a question."""
