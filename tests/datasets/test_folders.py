"""The loaders on folders that are wrong in one place, or unusual."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lagkit.datasets.loaders import load, overlap
from lagkit.logs.retrieve import HashEmbedder, PassageIndex
from lagkit.types import Hop, Passage
from lagkit.util.errors import ConfigError, DataError

MUSIQUE = {"id": "2hop__1_2", "question": "?", "answer": "Elbe", "answer_aliases": [], "question_decomposition": []}
STEP = {"id": 1, "question": "?", "answer": "Elbe"}
MMLU = {"question_id": 7, "question": "?", "options": ["x", "y"], "answer": "B", "category": "law"}
GPQA = {"question": "Which?", "choices": ["w", "x", "y", "z"], "answer": "y"}


def write(folder: Path, train, test=(), docs=None) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in (("dev_train", train), ("dev_test", test), ("dev_docs", {} if docs is None else docs)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_a_missing_folder_says_how_to_point_at_one(tmp_path):
    with pytest.raises(DataError, match=r"no data folder .*nowhere: give the path .* sample beside it comes with"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["dev_train.json", "dev_test.json", "dev_docs.json"])
def test_a_missing_file_is_named(tmp_path, name):
    (write(tmp_path / "musique", [MUSIQUE]) / name).unlink()
    with pytest.raises(DataError, match=f"{name} is missing"):
        load(tmp_path / "musique")


def test_an_unknown_layout_lists_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match="no data layout is called 'mine': give dataset= one of musique, wikihop"):
        load(write(tmp_path / "mine", [MUSIQUE]))
    assert load(tmp_path / "mine", "musique").seen[0].id == "2hop__1_2"


@pytest.mark.parametrize("content", [b'[{"id": ', b""])
def test_a_file_that_is_not_json_is_named(tmp_path, content):
    (write(tmp_path / "musique", []) / "dev_test.json").write_bytes(content)
    with pytest.raises(DataError, match=r"dev_test\.json is not valid JSON: "):
        load(tmp_path / "musique")


@pytest.mark.parametrize(
    ("dataset", "train", "message"),
    [
        ("musique", [MUSIQUE, {**MUSIQUE, "id": 5}], r"dev_train\.json, record 1 \(id 5\), key 'id': .*valid string"),
        ("musique", [{"id": "m", "question": "?"}], r"record 0 \(id 'm'\), key 'answer': Field required"),
        (
            "musique",
            [{**MUSIQUE, "question_decomposition": [STEP, {**STEP, "answer": None}]}],
            r"record 0 \(id '2hop__1_2'\), key 'question_decomposition\.1\.answer': .*valid string",
        ),
        ("musique", {"questions": []}, r"dev_train\.json: Input should be a valid (list|array)"),
        ("musique", ["?"], r"dev_train\.json, record 0: "),
        ("wikihop", [MUSIQUE], r"record 0 \(id '2hop__1_2'\), key '_id': Field required"),
        ("mmlupro", [{**MMLU, "answer": "C"}], r"record 0 \(id 7\): 'answer' is 'C', not a letter of its 2 options"),
        ("mmlupro", [{**MMLU, "answer": "AB"}], "'answer' is 'AB', not a letter"),
        ("gpqa", [GPQA, {**GPQA, "answer": "v"}], r"record 1: 'answer' is not the text of any of its choices"),
        ("musique", [MUSIQUE, MUSIQUE], r"'2hop__1_2' occurs a second time \(first in dev_train\.json\)"),
    ],
)
def test_a_record_of_another_shape_is_located(tmp_path, dataset, train, message):
    with pytest.raises(DataError, match=message):
        load(write(tmp_path / dataset, train))


def test_a_question_in_both_splits_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"dev_test\.json: .*'7' occurs a second time \(first in dev_train\.json\)"):
        load(write(tmp_path / "mmlupro", [MMLU], [MMLU]))


def test_a_passage_of_another_shape_is_located(tmp_path):
    write(tmp_path / "musique", [], docs={"elbe": {"title": "Elbe"}})
    with pytest.raises(DataError, match=r"dev_docs\.json, passage 'elbe', key 'content': Field required"):
        load(tmp_path / "musique")


def test_gpqa_answers_become_letters_and_ids_come_from_the_content(tmp_path):
    again = {**GPQA, "choices": ["y", "x", "w", "z"]}
    data = load(write(tmp_path / "gpqa", [GPQA], [again]))
    assert (data.kind, data.seen[0].choices, data.seen[0].answers) == ("choice", ("w", "x", "y", "z"), ("C",))
    assert data.unseen[0].answers == ("A",)
    assert data.seen[0].id != data.unseen[0].id
    assert load(tmp_path / "gpqa") == data  # the same ids every time


def test_options_that_read_the_same_are_all_right(tmp_path):
    twice = {"question": "Which?", "choices": ["y", "x", " y", "z"], "answer": "y"}
    assert load(write(tmp_path / "gpqa", [twice])).seen[0].answers == ("A", "C")
    again = {**MMLU, "options": ["y", "x", "y "], "answer": "C"}
    assert load(write(tmp_path / "mmlupro", [again])).seen[0].answers == ("C", "A")


def padded(value):
    """A record with white space around every text, seen and unseen, but for ids and letters."""
    if isinstance(value, str):
        return f"\n\u00a0{value}\t\u200b "
    return [padded(one) for one in value] if isinstance(value, list) else value


MARKED = {
    "musique": ({**MUSIQUE, "answer_aliases": ["Labe"], "question_decomposition": [STEP]}, "id question_decomposition"),
    "wikihop": (
        {"_id": "w", "type": "t", "question": "?", "answer": "Elbe", "evidences": [["Elbe", "mouth", "sea"]],
         "supporting_facts": [["Elbe", 0]]},
        "_id type",
    ),
    "mmlupro": (MMLU, "answer category"),
    "gpqa": (GPQA, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", MARKED)
def test_outer_white_space_is_no_part_of_a_text(tmp_path, name):
    """So that none betrays the right option, and a passage is found under its title."""
    record, plain = MARKED[name]
    marked = {key: value if key in plain.split() else padded(value) for key, value in record.items()}
    docs, marked_docs = None, None
    if name == "musique":
        docs = {"e": {"title": "Elbe", "content": "A\n river."}}
        marked_docs = {"e": {key: padded(text) for key, text in docs["e"].items()}}
        marked["question_decomposition"] = [{key: padded(value) for key, value in STEP.items()}]
    elif name == "wikihop":
        docs = {"Elbe": "A\n river."}
        marked_docs = {padded("Elbe"): padded("A\n river.")}
    as_it_is, trimmed = (
        load(write(tmp_path / which, [one], docs=passages), name)
        for which, one, passages in (("a", record, docs), ("b", marked, marked_docs))
    )
    assert trimmed == as_it_is


def test_titles_that_differ_by_white_space_alone_are_two_passages_of_one_name(tmp_path):
    data = load(write(tmp_path / "wikihop", [], docs={"Elbe": "A river.", " Elbe": "A ship."}))
    with pytest.raises(DataError, match="Two passages have the id 'Elbe'"):
        PassageIndex(data.passages, HashEmbedder())


def test_keys_that_are_not_needed_are_ignored_and_unknown_passages_are_none(tmp_path):
    steps = [{**STEP, "document_id": "elbe", "paragraph_support_idx": 3}, {**STEP, "id": 2, "document_id": "absent"}]
    record = {**MUSIQUE, "question_decomposition": steps, "answerable": True}
    data = load(write(tmp_path / "musique", [record], docs={"elbe": {"title": "Elbe", "content": "A river."}}))
    assert data.seen[0].hops == (Hop("1", "?", "Elbe", "elbe"), Hop("2", "?", "Elbe", None))


def test_wikihop_names_match_in_any_spelling_and_find_their_passages(tmp_path):
    def record(id: str, evidences: list[list[str]], titles: list[str], evidences_id: list[list[str]]) -> dict:
        facts = [[title, 0] for title in titles]
        return {"_id": id, "type": "comparison", "question": "?", "answer": "Lang", "evidences": evidences,
                "supporting_facts": facts, "evidences_id": evidences_id}  # fmt: skip

    spione = record("s", [["Spione", "director", "Fritz Lang"]], ["Spione (film)"], [["Q1", "director", "Q2"]])
    other = [["SPIONE", "director", "Fritz  Lang"], ["Mars", "colour", "red"], ["Mars (planet)", "moons", "two"]]
    docs = {"Spione (film)": "A film.", "Mars (planet)": "A planet."}
    data = load(write(tmp_path / "wikihop", [spione], [record("u", other, ["Mars (planet)", "Moon"], [])], docs))
    assert overlap(data.seen, data.unseen[0]) == "other"
    assert data.seen[0].hops[0].passage_id == "Spione (film)"  # one title a triple: by place
    assert [hop.passage_id for hop in data.unseen[0].hops] == [None, "Mars (planet)", "Mars (planet)"]  # by name
    assert data.passages[0] == Passage("Spione (film)", "Spione (film)", "A film.")
