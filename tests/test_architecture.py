"""The shape of the package: rooms with one way down, few names at the root, short files and functions."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lagkit"
MODULES = sorted(PACKAGE.rglob("*.py"))
FILLED_IN = ("Limits", "Policy", "Question", "Passage", "Hop", "Prompt")
SET_BY_CODE = {"Prompt": {"name", "first"}}


def test_a_room_imports_only_from_rooms_below_it_and_nothing_in_a_circle():
    """The contracts are in pyproject.toml, under `tool.importlinter`."""
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    assert "3 kept, 0 broken" in checked.stdout


def test_the_root_has_at_most_twelve_entries_beside_what_python_asks_for():
    code = (path for path in PACKAGE.iterdir() if path.suffix == ".py" or any(path.rglob("*.py")))
    found = {path.name for path in code if not path.name.startswith("_")}
    assert len(found) <= 12, found


@pytest.mark.parametrize("path", MODULES, ids=[str(path.relative_to(ROOT)) for path in MODULES])
def test_files_have_at_most_350_lines_and_functions_60(path):
    source = path.read_text(encoding="utf-8")
    long = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno >= 60
    }
    assert not long
    assert source.count("\n") <= 350


def test_what_people_fill_in_has_at_most_ten_fields():
    """Settings, a prompt's file, and the dataclasses that a notebook makes; more belong into groups."""
    found = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                fields = [part for part in node.body if isinstance(part, ast.AnnAssign)]
                fields = [part for part in fields if "ClassVar" not in ast.unparse(part.annotation)]
                fields = [part for part in fields if ast.unparse(part.target) not in SET_BY_CODE.get(node.name, ())]
                if node.name in FILLED_IN or "Settings" in map(ast.unparse, node.bases):
                    found[node.name] = len(fields)
    assert found.keys() >= {*FILLED_IN, "RunConfig", "DataSettings", "Requests", "Controls"}
    assert not {name: count for name, count in found.items() if count > 10}
