"""Runs that are sharded over the workers of a Ray cluster, with the results of a run in one process."""

from lagkit.runs.workers.workers import Workers

__all__ = ["Workers"]
