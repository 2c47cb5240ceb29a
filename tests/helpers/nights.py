"""Throw-away notebooks and profiles for the tests of the nightly run."""

from __future__ import annotations

import textwrap

import nbformat
import yaml

# Writes what `lab.conclude` would, in milliseconds; the environment of a test decides how good the model is.
MEASURE = """
import json, os, pathlib
em = float(os.environ.get("TEST_EM", 0.8)) + 0.01 * (seed % 3)
folder = pathlib.Path(out); folder.mkdir(parents=True, exist_ok=True)
record = {"metrics": {"em.kv": em, "n": 3.0}, "findings": [f"EM is {em:.2f}."]}
(folder / "metrics.json").write_text(json.dumps(record))
with open(folder.parent / "times.txt", "a") as times:
    times.write(pathlib.Path(out).name + "\\n")
"""
PARAMETERS = 'seed: int = 0\nsize: int = 3\ndata: str = ""\nrun: str = "../runs/x"\nout: str = "elsewhere"'

# Runs a notebook's cells without a kernel, which takes seconds to start; otherwise as `lagkit.nightly.job`.
QUICK = """
import json, os, pathlib, sys
folder = pathlib.Path(sys.argv[1]).resolve()
job = json.loads((folder / "job.json").read_text())
notebook = pathlib.Path(job["notebook"])
os.chdir(notebook.parent)
first, *rest = [cell["source"] for cell in json.loads(notebook.read_text())["cells"]]
names = {}
for cell in ["".join(first), *map("".join, rest)]:
    exec(cell, names)
    if cell == "".join(first):
        names |= {"out": str(folder), **job["parameters"]}
"""


def notebook(folder, name, *cells, parameters=PARAMETERS):
    """Write the notebook NAME.ipynb of these code cells behind its parameters."""
    first = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    rest = [nbformat.v4.new_code_cell(textwrap.dedent(cell).strip()) for cell in cells]
    spec = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    folder.mkdir(exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[first, *rest], metadata=spec), folder / f"{name}.ipynb")


def project(root, jobs, notebooks=(), **more):
    """A folder with `nightly.yaml`, of one profile `small` with these jobs, and its notebooks; returns the file."""
    for name, *cells in notebooks:
        notebook(root / "notebooks", name, *cells)
    profile = {"about": "Small.", "parameters": {"seed": 0}, "timeout": 600, "jobs": jobs, **more}
    chance = {name: {"em.*": 0.0} for name, *_ in notebooks}
    path = root / "nightly.yaml"
    path.write_text(yaml.safe_dump({"chance": chance, "profiles": {"small": profile}}))
    return path
