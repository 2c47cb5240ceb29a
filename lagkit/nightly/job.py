"""One notebook in a process of its own: `python -m lagkit.nightly.job FOLDER`, which holds `job.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from nbconvert import HTMLExporter

from lagkit.nightly.notebook import execute
from lagkit.util import files
from lagkit.util.cli import exit_code

FILE = "job.json"


def main(folder: Path) -> int:
    """Execute the notebook into `folder` and export what was executed; returns an exit code, as `cli.exit_code`."""
    job = json.loads((folder / FILE).read_text(encoding="utf-8"))
    notebook = Path(job["notebook"])
    code = exit_code(lambda job: _execute(notebook, folder, job), job)
    executed = folder / notebook.name
    if executed.exists():
        page, _ = HTMLExporter().from_filename(str(executed))
        files.write(executed.with_suffix(".html"), page)
    return code


def _execute(notebook: Path, folder: Path, job: dict[str, Any]) -> None:
    execute(notebook, folder, job["parameters"], timeout=job["timeout"])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
