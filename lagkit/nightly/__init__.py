"""The nightly run: notebooks in parallel processes, their metrics held against baselines, a history and a page."""
