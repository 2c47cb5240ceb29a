"""What holds for the whole repository: packaging in step, notebooks that keep their contract, nothing machine-bound."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import lagkit

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
STANDARD = {*sys.stdlib_module_names, "lagkit"}
# What notebooks may import: one name of lagkit, and what shows tables and figures.
ALLOWED = {*sys.stdlib_module_names, "lagkit as lag", "pandas", "plotly", "IPython"}
MODULES = sorted((ROOT / "lagkit").rglob("*.py"))

# Paths of one person's machine, put together here so that this file does not hold them itself.
MACHINE_PATH = re.compile("|".join(f"/{name}/" for name in ("home", "root", "tmp", "work", "Users")))


def requirements():
    """All that is asked for; what the project asks of itself, its own extras, left out."""
    extras = PROJECT["project"]["optional-dependencies"].values()
    listed = PROJECT["project"]["dependencies"] + [line for extra in extras for line in extra]
    return [asked for line in listed if (asked := Requirement(line)).name != PROJECT["project"]["name"]]


def constraints():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def tracked_files():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert PROJECT["project"]["version"] == lagkit.__version__ == citation["version"]
    assert f"## {lagkit.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("requirement", requirements(), ids=lambda requirement: requirement.name)
def test_dependency_has_a_range_that_its_constraint_satisfies(requirement):
    if requirement.name == "pip":  # comes with the environment, which no constraint reaches
        assert str(requirement.specifier) == ">=24"
        return
    bounds = {spec.operator for spec in requirement.specifier}
    assert bounds in ({">=", "<"}, {"=="}), f"{requirement} needs a lower and an upper bound"
    pins = [pin for pin in constraints() if canonicalize_name(pin.name) == canonicalize_name(requirement.name)]
    assert len(pins) == 1, f"{requirement.name} is pinned {len(pins)} times in constraints.txt"
    [version] = [spec.version for spec in pins[0].specifier]
    assert version in requirement.specifier


def test_constraints_are_pins_of_public_versions():
    for pin in constraints():
        [spec] = pin.specifier
        assert pin.url is None
        assert spec.operator == "=="
        assert Version(spec.version).local is None, f"{pin} is a build of one machine"


def test_environment_is_in_step_with_the_project():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["name"] == PROJECT["project"]["name"] == "lagkit"
    python, *rest = environment["dependencies"]
    assert python.removeprefix("python=") in Requirement(f"python{PROJECT['project']['requires-python']}").specifier
    # All else comes from pip: torch and faiss from one source, and no second list of versions to keep.
    assert rest == ["pip", {"pip": ["-c constraints.txt", "-e .[dev]"]}]
    assert environment["channels"] == ["conda-forge", "nodefaults"]


def test_imports_are_declared():
    provides = {"faiss": "faiss-cpu", "sklearn": "scikit-learn", "yaml": "PyYAML"}
    extra_of = {"api": "api", "lance": "lance", "workers": "cluster", "views": "dev"}  # the folders that need one

    def named(lines):
        return {canonicalize_name(Requirement(line).name) for line in lines}

    declared = named(PROJECT["project"]["dependencies"])
    extras = {extra: named(lines) for extra, lines in PROJECT["project"]["optional-dependencies"].items()}
    for module in MODULES:
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for package in {name.partition(".")[0] for name in names} - STANDARD:
                name = canonicalize_name(provides.get(package, package))
                allowed = declared | extras.get(extra_of.get(module.parent.name, ""), set())
                assert name in allowed, f"{module.name} imports {package}, which pyproject.toml does not list"


def test_package_data_is_packaged():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["lagkit"]
    packaged = {file for pattern in patterns for file in (ROOT / "lagkit").glob(pattern)}
    data = {file for file in tracked_files() if file.is_relative_to(ROOT / "lagkit") and file.suffix != ".py"}
    assert data <= packaged
    assert ROOT / "lagkit" / "py.typed" in packaged


def test_nothing_names_a_path_of_one_machine():
    found = []
    for file in tracked_files():
        text = file.read_bytes().decode("utf-8", "replace")
        found += [f"{file.relative_to(ROOT)}: {match.group()}" for match in MACHINE_PATH.finditer(text)]
    assert found == []


@pytest.mark.parametrize("word", ["home", "root", "tmp", "work", "Users"])
def test_the_search_for_machine_paths_finds_them(word):
    assert MACHINE_PATH.search(f"open('/{word}/me/x')")


def test_there_are_notebooks_and_their_names_begin_with_a_number_but_the_template_s():
    assert NOTEBOOKS
    assert [path.name for path in NOTEBOOKS if not re.match(r"\d\d_", path.name)] == ["_template.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_keeps_the_contract(path):
    notebook = nbformat.read(path, as_version=4)
    assert notebook_faults(notebook) == []
    assert path.name in (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
    if path.name != "_template.ipynb":
        assert f"(docs/gallery/{path.name})" in (ROOT / "README.md").read_text(encoding="utf-8")


def notebook_faults(notebook):
    """What is wrong with a notebook, in words."""
    faults = []
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        faults.append("kernelspec is not python3")
    if "widgets" in notebook.metadata:
        faults.append("holds widget state")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    tags = [[*cell.metadata.get("tags", [])] for cell in code]
    if tags[:2] != [["verdict"], ["parameters"]] or any(tags[2:]):
        faults.append(f"code cells are tagged {tags}, not the first for the verdict and the second for parameters")
    elif [cell.metadata.get("tags") for cell in notebook.cells[1:3]] != [["badges"], ["verdict"]]:
        faults.append("the badges and the cell for the verdict do not stand under the title")
    elif not re.search(r"lag\.(plot\.for_notebooks|open_run)\(", code[2].source):
        faults.append("the cell behind the parameters neither opens a run nor calls lag.plot.for_notebooks")
    for number, cell in enumerate(code):
        if cell.outputs or cell.execution_count is not None:
            faults.append(f"code cell {number} holds outputs or a count")
        if len(cell.source.splitlines()) > 25:
            faults.append(f"code cell {number} has more than 25 lines")
        if re.search(r"^\s*class ", cell.source, re.MULTILINE):
            faults.append(f"code cell {number} defines a class")
    for name in sorted(imported(code) - ALLOWED):
        faults.append(f"imports {name}")
    for line in (
        line for cell in code if "parameters" in cell.metadata.get("tags", []) for line in cell.source.splitlines()
    ):
        if re.search(r"\bcommas?\b", line) or re.search(r": list\b(?! = \[)", line):
            faults.append(f"gives a list otherwise than as `name: list = [...]`: {line}")
    words = {
        kind: sum(len(c.source.split()) for c in notebook.cells if c.cell_type == kind) for kind in ("markdown", "code")
    }
    if words["markdown"] < words["code"]:
        faults.append("has more code than prose")
    return faults


def imported(code):
    """What code cells import: `import lagkit as lag` by those words, all else by the package's name."""
    found = set()
    for node in (node for cell in code for node in ast.walk(ast.parse(cell.source))):
        if isinstance(node, ast.Import):
            names = [f"{a.name} as {a.asname}" if a.name.startswith("lagkit") else a.name for a in node.names]
            found |= {name if name.startswith("lagkit") else name.partition(".")[0] for name in names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module if node.module.startswith("lagkit") else node.module.partition(".")[0])
    return found


@pytest.mark.parametrize(
    "line", ["from lagkit.views import lab", "import lagkit", "import numpy", "import lagkit.stats"]
)
def test_no_notebook_may_import_more_of_lagkit_than_lag(line):
    parameters = nbformat.v4.new_code_cell("a: list = []", metadata={"tags": ["parameters"]})
    cells = [parameters, nbformat.v4.new_code_cell(f"import lagkit as lag\nimport pandas as pd\n{line}")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    assert [fault for fault in notebook_faults(notebook) if fault.startswith("imports")]


def test_a_list_among_parameters_has_one_form():
    source = 'a: str = ""  # comma-separated\nb: list = ["x"]'
    cells = [nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]})]
    notebook = nbformat.v4.new_notebook(cells=cells)
    assert [f for f in notebook_faults(notebook) if "list" in f] == [
        'gives a list otherwise than as `name: list = [...]`: a: str = ""  # comma-separated'
    ]


def test_the_contract_can_be_broken():
    cells = [nbformat.v4.new_code_cell("class A: ...", execution_count=1), nbformat.v4.new_code_cell("x\n" * 26)]
    cells[1].metadata.tags = ["parameters"]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"widgets": {}})
    assert notebook_faults(notebook) == [
        "kernelspec is not python3",
        "holds widget state",
        "code cells are tagged [[], ['parameters']], not the first for the verdict and the second for parameters",
        "code cell 0 holds outputs or a count",
        "code cell 0 defines a class",
        "code cell 1 has more than 25 lines",
        "has more code than prose",
    ]


@pytest.mark.parametrize(("lint", "tests"), [(0, 0), (2, 0), (0, 2), (2, 2)])
def test_integration_fails_where_either_lint_or_tests_do_and_ends_with_pytest_s_line(tmp_path, lint, tests):
    closing = "=========== 3 passed in 0.12s ==========="
    words = f'[ "$1" = lint ] && echo Linted. && exit {lint}; echo "{closing}"; echo "make: done"; exit {tests}'
    for name, script in (("make", words), ("chromium", "")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run([ROOT / ".ci" / "run"], env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["Linted.", closing, "make: done", closing]
    assert (done.returncode != 0) is bool(lint or tests)


def test_results_go_to_one_run_whether_their_folder_is_given_with_a_slash_or_without():
    said = [
        subprocess.run(
            ["make", "-n", "results", "STAMP=", f"RESULTS={folder}"], cwd=ROOT, capture_output=True, text=True
        )
        for folder in ("docs/results/real/own/", "docs/results/real/own")
    ]
    assert said[0].stdout == said[1].stdout
    assert "lagkit run docs/results/real/own/run.yaml  out=runs/own\n" in said[0].stdout
