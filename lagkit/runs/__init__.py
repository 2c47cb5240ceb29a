"""Runs: configuration, journal, manifest, results, report."""
