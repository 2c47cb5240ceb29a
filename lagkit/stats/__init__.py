"""Scores, intervals, strata, equivalence."""
