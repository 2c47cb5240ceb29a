"""Measurements that are too long for a test; their results are in `results/`."""
