"""Plotly figures from DataFrames; a module for each kind of question, such as `plot.curves`."""

from lagkit.util.lazy import submodules
from lagkit.views.plots.basic import bars, for_notebooks, lines
from lagkit.views.plots.differences import forest, grid

__all__ = ["bars", "for_notebooks", "forest", "grid", "lines"]

__getattr__, __dir__ = submodules(__name__, __path__)
