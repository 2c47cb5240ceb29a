"""Measurements that are too long for `python -m lagkit bench`; each module writes one file of `results/`."""
