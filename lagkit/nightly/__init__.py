"""The nightly run: notebooks in parallel processes, their metrics compared with baselines, a history and pages."""

from lagkit.util.lazy import import_nbformat

import_nbformat()  # before a module of this room does
