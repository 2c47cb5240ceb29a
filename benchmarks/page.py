"""`python -m benchmarks.page`: docs/results/scale.md from the results of the other commands, each named with them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from benchmarks.race_page import race
from benchmarks.targets import TARGETS
from lagkit.util.markdown import table
from lagkit.util.paths import at
from lagkit.views.plots.scale import good_enough

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "results" / "scale.md"
Result = dict[str, Any]

OPENING = """# Speed and scale

Written by `python -m benchmarks.page` from [`benchmarks/results/`](../../benchmarks/results), a file for each command;
`make bench` runs them, but for the processor without fast bfloat16, and this one. Where it was measured stands below
each table. Goals are the project's own. Figures are in [notebook 13](../gallery/13_scale.ipynb). What faults leave
behind is in [`faults.md`](faults.md), what fewer bits cost in [`codec.md`](codec.md).
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__)
    parser.add_argument("--results", type=at, default=RESULTS)
    parser.add_argument("--page", type=at, default=PAGE)
    args = parser.parse_args(argv)
    args.page.write_text(markdown(args.results), encoding="utf-8")


def markdown(results: Path) -> str:
    """The page of a folder of results; a section whose file is not there says so."""
    parts = [OPENING]
    for title, name, command, section in SECTIONS:
        parts += [f"## {title}\n", f"`{command}`\n"]
        path = results / f"{name}.json"
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            parts += [*section(found, results), _made(found)]
        else:
            parts.append("Not measured yet.\n")
    return "\n".join(parts)


def _targets(found: Result, _: Path) -> Iterator[str]:
    rows = []
    for key, (bound, kind) in TARGETS.items():
        row = found[key]
        sizes = ", ".join(f"{name} {value}" for name, value in row["sizes"].items())
        rows.append([f"`{key}`", f"{row['value']:.4g}", f"{kind} {bound:g}", "yes" if row["met"] else "**no**", sizes])
    yield table(["what", "value", "goal", "met", "measured at"], rows)
    for key in ("inject_over_prefill", "inject_over_prefill_qwen"):
        cold, hot = found[key], found[f"{key}_hot"]
        yield (
            f"\nInjecting three logs of 150 tokens into {cold['sizes']['model']} takes {hot['inject_ms']:.1f} ms when "
            f"they are in memory, re-aligned, and {cold['inject_ms']:.1f} ms from a closed store, checksums included; "
            f"reading their text takes {cold['prefill_ms']:,.0f} ms."
        )
    yield ""


def _limits(found: Result, _: Path) -> Iterator[str]:
    yield (
        "What a pass could take at best, the model's matrix products alone for as many rows, and what it takes: the "
        "whole forward pass, caches, masks and the choice of the next token included.\n"
    )
    rows = []
    for row in found["rows"]:
        met = "yes" if row["share"] >= row["goal"] else "**no**"
        times = [f"{1e3 * row[key]:,.1f}" for key in ("limit_s", "took_s")]
        shares = [f"{row['share']:.0%}", f"{row['goal']:.0%}", met]
        rates = [f"{row['tokens_per_s']:,.1f}", f"{row['gflops']:,.0f}", f"{row['gb_per_s']:.1f}"]
        rows.append([f"{row['model']} ({row['dtype']})", row["pass"], *times, *shares, *rates])
    yield table(
        [
            *("model", "tokens of a pass", "limit, ms", "took, ms", "share", "goal", "met", "tokens/s"),
            *("products, GFLOP/s", "weights, GB/s"),
        ],
        rows,
    )
    for model, told in found["profiles"].items():
        spent = ", ".join(f"`{name}` {share:.0%}" for name, share in told.items())
        yield f"\nDecoding of 16 rows, {model}, where the time goes: {spent}."
    yield ""


def _upcast(found: Result, _: Path) -> Iterator[str]:
    yield (
        "Where torch multiplies bfloat16 much slower than float32, linear layers multiply in float32, a piece of the "
        "weights at a time: whole passes, beside torch's own bfloat16 products alone for as many rows.\n"
    )
    rows = [
        [
            row["model"],
            row["pass"],
            *(f"{1e3 * row[key]:,.0f}" for key in ("took_s", "torch_s")),
            f"{row['tokens_per_s']:,.1f}",
        ]
        for row in found["rows"]
        if "torch_s" in row
    ]
    if not rows:
        yield "This processor multiplies bfloat16 fast enough: torch's own products are used.\n"
        return
    yield table(["model", "tokens of a pass", "took, ms", "torch's products, ms", "tokens/s"], rows)
    yield ""


def _embed(found: Result, _: Path) -> Iterator[str]:
    yield (
        "Passages embedded on the way of a run, by length, in batches, through an empty cache; the limit is the "
        "embedder's matrix products alone for as many tokens. `cached` is once more, from the cache.\n"
    )
    rows = [
        [
            *(row["embedder"], row["data"], f"{row['passages']:,}", f"{row['tokens']:,}"),
            *(f"{row[key]:,.1f}" for key in ("limit_s", "took_s")),
            *(
                f"{row['share']:.0%}",
                f"{row['cached_s']:.2f}",
                f"{row['passages_per_s']:,.0f}",
                f"{row['gflops']:,.0f}",
            ),
        ]
        for row in found["rows"]
    ]
    yield table(
        [
            *("embedder", "data", "passages", "tokens", "limit, s", "took, s", "share", "cached, s", "passages/s"),
            "products, GFLOP/s",
        ],
        rows,
    )
    yield ""


def _planner(found: Result, _: Path) -> Iterator[str]:
    yield "Load a log's KV, or compute it again? The sooner way, and how many times sooner; `kept of read` tokens.\n"
    decisions = pd.DataFrame(found["decisions"])
    for model, own in decisions.groupby(decisions["log"].str.partition(",")[0], sort=False):
        logs = list(dict.fromkeys(own["log"]))
        cells = {(row.place, row.log): f"{row.way} {row.gain:.1f}" for row in own.itertuples()}
        rows = [[place, *(cells[place, log] for log in logs)] for place in dict.fromkeys(own["place"])]
        yield table([model, *(log.partition(", ")[2] for log in logs)], rows) + "\n"
    yield (
        "This machine is measured but for the networks, whose rates are round numbers; the H200 is reckoned from its "
        "maker's figures (`benchmarks/planner.py`), not measured.\n"
    )


def _search(found: Result, results: Path) -> Iterator[str]:
    best = good_enough(pd.DataFrame(found["rows"]))
    largest = [size for size in sorted(best["logs"].unique()) if size >= 10_000]
    rows = [
        [
            row.index_,
            f"{row.logs:,}",
            f"{row.recall:.4f}",
            f"{row.ms:.2f}",
            f"{row.batch_ms:.2f}",
            f"{row.build_s:.1f}",
            f"{row.memory_mb:,.0f}",
        ]
        for row in best.rename(columns={"index": "index_"}).sort_values(["logs", "ms"]).itertuples()
        if row.logs in largest
    ]
    yield (
        "FAISS's indexes over made-up embeddings with the distribution of real ones, each with the least effort that "
        "reaches a recall of 0.99 of the three nearest, or its best; one thread.\n"
    )
    yield table(["index", "logs", "recall@3", "one query, ms", "each of 32, ms", "build, s", "memory, MB"], rows)
    path = results / "search_store.json"
    if path.exists():
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        yield "\nThe store as a whole (`python -m benchmarks.search_store`); from 30,000 logs on it takes codes.\n"
        yield table(
            ["logs", "search", "open, ms", "first search, ms", "one query, ms", "recall@3", "memory, MB"],
            [
                [
                    f"{row['logs']:,}",
                    row["search"],
                    f"{row['open_ms']:.1f}",
                    f"{1e3 * row['first_search_s']:.0f}",
                    f"{row['ms']:.2f}",
                    f"{row['recall']:.3f}",
                    f"{row['memory_mb']:,.0f}",
                ]
                for row in rows
            ],
        )
    yield ""


def _stream(found: Result, _: Path) -> Iterator[str]:
    sizes, flat = found["sizes"], found["flat"]
    yield (
        f"{sizes['updates']:,} updates (search, read three blocks and inject them, add a log, evict the oldest) under "
        f"a cap of {sizes['cap_mb']:,.0f} MB, which binds after {sizes['binds']:,}: the first {sizes['window']:,} from "
        f"there on against the last. {found['problems']} problems were found by `verify` in the end, and "
        f"{found['wrong_searches']} wrong searches.\n"
    )
    names = {
        **{step: f"{step}, median ms" for step in ("search", "read", "add", "evict")},
        "search_over_scan": "search, over one of an index that does not change",
        "add_over_write": "add, over a synced write of as many bytes",
        **{"rss_mb": "memory of the process, MB", "store_mb": "store, MB", "wal_mb": "of it write-ahead log, MB"},
        "open_files": "open files",
    }
    rows = [
        [said, *(f"{flat[key][k]:.2f}" for k in ("first", "last")), *_changes(flat[key])]
        for key, said in names.items()
        if key in flat
    ]
    yield table(["", "first", "last", "change [95%]", "trend in 10,000 updates [95%]"], rows)
    yield ""


def _changes(row: Result) -> Iterator[str]:
    for key, low, high in (("change", "low", "high"), ("slope", "slope_low", "slope_high")):
        if row[low] == row[high] == 0:
            yield "none"  # the same count in every window: nothing is estimated
        else:
            places = 2 if max(abs(row[low]), abs(row[high])) >= 0.005 else 5  # no width is lost in rounding
            yield " ".join([f"{row[key]:+.{places}f}", f"[{row[low]:+.{places}f}, {row[high]:+.{places}f}]"])


def _cluster(found: Result, _: Path) -> Iterator[str]:
    settings = found["settings"]
    yield (
        f"The testbed's run of {settings['log_questions']} log questions and as many of each split, in this process "
        "and by workers of a local Ray cluster on the same two cores, one thread each; traces, logs and KV are "
        "compared, bit by bit, before the clock is believed.\n"
    )
    rows = []
    for count, runs in found["seconds"].items():
        took = {key: median(run[key] for run in runs) for key in runs[0]}
        stages = [f"{took[stage]:.1f}" for stage in ("build", "encode", "answer")]
        speed_up = found["speed_up"][count]["all stages"]
        rows.append(
            [count if int(count) else "none", *stages, f"{speed_up:.2f}", f"{took['ray'] + took['models']:.1f}"]
        )
    yield table(["workers", "build, s", "encode, s", "answer, s", "times as fast", "before that: start, s"], rows)
    yield ""


def _lance(found: Result, _: Path) -> Iterator[str]:
    yield (
        f"A store in LanceDB on an S3 server on loopback (moto, in Python) against a folder, {found['logs']:,} logs, "
        f"{found['blocks']:,} with a block of {found['bytes of a block']:,} bytes; medians.\n"
    )
    yield table(
        ["", "folder", "S3 on loopback"],
        [[key, f"{value:,.2f}", f"{found['s3'][key]:,.2f}"] for key, value in found["folder"].items()],
    )
    rows = [[way, *(f"{row[k]:,.0f}" for k in ("copy, MB/s", "compare, MB/s"))] for way, row in found["copy"].items()]
    yield "\n" + table(["`store copy`", "copy, MB/s", "compare afterwards, MB/s"], rows) + "\n"


def _made(found: Result) -> str:
    if "workloads" not in found:
        return f"Measured on {_place(found.get('about', found))}.\n"
    places = pd.Series({name: f"{_place(own)}, {_runs(own)}" for name, own in found["workloads"].items()})
    told = [f"{', '.join(f'`{name}`' for name in own.index)}: {place}" for place, own in places.groupby(places)]
    return "Measured:\n\n" + "\n".join(f"- {line}" for line in told) + "\n"


def _runs(race: Result) -> str:
    ours, theirs = (min(len(row["runs"][side]) for row in race["sizes"].values()) for side in ("lagkit", "authors"))
    return f"{ours} run{'s' if ours > 1 else ''} of lagkit, {theirs} of the authors' procedure"


def _place(about: Result) -> str:
    machine, commit = about["machine"], (about.get("git") or {}).get("commit", "")[:8]
    gpu = f", {machine['gpu']}" if machine["gpu"] else ""
    vectors = f", {machine['vectors']}" if "vectors" in machine else ""
    at = f", commit {commit}" if commit else ""
    return f"{machine['cores']} cores, {machine['threads']} threads{vectors}{gpu}{at}"


Section = Callable[[Result, Path], Iterator[str]]
SECTIONS: tuple[tuple[str, str, str, Section], ...] = (
    (
        "Against the authors' procedure",
        "race",
        "python -m benchmarks.race --out benchmarks/results/race.json --data FOLDER_OF_MMLU_PRO",
        race,
    ),
    ("Targets", "targets", "python -m benchmarks.targets --out benchmarks/results/targets.json", _targets),
    (
        "Against the machine's limits",
        "limits",
        "python -m benchmarks.limits --out benchmarks/results/limits.json",
        _limits,
    ),
    (
        "Without fast bfloat16",
        "limits_upcast",
        "python -m benchmarks.limits --model qwen --out benchmarks/results/limits_upcast.json",
        _upcast,
    ),
    (
        "Embedding passages",
        "embed",
        "python -m benchmarks.embed --data FOLDER_OF_WIKIHOP --out benchmarks/results/embed.json",
        _embed,
    ),
    ("Load or recompute", "planner", "python -m benchmarks.planner --out benchmarks/results/planner.json", _planner),
    ("Search", "search", "python -m benchmarks.search --out benchmarks/results/search.json", _search),
    ("A long stream", "stream", "python -m benchmarks.stream --out benchmarks/results/stream.json", _stream),
    ("Cluster", "cluster", "python -m benchmarks.cluster --out benchmarks/results/cluster.json", _cluster),
    ("Store on an object store", "lance", "python -m benchmarks.lance --out benchmarks/results/lance.json", _lance),
)

if __name__ == "__main__":
    main()
