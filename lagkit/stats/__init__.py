"""Scores, intervals, strata, equivalence."""

from lagkit.util.lazy import submodules

__getattr__, __dir__ = submodules(__name__, __path__)
