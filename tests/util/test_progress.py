"""Progress: who sees a bar, who sees lines, and how many."""

from __future__ import annotations

import itertools
import sys

import pytest

import lagkit.util.progress
from lagkit.util.errors import ConfigError
from lagkit.util.progress import Progress, progress, progress_mode, say


@pytest.fixture
def lines(monkeypatch, capsys):
    monkeypatch.setenv("LAGKIT_PROGRESS", "lines")
    return lambda: capsys.readouterr().err.splitlines()


@pytest.fixture
def clock(monkeypatch):
    """A clock that each look moves on by a second."""
    ticks = itertools.count()
    monkeypatch.setattr(lagkit.util.progress.time, "monotonic", lambda: float(next(ticks)))


def test_unknown_mode_is_an_error(monkeypatch):
    monkeypatch.setenv("LAGKIT_PROGRESS", "bars")
    with pytest.raises(ConfigError, match="LAGKIT_PROGRESS is 'bars'; set it to one of bar, lines, off, or unset it"):
        progress_mode()


@pytest.mark.parametrize(("tty", "mode"), [(True, "bar"), (False, "lines")])
def test_a_bar_needs_a_terminal(monkeypatch, tty, mode):
    monkeypatch.delenv("LAGKIT_PROGRESS")
    monkeypatch.setattr(lagkit.util.progress, "_kernel", lambda: None)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: tty)
    assert progress_mode() == mode


@pytest.mark.parametrize(("asks", "mode"), [(True, "bar"), (False, "lines")])
def test_a_headless_kernel_gets_lines(monkeypatch, asks, mode):
    class Kernel:
        def get_parent(self):
            return {"content": {"allow_stdin": asks}}

    monkeypatch.delenv("LAGKIT_PROGRESS")
    monkeypatch.setattr(lagkit.util.progress, "_kernel", Kernel)
    assert progress_mode() == mode


def test_lines_are_few_and_end_with_the_last_step(lines, clock):
    assert list(progress(range(200), "encoding")) == list(range(200))
    said = lines()
    assert len(said) == 10
    assert said[0].startswith("encoding: 20 of 200, ")
    assert said[-1].startswith("encoding: 200 of 200, ")


def test_unknown_total_counts_without_one(lines, clock):
    assert list(progress(iter("abc"), "reading")) == ["a", "b", "c"]
    assert lines() == ["reading: 3, 5 s"]


def test_short_work_says_nothing(lines):
    assert list(progress("abc", "quick")) == ["a", "b", "c"]
    assert lines() == []


def test_a_failure_still_says_how_far_it_came(lines, clock):
    def stop_after_two():
        with Progress("runs", 5) as shown:
            shown.update(2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_after_two()
    assert lines() == ["runs: 2 of 5, 3 s"]


def test_off_is_silent(capsys):
    list(progress(range(3), "silent"))
    say("nothing")
    assert capsys.readouterr() == ("", "")


def test_bar_shows_the_total(monkeypatch, capsys):
    monkeypatch.setenv("LAGKIT_PROGRESS", "bar")
    monkeypatch.setattr(lagkit.util.progress, "_QUIET_SECONDS", 0.0)
    assert list(progress([1, 2], "drawn")) == [1, 2]
    assert "/2 [" in capsys.readouterr().err


def test_a_bar_goes_when_the_work_is_done(monkeypatch, capsys):
    monkeypatch.setenv("LAGKIT_PROGRESS", "bar")
    monkeypatch.setattr(lagkit.util.progress, "_QUIET_SECONDS", 0)
    with Progress("Encoding logs", 2) as shown:
        shown.update()
        shown.update()
    drawn = capsys.readouterr().err
    assert "Encoding logs" in drawn
    assert drawn.rsplit("\r", 2)[-2:] == [" " * len(drawn.rsplit("\r", 2)[1]), ""]
