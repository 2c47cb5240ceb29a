"""The nightly run: notebooks in parallel processes, their metrics compared with baselines, a history and pages."""
