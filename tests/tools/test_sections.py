"""Sections of a page of results: rows and what they were made with."""

from __future__ import annotations

import pandas as pd
import pytest

from lagkit.util import files
from tools import sections

ROWS = pd.DataFrame({"question_id": ["a"], "em": [1.0]})


@pytest.mark.parametrize("stopped", ["write_table", "write_json"])
def test_a_section_whose_writing_stops_is_not_there(tmp_path, monkeypatch, stopped):
    page = tmp_path / "page.md"

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(files, stopped, stop)
        with pytest.raises(KeyboardInterrupt):
            sections.save(page, "one", ROWS, {"seed": 1}, lambda _: "page")
    assert not [*sections.kept(tmp_path / "page")]
    sections.save(page, "one", ROWS, {"seed": 1}, lambda _: "page")
    [(name, rows, made)] = sections.kept(tmp_path / "page")
    assert (name, len(rows), made) == ("one", 1, {"seed": 1})
