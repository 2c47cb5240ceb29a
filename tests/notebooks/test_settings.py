"""Every parameter of every notebook changes what it says it changes; a parameter without such a test fails.

There are three levels. The syntax tree shows of every parameter that a later cell reads it, and not only to put it on
record. What decides which run is opened is looked up in that run, which the notebooks' own cells open. What comes later
is shown by running the cells up to there: here where that takes a moment, else in
`tests/notebooks/test_settings_slow.py`.
"""

from __future__ import annotations

import ast
import json
import shutil

import pytest
import torch

import lagkit as lag
from lagkit.studies import injection, support
from lagkit.util.errors import ConfigError
from tests.helpers import cells, lms
from tests.helpers.cells import NOTEBOOKS, PARAMETERS, WORLD, opened, run
from tests.helpers.covered import Covered
from tests.notebooks import test_settings_slow as slow

shows = Covered()
OPENING = sorted(name for name, known in PARAMETERS.items() if "tier" in known)
SHARED = ("tier", "data", "seed", "log_questions", "unseen_questions", "run")
QUICK = {"10_architectures": {"families": ["gpt2"], "models": ["testbed"], "dtypes": ["float32"], "timed": 16}}


def test_no_parameter_is_without_a_test():
    """`out` is where metrics.json goes, whose writer has tests of its own (`tests/views/test_lab.py`)."""
    found = {f"{name} {parameter}" for name, known in PARAMETERS.items() for parameter in known}
    shared = {f"{name} {parameter}" for name in OPENING for parameter in SHARED if parameter in PARAMETERS[name]}
    outs = {f"{name} out" for name in PARAMETERS}
    assert set(shows.names) | set(slow.shows.names) | shared | outs == found


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_parameter_is_read_and_not_only_put_on_record(name):
    """The first to use a name has to read it; `settings` and what `lab.conclude` gets behind `out` are a record."""
    read, written = set(), set()
    for cell in cells.cells(name)[1]:
        for statement in ast.parse(cell).body:
            record = {id(node) for part in _records(statement) for node in ast.walk(part)}
            used = [node for node in ast.walk(statement) if isinstance(node, ast.Name) and id(node) not in record]
            read |= {node.id for node in used if isinstance(node.ctx, ast.Load)} - written
            written |= {node.id for node in used if isinstance(node.ctx, ast.Store)}
    assert PARAMETERS[name].keys() <= read


def _records(statement: ast.stmt) -> list[ast.expr]:
    """The parts of a statement that only note what was given."""
    if isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", "") == "settings":
        return [statement.value]
    calls = [node for node in ast.walk(statement) if isinstance(node, ast.Call)]
    return [part for call in calls if getattr(call.func, "attr", "") == "conclude" for part in call.args[1:]]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_record_goes_to_out(name):
    calls = [node for cell in cells.cells(name)[1] for node in ast.walk(ast.parse(cell)) if isinstance(node, ast.Call)]
    [conclude] = [call for call in calls if getattr(call.func, "attr", "") == "conclude"]
    assert conclude.args[0].id == "out"


# The run that is opened


@pytest.fixture(scope="module")
def tier(tmp_path_factory):
    return cells.small_tier(tmp_path_factory.mktemp("tier"))


@pytest.fixture
def measured_once(monkeypatch):
    """Notebook 10 measures models before it opens a run: here each of them once."""
    known, measure = {}, support.measure

    def once(name, *given, **settings):
        if name not in known:
            known[name] = measure(name, *given, **settings)
        return known[name]

    monkeypatch.setattr(support, "measure", once)


@pytest.mark.parametrize("name", OPENING)
@pytest.mark.usefixtures("measured_once")
def test_the_run_is_the_one_that_the_parameters_name(name, tier, tmp_path):
    known, quick = PARAMETERS[name], dict(QUICK.get(name, {}))
    quick |= {"seen_questions": 2} if "seen_questions" in known else {}
    sizes = {size: 0 for size in ("log_questions", "unseen_questions") if size in known}
    base = opened(name, tier=tier, run=str(tmp_path / "a"), **sizes, **quick)
    smaller = {size: n for size, n in (("log_questions", 5), ("unseen_questions", 4)) if size in known}
    other_tier = cells.small_tier(tmp_path, passages=2)
    other = opened(name, tier=other_tier, seed=1, run=str(tmp_path / "b"), **smaller, **quick)
    assert (base.config.limits.passages, other.config.limits.passages) == (1, 2)
    assert (base.config.data.seed, other.config.data.seed) == (0, 1)
    assert not {p.text for p in base.data.passages} & {p.text for p in other.data.passages}
    assert [len(base.log_questions), len(other.log_questions)] == [WORLD["log_questions"], 5]
    assert len(base.questions("unseen")) == WORLD["unseen_questions"]
    assert len(other.questions("unseen")) == (4 if "unseen_questions" in known else WORLD["unseen_questions"])
    assert base.out.resolve().is_relative_to(tmp_path / "a")
    assert other.out.resolve().is_relative_to(tmp_path / "b")
    real = opened(name, tier=tier, data=str(lms.SAMPLE), run=str(tmp_path / "c"), **smaller, **quick)
    assert (real.data.name, real.config.data.world) == ("sample", None)
    again = opened(name, tier=tier, data=str(lms.SAMPLE), seed=1, run=str(tmp_path / "d"), **smaller, **quick)
    assert {q.id for q in real.log_questions} != {q.id for q in again.log_questions}


def test_a_stream_s_sizes_leave_the_tier_s_other_controls(tmp_path):
    """Notebook 09 draws a world of the size of its stream; how it is drawn is the tier's."""
    tier = cells.small_tier(tmp_path, world={**WORLD, "distractors": 0})
    found = opened("09_online_store", tier=tier, run=str(tmp_path / "run"), log_questions=6, unseen_questions=4)
    assert (found.config.data.world["entities"], found.config.data.world["distractors"]) == (90, 0)
    assert (len(found.data.seen), len(found.data.unseen)) == (6, 4)


@shows("02_compare_variants split", "02_compare_variants policies", "02_compare_variants baselines")
@shows("02_compare_variants focus", "02_compare_variants seen_questions")
def test_what_is_compared_in_02(tier, tmp_path):
    name = "02_compare_variants"
    every = opened(name, tier=tier, run=str(tmp_path / "a"), seen_questions=3).config
    assert {"kv_all_rounds", "cheatsheet", "no_logs+max_rounds=10"} <= set(every.policies)
    chosen = {
        "policies": ["kv_block", "kv_all_rounds"],
        "baselines": ["no_logs+passages=3"],
        "focus": "text_last_round",
    }
    some = opened(name, tier=tier, run=str(tmp_path / "b"), seen_questions=2, split="disjoint", **chosen)
    assert some.config.policies == ("no_logs", "kv_block", "kv_all_rounds", "no_logs+passages=3", "text_last_round")
    assert (len(some.questions("seen")), every.data.seen_questions) == (2, 3)
    logged = {hop.id for question in some.data.seen for hop in question.hops}
    assert not logged & {hop.id for question in some.data.unseen for hop in question.hops}


@shows("03_storage_ablation grid", "04_round_budget policies", "04_round_budget max_rounds")
@shows("05_attention_to_early_reasoning policy", "07_negative_transfer variants", "08_log_quality variants")
@shows("09_online_store policy", "11_text_only_models texts", "11_text_only_models kv")
@pytest.mark.parametrize(
    ("name", "given", "policies"),
    [
        ("04_round_budget", {"policies": ["kv_block"]}, {"no_logs", "kv_block"}),
        ("05_attention_to_early_reasoning", {"policy": "kv_last_action"}, {"no_logs", "kv_last_action"}),
        ("07_negative_transfer", {"variants": ["kv_block"]}, {"no_logs", "kv_block"}),
        ("08_log_quality", {"variants": ["kv_block"]}, {"no_logs", "kv_block"}),
        ("09_online_store", {"policy": "kv_block", "log_questions": 6, "unseen_questions": 4}, {"no_logs", "kv_block"}),
        (
            "11_text_only_models",
            {"texts": ["text_all_rounds_user_turn"], "kv": "kv_block", "unseen_questions": 4},
            {"no_logs", "text_all_rounds_user_turn", "kv_block"},
        ),
    ],
)
def test_variants_are_those_that_were_named(tier, tmp_path, name, given, policies):
    sizes = {"unseen_questions": 0} if "unseen_questions" in PARAMETERS[name] else {}
    assert set(opened(name, tier=tier, run=str(tmp_path / "a"), **{**sizes, **given}).config.policies) == policies
    if name == "04_round_budget":
        assert opened(name, tier=tier, run=str(tmp_path / "b"), max_rounds=3).config.limits.max_rounds == 3
        where = {"tier": tier, "run": str(tmp_path / "grid")}
        coarse, fine = (opened("03_storage_ablation", **where, grid=grid) for grid in (False, True))
        assert set(coarse.config.policies) < set(fine.config.policies)


# What is run up to where it shows


@shows("00_sanity_check model", "00_sanity_check embedder", "00_sanity_check dtype", "00_sanity_check seed")
def test_the_sanity_check_uses_its_model_its_embedder_and_its_seed(tmp_path):
    model = lms.saved(tmp_path / "tiny")
    small = run("00_sanity_check", "moves", model=str(model), embedder="hash-64")
    other = run("00_sanity_check", "lm", model="testbed", embedder="hash-32", dtype="bfloat16")
    assert [names["lm"].model.config.vocab_size == lms.VOCAB for names in (small, other)] == [True, False]
    assert [names["finder"].dim for names in (small, other)] == [64, 32]
    assert [names["lm"].dtype for names in (small, other)] == [torch.float32, torch.bfloat16]
    again = run("00_sanity_check", "conditions", model=str(model), embedder="hash-64", seed=1)
    wrong = [names["conditions"]["another fact's log"] for names in (small, again)]
    first, second = ([context.blocks[-1].ids.tolist() for context in contexts] for contexts in wrong)
    assert first != second


@shows("13_scale results", "13_scale model", "13_scale tokens", "13_scale repeats")
def test_scale_shows_the_results_of_its_folder_and_measures_its_model(tmp_path, monkeypatch):
    measured = []
    real = injection.measure
    monkeypatch.setattr(injection, "measure", lambda lm, **how: measured.append(how) or real(lm, **how))
    results = shutil.copytree(cells.FOLDER.parent / "benchmarks" / "results", tmp_path / "results")
    race = json.loads((results / "race.json").read_text(encoding="utf-8"))
    kept = next(iter(race["workloads"]))
    race["workloads"] = {kept: race["workloads"][kept]}
    (results / "race.json").write_text(json.dumps(race), encoding="utf-8")
    model, out = lms.saved(tmp_path / "tiny"), tmp_path / "out"
    names = run("13_scale", results=str(results), model=str(model), tokens=7, repeats=2, out=str(out))
    assert {key.split(".")[1] for key in cells.metrics(out) if key.startswith("speedup.")} == {kept.replace(" ", "_")}
    assert measured == [{"tokens": 7, "repeats": 2}]
    assert names["lm"].model.config.vocab_size == lms.VOCAB
    assert [log.rpartition(", ")[2] for log in names["here"]["log"]] == ["7 of 7 tokens", "7 of 70 tokens"]


@shows("14_competing_logs model", "14_competing_logs dtype", "14_competing_logs groups", "14_competing_logs seed")
@shows("14_competing_logs first", "14_competing_logs data", "14_competing_logs results")
def test_competing_logs_measures_its_model_or_shows_the_rows_of_its_folder(tmp_path):
    model, out, folder = lms.saved(tmp_path / "tiny"), tmp_path / "out", tmp_path / "rows"
    drawn = {"groups": 2, "seed": 3, "first": 1}
    measured = run("14_competing_logs", "table", model=str(model), dtype="bfloat16", **drawn, out=str(out))
    assert (measured["lm"].dtype, measured["lm"].model.config.vocab_size) == (torch.bfloat16, lms.VOCAB)
    assert [*measured["rows"]["group"].unique()] == ["3-000-film", "3-001-novel"]
    assert len(measured["rows"]) == 2 * 9  # one condition
    real = run(
        "14_competing_logs",
        "table",
        model=str(model),
        data=str(_two_steps(tmp_path / "wikihop")),
        out=str(tmp_path / "o"),
    )
    assert {*real["rows"]["model"]} == {f"{model}, wikihop"}
    folder.mkdir()
    measured["rows"].to_parquet(folder / "tiny.parquet")
    shown = run("14_competing_logs", "table", results=str(folder))
    assert shown["rows"].equals(measured["rows"])


def _two_steps(folder):
    """A data folder of 2Wiki's layout with six questions, of two steps each."""
    folder.mkdir()
    records = [
        {"_id": f"{n}", "type": "compositional", "question": f"Where was the director of Film {n} born?"}
        | {"answer": f"Town {n}", "supporting_facts": [[f"Film {n}", 0], [f"Person {n}", 0]]}
        | {"evidences": [[f"Film {n}", "director", f"Person {n}"], [f"Person {n}", "place of birth", f"Town {n}"]]}
        for n in range(6)
    ]
    for name, some in (("dev_train", records[:3]), ("dev_test", records[3:])):
        (folder / f"{name}.json").write_text(json.dumps(some), encoding="utf-8")
    (folder / "dev_docs.json").write_text(json.dumps({"Film 0": "A film."}), encoding="utf-8")
    return folder


def test_a_count_of_none_is_refused_before_anything_is_done(tmp_path, monkeypatch):
    """Numbers and lists of which 0 or nothing has no meaning of its own; those that have one say so (`0: ...`)."""
    monkeypatch.setattr(lag, "open_run", lambda *_, **__: pytest.fail("a run was opened"))
    refused = []
    for name in NOTEBOOKS:
        for parameter, nothing in _counts(name):
            given = {parameter: nothing, "out": str(tmp_path / "out")}
            with pytest.raises(ConfigError, match=rf"Nothing could be shown with {parameter} = .*: give "):
                run(name, **given)
            refused.append(f"{name} {parameter}")
    assert {"01_build_logs timed", "06_position_realignment dtypes", "09_online_store parts"} <= set(refused)
    assert len(refused) == 2 * 14 + 11


def _counts(name):
    """Parameters that count or list something, with values for none of it."""
    for line in cells.cells(name)[0].splitlines():
        parameter, _, rest = line.partition(":")
        kind, comment = PARAMETERS[name][parameter], rest.partition("#")[2]
        if parameter in ("seed", "look_at") or "0:" in comment or "empty:" in comment:
            continue
        nothing = {int: (0, -1), list: ([],)}
        yield from ((parameter, value) for value in nothing.get(kind, ()))


def test_a_model_of_no_endpoint_is_refused(tier, tmp_path):
    """Notebook 11: what serves itself serves the tier's model."""
    with pytest.raises(ConfigError, match="`model` is the name of a model at an `endpoint`: give that too"):
        run("11_text_only_models", "experiment", tier=tier, run=str(tmp_path / "run"), model="m", unseen_questions=4)
