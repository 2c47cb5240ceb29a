"""What workers refuse, and how the options of commands reach them: no Ray is started."""

from __future__ import annotations

import re
import shlex
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from lagkit import __version__
from lagkit.__main__ import main
from lagkit.runs.executor import Asking
from lagkit.runs.workers import Workers
from lagkit.runs.workers.worker import Worker
from lagkit.util.cli import settings
from lagkit.util.errors import ClusterError, ConfigError
from tests.helpers.lms import ActingLM, new_lm, small_run

pytest.importorskip("ray", reason="needs Ray: pip install 'lagkit[cluster]'")

# A run that asks for nothing.
PLAIN = SimpleNamespace(config=SimpleNamespace(policies=(), store=SimpleNamespace(embedder="hash")))


def test_a_worker_that_does_not_see_the_folder_says_so(tmp_path):
    run = small_run(tmp_path, new_lm(ActingLM))
    with pytest.raises(ClusterError, match="cannot see the run's folder"):
        Worker(run, ".workers-1", 1, None).arrive(__version__)
    with pytest.raises(ClusterError, match=f"has lagkit {__version__}, and the run 0.0.1"):
        Worker(run, ".workers-1", 1, None).arrive("0.0.1")


def test_a_worker_that_sees_another_store_says_so(whole):
    run, _ = whole
    with run.store() as store:
        asking = Asking(None, "no_logs", None, run.config.limits)
        with pytest.raises(ClusterError, match=r"sees 6 logs in .*, and the run 7: workers have to share"):
            list(Worker(run, ".workers-1", 1, None).answer([], asking, store.path, len(store) + 1))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"count": 0}, "one worker at least"),
        ({"count": 1, "threads": 0}, "one thread or more"),
        ({"count": 1, "gpus": -1}, "cannot have -1 GPUs"),
        ({"count": 1, "gpus": 1.5}, "cannot have 1.5 GPUs"),
        ({"count": 1, "address": "ray://head:10001"}, "start the run on a node of the cluster"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        Workers(PLAIN, **settings)


def test_the_commands_of_the_page_are_understood(monkeypatch):
    page = (Path(__file__).parents[3] / "docs" / "cluster.md").read_text(encoding="utf-8").replace("\\\n", "")
    commands = re.findall(r"\blagkit ((?:run|encode) .*?)(?: +#.*)?$", page, re.MULTILINE)
    asked = []

    def stop(run, count, ray, *_):
        asked.append((count, ray))
        raise ConfigError("That is enough.")

    monkeypatch.setattr("lagkit.__main__._workers", stop)
    monkeypatch.setattr(
        "lagkit.__main__._experiment", lambda tier, pairs: SimpleNamespace(writing=nullcontext, **settings(pairs))
    )
    assert [main(shlex.split(command)) for command in commands] == [2] * 6
    assert asked == [(2, None), *[(8, "auto")] * 3, (32, "auto"), (8, "auto")]


def test_without_ray_it_is_named(monkeypatch):
    monkeypatch.setattr("lagkit.runs.workers.workers.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'lagkit\[cluster\]'"):
        Workers(PLAIN, 2)


def test_options_of_workers_need_workers(tmp_path, capsys):
    assert main(["run", "testbed", f"out={tmp_path / 'run'}", "--ray", "auto"]) == 2
    assert capsys.readouterr().err == "lagkit: --ray is for workers: say how many with --workers.\n"


def test_options_reach_the_workers(tmp_path, monkeypatch):
    given = []

    def record(run, count, **settings):
        given.append((run.out, count, settings))
        raise ConfigError("That is enough.")

    monkeypatch.setattr("lagkit.runs.workers.Workers", record)
    options = ["--workers", "2", "--ray", "auto", "--gpus-per-worker", "0.5", "--threads-per-worker", "3"]
    for command in ("run", "encode"):
        assert main([command, "testbed", f"out={tmp_path / 'run'}", *options]) == 2
    assert given == [(tmp_path / "run", 2, {"address": "auto", "gpus": 0.5, "threads": 3})] * 2


@pytest.mark.parametrize(
    ("cpus", "gpus", "count", "expected"),
    [([8], 0, 2, (0, 4)), ([8, 8], 0, 3, (0, 4)), ([2], 0, 4, (0, 1)), ([8, 8], 4, 4, (1, 1)), ([], 0, 1, (0, 1))],
)
def test_processors_and_gpus_are_shared_out(cpus, gpus, count, expected):
    nodes = [{"Alive": True, "Resources": {"CPU": c, "GPU": gpus / len(cpus)}} for c in cpus]
    nodes.append({"Alive": False, "Resources": {"CPU": 64, "GPU": 8}})
    workers = Workers(PLAIN, count)
    workers._share_out(nodes)
    assert (workers.gpus, workers.threads) == expected


def test_more_gpus_than_this_machine_has_are_refused():
    workers = Workers(PLAIN, 4, gpus=0.5)
    with pytest.raises(ConfigError, match=r"^This machine has 1 GPUs, and 4 workers want 0\.5 each"):
        workers._share_out([{"Alive": True, "Resources": {"CPU": 8, "GPU": 1}}])
