"""Parameters of a notebook that plain papermill or a person runs: refused in a sentence, paths from its folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from papermill.exceptions import PapermillExecutionError

from tests.helpers.cells import NOTEBOOKS

SPEC = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
PARAMETERS = 'size: int = 3  # of it\nout: str = "../results"'


def notebook(*cells: str) -> nbformat.NotebookNode:
    first, *rest = (new_code_cell(source) for source in cells)
    first.metadata.tags = ["parameters"]
    return new_notebook(cells=[first, *rest], metadata=SPEC)


def test_plain_papermill_from_any_folder_gets_paths_from_the_notebook_s(tmp_path):
    (tmp_path / "nb").mkdir()
    (tmp_path / "elsewhere").mkdir()
    write = "from pathlib import Path\nPath(out).mkdir()\nPath(out, 'size.txt').write_text(str(size))"
    settle = "from lagkit.views import parameters\nparameters.settle()\nparameters.settle()"
    nbformat.write(notebook(PARAMETERS, settle, write), tmp_path / "nb" / "one.ipynb")
    cold = {name: value for name, value in os.environ.items() if name not in ("LAGKIT_WARM_KERNELS", "JUPYTER_PATH")}
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "../nb/one.ipynb", "copy.ipynb", "-p", "size"]
    done = subprocess.run(
        [*command, "7"], cwd=tmp_path / "elsewhere", env=cold, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results" / "size.txt").read_text() == "7"
    assert (tmp_path / "elsewhere" / "copy.ipynb").exists()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"log_questoins": 3}, "this notebook has no parameter 'log_questoins'; it has tier, data, seed, look_at"),
        ({"look_at": "three"}, "The parameter look_at of this notebook is of type int: 'three'."),
    ],
)
def test_plain_papermill_refuses_parameters_inside_the_notebook(tmp_path, given, sentence):
    with pytest.raises(PapermillExecutionError) as caught:
        papermill.execute_notebook(
            NOTEBOOKS["01_build_logs"],
            tmp_path / "copy.ipynb",
            {**given, "run": str(tmp_path / "run")},
            cwd=NOTEBOOKS["01_build_logs"].parent,
            progress_bar=False,
            start_timeout=600,
        )
    assert (caught.value.ename, caught.value.evalue[: len(sentence)]) == ("ConfigError", sentence)
    assert not (tmp_path / "run").exists()


WRONG = {
    'lag.open_run("smollm2", "run")': "there are no questions: give a folder of them as `data`, such as ",
    'lag.run("laptop", "run")': "there are no questions: give a folder of them as `data`, such as ",
    'lag.run("testbed", "run", log_questions="many")': "Wrong run settings: log_questions: Input should be a valid int",
    'lag.run("testbed", "run", policies="kv_block")': "`policies` is a list of names, and 'kv_block' is text: write ",
    'lag.ask(None, "Who?", "kv_block")': "`variants` is a list of names, and 'kv_block' is text: write ",
    'lag.run("testbed", "run", policies=[["kv_block"]])': "Wrong run settings: policies.0: text is needed",
    'lag.run("testbed", "run", policies=3)': "Wrong run settings: policies: ",
    'lag.run("testbed", "run", world="small")': "`world` is a mapping of controls to values, and 'small' is none.",
    'lag.run(3, "run")': "3 stands where a path is needed: give a file or a folder, in quotes.",
    "lag.load(3)": "3 stands where a path is needed",
    "lag.load_data(None)": "None stands where a path is needed",
    "lag.LM.load(3)": "3 stands where a path is needed",
    "lag.load_embedder(3)": "3 stands where a path is needed",
    "lag.conclude(3, {'a': 1.0})": "3 stands where a path is needed",
    "lag.studies.at_least_one(dtypes=0.5)": "dtypes = 0.5 is neither a whole number nor a list",
    'size: int = "many"\nrate: float = 1': "",
    "lag.plot.for_notebooks()": "The parameter size of this notebook is of type int: 'many'.",
}


def test_a_wrong_value_is_one_sentence_in_a_notebook_and_no_traceback(tmp_path):
    cells = notebook("import lagkit as lag", *WRONG)
    NotebookClient(cells, allow_errors=True, resources={"metadata": {"path": str(tmp_path)}}).execute()
    for cell, sentence in zip(cells.cells[1:], WRONG.values(), strict=True):
        errors = [output for output in cell.outputs if output.output_type == "error"]
        assert bool(errors) is bool(sentence), cell.source
        for error in errors:
            assert error.traceback == [f"{error.ename}: {error.evalue}"], cell.source
            assert sentence in error.evalue, cell.source
            assert "\n" not in error.evalue
    sample = cells.cells[1].outputs[0].evalue.partition("such as ")[2].partition(",")[0]
    assert (tmp_path / sample / "dev_train.json").resolve().is_file()
    assert [*Path(tmp_path).iterdir()] == []
