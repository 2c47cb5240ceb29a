"""A cluster that cannot be had is told in a sentence."""

from __future__ import annotations

import pytest

from lagkit.runs.workers import Workers
from lagkit.util.errors import ClusterError
from tests.helpers.lms import small_run

pytest.importorskip("ray", reason="needs Ray: pip install 'lagkit[cluster]'")


def test_a_ray_that_does_not_start_is_told_in_a_sentence(tmp_path, monkeypatch):
    """Ray raises exceptions of no class of its own, with advice in many lines."""

    def init(*_: object, **settings: object) -> None:
        raise Exception("The current node timed out during startup. This\ncould happen because it failed.")

    monkeypatch.setattr("ray.init", init)
    said = r"^The Ray cluster 'local' cannot be used \(The current node timed out during startup\. This\)\.$"
    with pytest.raises(ClusterError, match=said), Workers(small_run(tmp_path, None), 1):
        pass
