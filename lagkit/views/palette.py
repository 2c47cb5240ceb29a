"""The colours of all figures by what they mean, names that people read, and the light and the dark template."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio

from lagkit.policy import POLICIES, Policy, get_policy
from lagkit.util.errors import ConfigError

# Each has a contrast of 3 and more to white and to the dark pages, and those that stand beside each other differ
# for colour-blind eyes, too (tests/views/test_palette.py).
NONE, KV, TEXT, NOTES, COPY = "#7d7d7d", "#2c89cb", "#ea6a16", "#a92ffe", "#9f5431"
UNSEEN, SEEN = "#656d9f", "#987f30"
GAIN, LOSS = "#029e6f", "#e50713"
NEUTRAL = NONE  # of lines that mark a level
SERIES = [KV, TEXT, NOTES, COPY, GAIN, UNSEEN, SEEN, LOSS]  # where colours mean nothing but "another one"
DASHES = ["solid", "dot", "dash", "dashdot", "longdash"]
WHITE, DARK = "#ffffff", "#111111"  # what figures are drawn on

_FORMS = {None: NONE, "kv": KV, "text": TEXT, "cheatsheet": NOTES, "copy": COPY}
_INJECTED = {"kv": "KV", "text": "text", "cheatsheet": "notes", "copy": "copied answer"}
_MEANT = {
    "no logs": NONE,
    "keys and values": KV,
    "unseen": UNSEEN,
    "static": UNSEEN,  # a store that does not grow
    "seen": SEEN,
    "right": GAIN,
    "wrong": LOSS,
    "not judged": NEUTRAL,
    "wrong to right": GAIN,
    "right to wrong": LOSS,
    **{name: _FORMS[form] for form, told in _INJECTED.items() for name in (form, told)},
}
_READ = {
    "conversation": "read with its conversation",
    "kept": "read alone",
    "stranger": "read behind another log",
    "filler": "read behind filler",
}
_NAMES = re.compile(rf"(?<![\w/])(?:{'|'.join(sorted(POLICIES, key=len, reverse=True))})(?![\w/])")
_PLACED = {"prefix": "behind the head", "user_turn": "in the user turn"}


def colour(name: object) -> str | None:
    """The colour of a variant, a form of logs, a split or an outcome; None for what has none of its own."""
    known, policy = _policy(str(name))
    return _MEANT.get(str(name)) or (_FORMS[policy.inject if policy else None] if known else None)


def colours(names: Iterable[object]) -> dict[str, str]:
    """A colour for each name: its own, or the next of `SERIES` that no other name bears."""
    listed = [str(name) for name in dict.fromkeys(names)]
    own = {name: found for name in listed if (found := colour(name))}
    free = [other for other in SERIES if other not in own.values()] or SERIES
    others = [name for name in listed if name not in own]
    return {name: own.get(name) or free[others.index(name) % len(free)] for name in listed}


def dashes(names: Iterable[object]) -> dict[str, str]:
    """A dash for each name: another one for each further name of the same colour."""
    chosen = pd.Series(colours(names), dtype=object)
    return {name: DASHES[number % len(DASHES)] for name, number in chosen.groupby(chosen).cumcount().items()}


def readable(name: object) -> str:
    """A variant's name for people (`KV, last round`); any other text as it is."""
    known, policy = _policy(str(name))
    if not known:
        return str(name)
    changes = [change.replace("_", " ").replace("=", " ") for change in str(name).split("+")[1:]]
    return ", ".join([*(_words(str(name), policy) if policy else ["no logs"]), *changes])


def reworded(text: str) -> str:
    """A text in which each variant that is named in code is called as people read it."""
    return _NAMES.sub(lambda found: readable(found[0]), text)


def _words(name: str, policy: Policy) -> list[str]:
    keep = [] if policy.inject in ("copy", "cheatsheet") else [policy.keep.replace("_", " ")]
    read = [_READ[policy.encode]] if policy.encode in _READ else []
    place = [_PLACED[policy.place]] if policy.place in _PLACED and policy.inject != "cheatsheet" else []
    before = [] if policy.before == "usual" else [f"encoded behind {policy.before}"]
    authors = ["as published"] if name.startswith("authors_") else []
    return [_INJECTED[policy.inject], *keep, *read, *place, *before, *authors]


def _policy(name: str) -> tuple[bool, Policy | None]:
    """Whether a text is a variant's name, and its policy."""
    try:
        return True, get_policy(name)
    except ConfigError:
        return False, None


def _template(base: str, page: str, ink: str, grid: str, zero: str) -> go.layout.Template:
    template = go.layout.Template(pio.templates[base])
    axis = {"gridcolor": grid, "linecolor": zero, "zerolinecolor": zero, "tickcolor": zero}
    template.layout.update(
        colorway=SERIES, font_color=ink, paper_bgcolor=page, plot_bgcolor=page, xaxis=axis, yaxis=axis
    )
    return template


TEMPLATES = {
    "light": _template("plotly_white", WHITE, "#24292f", "#e6e9ed", "#b9c0c8"),
    "dark": _template("plotly_dark", DARK, "#e4e8ee", "#2d333b", "#59626d"),
}
