"""A broken re-alignment fails the gates: the one fault that leaves every shape and every exit code as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lagkit.nightly.gates import compare, derive
from lagkit.nightly.profile import plan
from lagkit.nightly.run import metrics, run

FILE = Path(__file__).parent.parent / "nightly.yaml"

# Run by IPython when a kernel starts, from a folder that this test names in the environment.
BROKEN = """
import lagkit.kv


class Twice:
    def __init__(self, realigner):
        self.realigner = realigner

    def rotate(self, keys, positions, out=None):
        return self.realigner.rotate(keys, 2 * positions, out=out)


lay = lagkit.kv._lay
lagkit.kv._lay = lambda blocks, realigner, keys, values: lay(blocks, Twice(realigner), keys, values)
"""


@pytest.mark.slow
def test_keys_at_other_positions_than_they_claim_fail_the_gates(tmp_path, monkeypatch):
    settings = {"log_questions": 30, "unseen_questions": 30, "seen_questions": 10, "policies": "kv_last_round"}
    wanted = plan(FILE, "test", settings)
    tasks = tuple(task for task in wanted.tasks if task.name == "02_compare_variants")
    wanted = replace(wanted, tasks=tasks)
    good = metrics(tmp_path / "good", run(wanted, tmp_path / "good"))
    baselines, _ = derive(wanted, (0, 0), [good, good])
    assert set(compare(baselines, wanted, good)["verdict"]) == {"ok"}

    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00-broken.py").write_text(BROKEN)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    broken = metrics(tmp_path / "broken", run(wanted, tmp_path / "broken"))
    verdicts = compare(baselines, wanted, broken).set_index("metric")["verdict"]
    assert verdicts["em.kv_last_round.unseen"] == "regression"
