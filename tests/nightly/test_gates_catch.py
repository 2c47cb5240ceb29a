"""Every fault that is planted into the method, into retrieval or into scoring fails a gate of the nightly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.gates import harness
from tests.gates.faults import FAULTS

NAMED = (  # each of them left all gates as they were when these went by the spread between worlds
    "answers leak: with logs all are right",
    "one log is shown instead of three",
    "injected keys are not re-aligned",
    "injected keys stand one position too late",
    "half of the queries are random",
    "one gold answer in ten is wrong",
)


def test_each_fault_finds_what_it_replaces():
    code = "from tests.gates.faults import FAULTS\nfor what, plant in FAULTS.items(): plant(); print(what)"
    command, root = [sys.executable, "-c", code], Path(__file__).parents[2]
    planted = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert planted.stdout.splitlines() == [*FAULTS], planted.stderr


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_each_planted_fault_fails_a_gate(tmp_path):
    rows = {row["fault"]: row for row in harness.measure(tmp_path, list(FAULTS))}
    assert set(NAMED) <= set(rows)
    assert {name: row["error"] for name, row in rows.items() if row["error"]} == {}
    assert [name for name, row in rows.items() if not row["failed"]] == []
