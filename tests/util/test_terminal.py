"""Text from data on a terminal: no escape sequence, no second line, nothing that turns or hides what stands there."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lagkit
from lagkit.__main__ import main
from lagkit.logs.header import Header
from lagkit.logs.retrieve import HashEmbedder
from lagkit.logs.store import LogStore
from lagkit.types import Round, Trace
from lagkit.util import progress
from lagkit.util.terminal import printable
from tests.helpers.nights import project
from tests.helpers.stores import kv

# Clears the screen, sets the title, moves up, an 8-bit sequence, a second line, overrides of direction, zero width.
ACTIVE = (
    "\x1b[2J\x1b]0;pwned\x07\x1b[1A\x9b31m\r\nforged line\u2028x\x85y\u202egnp.exe\u202c\u2066z\u200b\ufeff\x08\x7f"
)
CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def active(text: str) -> list[str]:
    """What in a text a terminal would not merely show, but for the ends of lines."""
    return [repr(c) for c in text if unicodedata.category(c) in CATEGORIES and c != "\n"]


@given(st.text(st.characters()))
def test_printable_text_is_one_line_of_characters_that_are_shown(text):
    assert active(printable(text)) == []
    assert "\n" not in printable(text)
    if unicodedata.is_normalized("NFC", text) and text.isprintable():
        assert printable(text) == text


def test_what_is_not_shown_is_spelled_out_and_writing_stays():
    assert printable("a\x1b[31mb\n\u202e\u200d\ud800") == r"a\x1b[31mb\n\u202e\u200d\ud800"
    assert printable("Zürich, 東京\u3000→ é\u0301 \\n") == "Zürich, 東京\u3000→ é\u0301 \\n"


@pytest.fixture
def hostile(tmp_path) -> Path:
    """A store in whose header, logs and block keys the text is."""
    embedder, path = HashEmbedder(64), tmp_path / "store"
    said = Round(ACTIVE, f"<ans>{ACTIVE}</ans>", ACTIVE)
    trace = Trace("q", f"Who{ACTIVE}?", ACTIVE, (said,), answer=ACTIVE)
    with LogStore.new(path, Header.new({"name": ACTIVE}, "hash-64", 64, "float32")) as store:
        store.add(trace, embedder.documents([trace.key])[0], {ACTIVE: kv(1)})
    return path


@pytest.mark.parametrize(("words", "lines"), [(["search", "Who"], 1), (["summary"], 7)])
def test_a_store_is_described_in_its_own_lines(hostile, capsys, words, lines):
    assert main(["store", words[0], str(hostile), *words[1:]]) == 0
    said = capsys.readouterr().out
    assert active(said) == []
    assert r"\x1b[2J" in said
    assert said.count("\n") == lines


def test_damage_is_told_in_its_own_lines(hostile, capsys):
    for file in hostile.glob("kv/*/*"):
        file.write_bytes(b"x")
    assert main(["store", "verify", str(hostile)]) == 1
    assert main(["store", "prune", str(hostile)]) == 0
    assert active(capsys.readouterr().out) == []


def test_errors_and_lines_of_progress_are_shown_as_text(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LAGKIT_PROGRESS", "lines")
    assert main(["run", f"{ACTIVE}.yaml", f"out={tmp_path}"]) == 2
    progress.say(ACTIVE)
    printed = capsys.readouterr()
    assert active(printed.out + printed.err) == []
    assert printed.err.count("\n") == 2


def test_a_night_tells_of_failures_as_text(tmp_path, capfd):
    cell = f"raise ValueError({ACTIVE!r})"
    path = project(tmp_path, [{"notebook": "bad"}], [("bad", cell)])
    assert main(["nightly", str(path), "--profile", "small", "--out", str(tmp_path / "out")]) == 2
    printed = capfd.readouterr()
    assert active(printed.out + printed.err) == []
    assert "forged line" in printed.out
    assert "bad failed: " in printed.out


def test_nothing_is_printed_by_another_way():
    found = {
        path.name for path in Path(lagkit.__file__).parent.rglob("*.py") if re.search(r"\bprint\(", path.read_text())
    }
    assert found == {"terminal.py"}
