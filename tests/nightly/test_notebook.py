"""Notebooks run headlessly: parameters checked before anything starts, failures in a sentence, and the real ones."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import nbformat
import pytest

from lagkit.__main__ import main
from lagkit.model.hub import resolve_embedder, resolve_model
from lagkit.nightly import notebook as nb
from lagkit.util.errors import ConfigError, ModelNotFound, NotebookFailed
from tests.helpers.executed import FIGURE, execute

SANITY = Path(__file__).parents[2] / "notebooks" / "00_sanity_check.ipynb"
PARAMETERS = 'name: str = "x"  # a name\nsize: int = 3\nrate: float = 0.5\nfast: bool = False\nout: str = "elsewhere"'


def write(folder: Path, *cells: str, parameters: str = PARAMETERS) -> Path:
    """A notebook of these code cells behind its parameters."""
    first = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    rest = [nbformat.v4.new_code_cell(cell) for cell in cells]
    spec = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path = folder / "small.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[first, *rest], metadata=spec), path)
    return path


@pytest.fixture
def small(tmp_path):
    return write(tmp_path, "1 / 0")


@pytest.fixture
def not_run(monkeypatch):
    """Fails the test if a notebook is started; returns what would have been handed over."""
    handed = {}

    def run(notebook, copy, parameters, timeout):
        handed.update(parameters=parameters, timeout=timeout, copy=copy)

    monkeypatch.setattr(nb, "_run", run)
    return handed


def test_a_notebook_is_run_where_it_lies_and_its_copy_lands_beside_its_results(tmp_path):
    cell = "import json, pathlib\npathlib.Path(out, 'told.json').write_text(json.dumps([name, size, rate, fast, out]))"
    (tmp_path / "sources").mkdir()
    source = write(tmp_path / "sources", cell)
    before = source.read_bytes()
    copy = nb.execute(source, tmp_path / "runs" / "one", {"name": "new", "rate": 2, "fast": True})
    assert copy == tmp_path / "runs" / "one" / "small.ipynb"
    told = json.loads((tmp_path / "runs" / "one" / "told.json").read_text())
    assert told == ["new", 3, 2.0, True, "../runs/one"]
    assert source.read_bytes() == before
    executed = nbformat.read(copy, as_version=4)
    assert executed.metadata.papermill.exception is None
    assert executed.cells[-1].execution_count == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"nmae": "y"}, "small.ipynb has no parameter 'nmae'; it has name, size, rate, fast, out."),
        ({"size": "4"}, "The parameter size of small.ipynb is of type int: '4'."),
        ({"size": True}, "The parameter size of small.ipynb is of type int: True."),
        ({"size": 4.0}, "The parameter size of small.ipynb is of type int: 4.0."),
        ({"rate": 10**400}, "The parameter rate of small.ipynb is too large for a float: give a smaller number."),
        ({"rate": "fast"}, "The parameter rate of small.ipynb is of type float: 'fast'."),
        ({"fast": 1}, "The parameter fast of small.ipynb is of type bool: 1."),
        ({"name": 7}, "The parameter name of small.ipynb is of type str: 7."),
    ],
)
def test_wrong_parameters_are_refused_before_anything_is_made(small, tmp_path, not_run, given, message):
    with pytest.raises(ConfigError) as caught:
        nb.execute(small, tmp_path / "out", given)
    assert str(caught.value) == message
    assert not_run == {}
    assert not (tmp_path / "out").exists()


def test_words_of_a_command_line_become_values_of_the_right_type(small, tmp_path, not_run, capsys):
    words = ["-p", "name", "12", "-p", "size", "-4", "-p", "rate", "1", "-p", "fast", "true", "-p", "out", "here"]
    assert main(["notebook", str(small), str(tmp_path / "out"), *words, "--timeout", "7"]) == 0
    assert not_run["parameters"] == {"name": "12", "size": -4, "rate": 1.0, "fast": True, "out": "here"}
    assert type(not_run["parameters"]["rate"]) is float
    assert not_run["timeout"] == 7
    assert capsys.readouterr().out.strip() == str(not_run["copy"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-p", "sizes", "4"], "small.ipynb has no parameter 'sizes'; it has name, size, rate, fast, out."),
        (["-p", "size", "four"], "The parameter size of small.ipynb is of type int: 'four'."),
        (["-p", "fast", "maybe"], "The parameter fast of small.ipynb is of type bool: 'maybe'."),
    ],
)
def test_command_line_says_in_one_line_what_is_wrong(small, tmp_path, not_run, capsys, words, message):
    assert main(["notebook", str(small), str(tmp_path / "out"), *words]) == 2
    assert capsys.readouterr().err == f"lagkit: {message}\n"


def test_types_may_come_from_defaults(tmp_path):
    source = write(tmp_path, parameters='size = 3\nnames: list[str] = ["a"]\nrate: float = 1')
    assert nb.declared(source) == {"size": int, "names": list, "rate": float}
    assert nb.declared(write(tmp_path, parameters='name: str = "a=b"  # of = signs')) == {"name": str}
    for wrong in ("size + 1", "{[]: 1}"):
        with pytest.raises(ConfigError, match=f"parameter late must be a literal, not {re.escape(wrong)}[.]"):
            nb.declared(write(tmp_path, parameters=f"late = {wrong}"))


def test_what_stands_among_the_parameters_is_no_parameter(tmp_path):
    others = '"""What is asked."""\nimport sys\nfrom pathlib import Path\nassert sys.path'
    source = write(tmp_path, parameters=f'{others}\nseed: "int" = None\nname: str = "x"')
    assert nb.declared(source) == {"seed": int, "name": str}
    with pytest.raises(ConfigError, match=r"small\.ipynb has no parameters"):
        nb.declared(write(tmp_path, parameters=others))


def test_notebooks_that_cannot_be_run_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.ipynb cannot be read \("):
        nb.execute(tmp_path / "nothing.ipynb", tmp_path / "out")
    (tmp_path / "torn.ipynb").write_text('{"cells": [')
    with pytest.raises(ConfigError, match=r"torn\.ipynb cannot be read \("):
        nb.execute(tmp_path / "torn.ipynb", tmp_path / "out")
    with pytest.raises(ConfigError, match=r"small\.ipynb has no parameters: tag a cell of `name: type = value` lines"):
        nb.execute(write(tmp_path, parameters="# nothing here"), tmp_path / "out")
    with pytest.raises(ConfigError, match=r"Line 2 of the parameters of .*small\.ipynb, `a = b = 1`, cannot be read"):
        nb.execute(write(tmp_path, parameters="size: int = 3\na = b = 1"), tmp_path / "out")
    with pytest.raises(ConfigError, match=r"The executed copy would replace .*small\.ipynb: choose another folder\."):
        nb.execute(write(tmp_path), tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("cell", "timeout", "message"),
    [
        ("raise ValueError('no such\\n  thing')", 60, r"small\.ipynb failed in cell \d \(ValueError: no such thing\)"),
        ("import os; os._exit(1)", 60, r"The kernel of small\.ipynb stopped \("),
        ("import time; time.sleep(30)", 1, r"A cell of small\.ipynb took more than 1 s"),
    ],
)
def test_a_failing_cell_is_told_and_what_ran_before_it_is_kept(tmp_path, cell, timeout, message):
    source = write(tmp_path, "print('reached')", cell)
    with pytest.raises(NotebookFailed, match=message + r".*; see .*small\.ipynb\.$"):
        nb.execute(source, tmp_path / "out", timeout=timeout)
    kept = nbformat.read(tmp_path / "out" / "small.ipynb", as_version=4)
    texts = [output.get("text") for cell in kept.cells if cell.cell_type == "code" for output in cell.outputs]
    assert "reached\n" in texts


def test_a_kernel_that_dies_before_it_begins_is_started_again_and_no_other(tmp_path, monkeypatch):
    """Kernels that start at the same moment may draw the same port: all but one die, and have done nothing."""
    said, starts, execute = "Kernel died before replying to kernel_info", [], nb.papermill.execute_notebook

    def dying(*args, deaths, **kwargs):
        starts.append(1)
        if len(starts) <= deaths:
            raise RuntimeError(said)
        return execute(*args, **kwargs)

    monkeypatch.setattr(nb.papermill, "execute_notebook", partial(dying, deaths=2))
    assert nb.execute(write(tmp_path, "1"), tmp_path / "out", {}).exists()
    assert len(starts) == 3
    monkeypatch.setattr(nb.papermill, "execute_notebook", partial(dying, deaths=9))
    with pytest.raises(NotebookFailed, match="Kernel died before"):
        nb.execute(tmp_path / "small.ipynb", tmp_path / "again", {})
    assert len(starts) == 6
    said = "Kernel died"
    with pytest.raises(NotebookFailed, match="Kernel died"):
        nb.execute(tmp_path / "small.ipynb", tmp_path / "once", {})
    assert len(starts) == 7


def test_a_copy_that_is_saved_between_two_cells_holds_no_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_API_KEY", "sk-7f3a9c2e51d04b68")
    told = "import os; print('the key is', os.environ['TEST_API_KEY'])"
    look = "import pathlib; pathlib.Path(out, 'saved.txt').write_text(pathlib.Path(out, 'small.ipynb').read_text())"
    nb.execute(write(tmp_path, told, look), tmp_path / "out")
    saved = (tmp_path / "out" / "saved.txt").read_text()
    assert "the key is [secret]" in saved
    assert "sk-7f3a9c2e51d04b68" not in saved + (tmp_path / "out" / "small.ipynb").read_text()


def test_an_interrupted_notebook_keeps_its_copy_and_says_so_in_one_line(tmp_path):
    slow = "import pathlib, time; pathlib.Path('started').touch(); time.sleep(60)"
    notebook = write(tmp_path, "print('reached')", slow)
    command = [sys.executable, "-m", "lagkit", "notebook", str(notebook), str(tmp_path / "out")]
    # A shell's background may have told its children to ignore the signal.
    heeding = [
        sys.executable,
        "-c",
        "import os, signal, sys; signal.signal(2, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])",
    ]
    process = subprocess.Popen([*heeding, *command], stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "started").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (130, "Interrupted; the same command resumes.\n")
    [copy] = (tmp_path / "out").glob("*.ipynb")
    assert "reached" in copy.read_text(encoding="utf-8").partition('"outputs"')[2]


@pytest.fixture(scope="module")
def sanity(tmp_path_factory):
    """The executed notebook on SmolLM2 and the first four of its invented facts, and its record."""
    try:
        resolve_model("smollm2"), resolve_embedder("minilm")
    except ModelNotFound as reason:
        pytest.skip(f"needs two small models once: {reason}")
    out = tmp_path_factory.mktemp("sanity")
    notebook = nbformat.read(SANITY, as_version=4)
    [listed] = [cell for cell in notebook.cells if cell.source.startswith('listed = """')]
    head, lines, rest = listed.source.split('"""')
    listed.source = '"""'.join([head, "\n".join(lines.splitlines()[:6]), rest])
    nbformat.write(notebook, out / SANITY.name)
    return execute(out / SANITY.name, out / "run")


def test_smollm2_answers_from_a_log_that_was_read_in_advance(sanity):
    numbers = sanity.metrics
    assert numbers["retrieved"] == 1.0
    assert numbers["parity"] < 1e-3
    assert numbers["right.no_log"] == numbers["right.other_log"] == 0.0
    assert numbers["right.log_as_kv"] == numbers["right.log_as_text"] >= 0.8
    assert numbers["logprob.log_as_kv"] > numbers["logprob.no_log"] + 3


def test_each_failure_has_its_signature(sanity):
    numbers = sanity.metrics
    assert numbers["right.stale_keys"] == 0.0
    assert min(numbers["kl.stale_keys"], numbers["kl_no_log.stale_keys"]) > 1
    assert numbers["right.keys_rotated_twice"] < 0.5
    assert numbers["kl.keys_at_one_position"] > 0.01
    assert numbers["masked_against_no_log"] < 1e-3
    assert numbers["right.log_masked"] == numbers["right.no_log"]
    assert numbers["misled.wrong_log"] > 0.4
    assert numbers["right.wrong_log"] == 0.0
    assert numbers["kl.displaced_0"] == 0.0 < numbers["kl.displaced_32"]


def test_the_record_is_of_the_common_form(sanity):
    assert sanity.record["settings"] == {"model": "smollm2", "embedder": "minilm", "dtype": "float32", "seed": 1234}


def test_the_executed_notebook_can_be_read_without_running_it(sanity):
    assert len(sanity.figures) == 2
    assert all({"image/png", "text/html"} & set(data) for data in sanity.shown if FIGURE in data)
    assert len(json.dumps(sanity.outputs)) < 500_000


@pytest.mark.parametrize("what", ["lagkit.nightly", "lagkit.views.pictures as pictures; pictures.use_renderers()"])
def test_what_is_kept_from_being_imported_can_be_imported_later(what):
    names = "{'nbformat', 'rfc3987_syntax'} & {*sys.modules}, importlib.util.find_spec('rfc3987_syntax') is not None"
    code = f"import importlib.util, sys, {what}; print({names})"
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert told.stdout == "{'nbformat'} True\n"
