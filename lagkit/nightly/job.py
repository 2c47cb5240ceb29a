"""One notebook in a process of its own: `python -m lagkit.nightly.job FOLDER`, which holds `job.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import nbformat
from plotly.offline import get_plotlyjs

from lagkit.nightly.gallery import pages
from lagkit.nightly.gallery.executed import without_live_parts
from lagkit.nightly.notebook import execute
from lagkit.util import files
from lagkit.util.cli import exit_code

FILE = "job.json"


def main(folder: Path) -> int:
    """Execute the notebook into `folder` and export what was executed; returns an exit code, as `cli.exit_code`."""
    job = json.loads((folder / FILE).read_text(encoding="utf-8"))
    notebook = Path(job["notebook"])
    code = exit_code(lambda: _execute(notebook, folder, job))
    executed = folder / notebook.name
    if executed.exists():
        write_page(executed)
    return code


def write_page(executed: Path) -> Path:
    """Write the page of a job's notebook, whole or failed, beside it; one plotly.js, above, does for all jobs."""
    script = executed.parents[1] / pages.SCRIPT
    if not script.exists():
        files.write(script, get_plotlyjs())
    notebook = without_live_parts(nbformat.read(executed, as_version=4))
    back = pages.Link("../../report.html", "All jobs")
    page = pages.render(notebook, executed.stem, f"../{script.name}", back)
    return files.write(executed.with_suffix(".html"), page)


def _execute(notebook: Path, folder: Path, job: dict[str, Any]) -> None:
    execute(notebook, folder, job["parameters"], timeout=job["timeout"])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
