"""Plotly figures from DataFrames; a module for each kind of question."""

from lagkit.views.plots.basic import COLOURS, bars, for_notebooks, lines

__all__ = ["COLOURS", "bars", "for_notebooks", "lines"]
