"""Runs that are sharded over the workers of a Ray cluster, with the results of a run in one process."""

import os

# Ray reads these once, when it is imported: no reports to its makers, and no lines about deaths, which the pool tells.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")

from lagkit.runs.workers.workers import Workers

__all__ = ["Workers"]
