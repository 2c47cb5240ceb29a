"""A study's results as a page of Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import pandas as pd

from lagkit.datasets.loaders import Stratum
from lagkit.stats import metrics
from lagkit.stats.wording import interval
from lagkit.util.markdown import framed, table
from tools.provenance import listed, made_with
from tools.testbed.study import Study

_MAIN = "kv_last_round"


def markdown(study: Study) -> str:
    """The page: base quality, all variants, overlap, changed worlds, and what it was made with."""
    parts = [
        "# The testbed's claims, measured",
        _base(study),
        _variants(study),
        _forms(study),
        _worlds(study),
        _overlap(study),
        _changed(study),
        _made_with(study.made),
    ]
    return "\n\n".join(parts) + "\n"


def _base(study: Study) -> str:
    """What the agent can do without logs, by world."""
    plain = study.variants[study.variants["policy"] == "no_logs"]
    rows = []
    for world, given in study.given_all.groupby("world"):
        hops = given.groupby("hops")["em"].mean()
        none = study.given_none[study.given_none["world"] == world]
        loop, logs = plain[plain["world"] == world], study.logs[study.logs["world"] == world]
        rows.append(
            [
                world,
                *(_percent(hops.get(n)) for n in range(1, 5)),
                f"{_percent(none['em'].mean())} (chance {_percent(none['chance'].iloc[0])})",
                _percent(loop["em"].mean()),
                f"{loop['rounds'].mean():.2f}",
                _percent(loop["abstained"].mean()),
                f"{int(logs['right'].sum())} of {len(logs)}",
            ]
        )
    names = [
        "world",
        "1 hop",
        "2 hops",
        "3 hops",
        "4 hops",
        "no passage",
        "loop EM",
        "rounds",
        "no answer",
        "right logs",
    ]
    return (
        "## The base agent\n\n"
        "EM in percent on worlds that were drawn after training: in one round with all supporting passages and four "
        "others, by hops; forced to name something without any passage; and in the whole loop without logs.\n\n"
        + table(names, rows)
    )


def _variants(study: Study) -> str:
    """All variants over all worlds, each against no logs."""
    results = study.variants
    means = metrics.summarize(results).droplevel("split")
    differences = metrics.compare(results, study.hops).droplevel("split")
    base = means.loc["no_logs"]
    rows = []
    for policy, row in means.iterrows():
        against = ["", "", ""]
        if policy != "no_logs":
            em, rounds = (differences.loc[(policy, metric)] for metric in ("em", "rounds"))
            against = [interval(em, "em"), interval(rounds, "rounds"), f"{row['rounds'] / base['rounds']:.2f}"]
        costs = [f"{row[name]:.0f}" for name in ("prefilled", "injected", "generated")]
        rows.append([f"`{policy}`", _percent(row["em"]), against[0], f"{row['rounds']:.2f}", *against[1:], *costs])
    names = ["variant", "EM", "against no_logs", "rounds", "against no_logs", "share of its rounds"]
    count = f"{results['world'].nunique()} worlds, {means['n'].iloc[0]} unseen questions"
    return (
        f"## All variants ({count})\n\n"
        "EM in percent, differences in points with 95% intervals, paired by question, in which questions that share a "
        "hop count as dependent. Tokens are means per question.\n\n"
        + table([*names, "prefilled", "injected", "generated"], rows)
    )


def _forms(study: Study) -> str:
    """The authors' variant against every other form in which the same logs can be handed over."""
    forms = study.variants[study.variants["policy"] != "no_logs"]
    columns = {f"EM against `{_MAIN}`": (forms, "em"), f"rounds against `{_MAIN}`": (forms, "rounds")}
    return (
        "## The form of the log\n\nThe same logs as text, encoded without what stood before them (`kv_block`), behind "
        "the context of another log (`kv_stranger`) or neutral words (`kv_filler`), cut shorter or left longer, each "
        f"against `{_MAIN}`.\n\n" + _against(columns, study, _MAIN)
    )


def _worlds(study: Study) -> str:
    """Differences in EM to no logs, by world."""
    columns = {f"world {world}": (part, "em") for world, part in study.variants.groupby("world")}
    return f"## EM against no_logs, world by world\n\n{_against(columns, study)}"


def _overlap(study: Study) -> str:
    """Differences in EM and rounds to no logs, by what a question shares with the logged ones."""
    strata = dict(list(study.variants.groupby("overlap")))
    named = {
        f"{name} ({strata[name]['question_id'].nunique()})": strata[name]
        for name in get_args(Stratum)
        if name in strata
    }
    em, rounds = ({name: (part, metric) for name, part in named.items()} for metric in ("em", "rounds"))
    return (
        "## EM and rounds against no_logs, by overlap\n\n"
        "By the hops that a question shares with the log-store questions (and the number of such questions). EM:\n\n"
        f"{_against(em, study)}\n\nRounds:\n\n{_against(rounds, study)}"
    )


def _changed(study: Study) -> str:
    """Differences to no logs in worlds that have changed since the logs were made."""
    columns = {}
    for other, part in study.changed.groupby("other"):
        base = _percent(part[part["policy"] == "no_logs"]["em"].mean())
        name = "another answer now" if other else "the same answer"
        columns[f"{name} ({part['question_id'].nunique()}; no_logs {base})"] = part, "em"
    return (
        "## Logs of a world that has changed\n\n"
        "EM against no_logs when facts were changed after the logs were made, by whether a question's answer changed "
        "with them.\n\n" + _against(columns, study)
    )


def _against(parts: Mapping[str, tuple[pd.DataFrame, str]], study: Study, baseline: str = "no_logs") -> str:
    """A table of differences to the baseline: a row per variant, a column per part of the results and its metric."""
    columns = {}
    for name, (part, metric) in parts.items():
        found = metrics.compare(part, study.hops, baseline).droplevel("split")
        columns[name] = {
            policy: interval(found.loc[(policy, metric)], metric) for policy in found.index.unique("policy")
        }
    frame = pd.DataFrame(columns).rename("`{}`".format)
    return framed(frame, {name: (name, "") for name in frame}, "variant")


def _made_with(made: Mapping[str, Any]) -> str:
    """Code, versions, and the settings of the runs and of the worlds."""
    return (
        f"## Made with\n\n{made_with('make study', made['versions'], made['git'])}\n\nEach run:\n\n"
        f"{listed(made['settings'])}\n\nEach world:\n\n{listed(made['world'])}"
    )


def _percent(share: float | None) -> str:
    return "" if share is None or pd.isna(share) else f"{100 * share:.1f}"
