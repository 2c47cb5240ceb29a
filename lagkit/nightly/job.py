"""One notebook in a process of its own: `python -m lagkit.nightly.job FOLDER`, which holds `job.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nbformat

from lagkit.nightly import pages
from lagkit.nightly.notebook import execute
from lagkit.util import files
from lagkit.util.cli import exit_code

FILE = "job.json"


def main(folder: Path) -> int:
    """Execute the notebook into `folder` and write its page; returns an exit code, as `cli.exit_code`."""
    job = json.loads((folder / FILE).read_text(encoding="utf-8"))

    def run() -> None:
        execute(job["notebook"], folder, job["parameters"], timeout=job["timeout"])

    code = exit_code(run)
    executed = folder / Path(job["notebook"]).name
    if executed.exists():
        write_page(executed)
    return code


def write_page(executed: Path) -> Path:
    """Write the page of a job's notebook, whole or failed, beside it; one plotly.js, above, serves all jobs."""
    script = pages.write_script(executed.parents[1])
    back = pages.Link("../../report.html", "All jobs")
    page = pages.render(nbformat.read(executed, as_version=4), executed.stem, f"../{script.name}", back)
    return files.write(executed.with_suffix(".html"), page)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
