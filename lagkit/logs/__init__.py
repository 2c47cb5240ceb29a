"""Logs: encoded, stored, searched."""
