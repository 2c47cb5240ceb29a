"""One notebook in a process of its own: `python -m lagkit.nightly.job FOLDER`, which holds `job.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from nbconvert import HTMLExporter

from lagkit import files
from lagkit.errors import LagkitError
from lagkit.notebook import execute

FILE = "job.json"


def main(folder: Path) -> int:
    """Execute the notebook into `folder` and export what was executed; 0, or 2 with a sentence on standard error."""
    job = json.loads((folder / FILE).read_text(encoding="utf-8"))
    notebook, code = Path(job["notebook"]), 0
    try:
        execute(notebook, folder, job["parameters"], timeout=job["timeout"])
    except LagkitError as error:
        print("lagkit:", " ".join(str(error).split()), file=sys.stderr)
        code = 2
    executed = folder / notebook.name
    if executed.exists():
        page, _ = HTMLExporter().from_filename(str(executed))
        files.write(executed.with_suffix(".html"), page)
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
