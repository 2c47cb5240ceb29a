"""Widgets for JupyterLab, and the plain functions that give batch notebooks what the widgets show."""

from lagkit.views.widgets.attending import attention_table, attention_tokens
from lagkit.views.widgets.explorer import LogExplorer
from lagkit.views.widgets.logs import logs_table, run_store, search_table, similarity_map, unrelated
from lagkit.views.widgets.playground import Playground

__all__ = ["LogExplorer", "Playground", "attention_table", "attention_tokens", "logs_table", "run_store"]
__all__ += ["search_table", "similarity_map", "unrelated"]
