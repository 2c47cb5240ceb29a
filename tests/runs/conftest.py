"""The run in one go, which the tests of what runs leave and how they resume look at, copy and compare with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from lagkit.runs.experiment import Experiment
from tests.helpers.lms import ActingLM, new_lm, small_run


@pytest.fixture(scope="session")
def whole(tmp_path_factory) -> tuple[Experiment, pd.DataFrame]:
    """The run and its results. Change nothing in its folder: copy it."""
    experiment = small_run(tmp_path_factory.mktemp("runs") / "whole", new_lm(ActingLM))
    return experiment, experiment.run()


@pytest.fixture
def copied(whole, tmp_path) -> Path:
    """A copy of it, to change."""
    return shutil.copytree(whole[0].out, tmp_path / "run")
