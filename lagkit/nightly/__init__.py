"""The nightly run: notebooks in parallel processes, their metrics compared with baselines, a history and pages."""

import sys

# nbformat imports jsonschema, and that, where JupyterLab is installed, a grammar of addresses that no notebook is
# checked against and that takes 1.5 s to compile: without it, every job and every command on notebooks starts sooner.
# The price: in such a process jsonschema takes anything for an address (`iri`).
_GRAMMAR = "rfc3987_syntax"
if _GRAMMAR not in sys.modules:
    sys.modules[_GRAMMAR] = None  # type: ignore[assignment]  # its import raises ImportError, as if it were not there
    try:
        import nbformat  # noqa: F401
    finally:
        sys.modules.pop(_GRAMMAR, None)
