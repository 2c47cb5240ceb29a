"""Widgets for JupyterLab, and the plain functions that give batch notebooks what the widgets show."""

from lagkit.views.widgets.asking import follow
from lagkit.views.widgets.attending import attention_table, attention_tokens
from lagkit.views.widgets.explorer import LogExplorer
from lagkit.views.widgets.logs import delete_log, logs_table, run_store, search_table, similarity_map, unrelated
from lagkit.views.widgets.pages import answers_html, kept_html, log_names, trace_html
from lagkit.views.widgets.playground import Means, Playground

__all__ = ["LogExplorer", "Means", "Playground", "answers_html", "attention_table", "attention_tokens", "delete_log"]
__all__ += ["follow", "kept_html", "log_names", "logs_table", "run_store", "search_table", "similarity_map"]
__all__ += ["trace_html", "unrelated"]
