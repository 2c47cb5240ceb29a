"""The testbed's worlds: invented facts, questions about them and their passages."""
