"""The nightly run: notebooks in parallel processes, their metrics compared with baselines, a history and pages."""

import sys

# nbformat imports jsonschema, and that, where JupyterLab is installed, a grammar of addresses that no notebook is
# checked against and that takes 1.5 s to compile: without it, every job and every command on notebooks starts sooner.
_GRAMMAR = "rfc3987_syntax"
if _GRAMMAR not in sys.modules:
    sys.modules[_GRAMMAR] = None  # type: ignore[assignment]  # an import of it raises ImportError, which is expected
    import nbformat  # noqa: F401

    del sys.modules[_GRAMMAR]
