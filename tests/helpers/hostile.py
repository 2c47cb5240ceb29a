"""What a stranger may write in place of a value, and what may become of it: success, or a sentence of lagkit's."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import strategies as st

from lagkit.util.errors import LagkitError

leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
values = st.recursive(
    leaves | st.just("\ud800") | st.sampled_from([10**30, -1, 10**400, "../x", "", "log1-"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)


def spots(value, path=()):
    """The paths to all parts of a JSON value."""
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from spots(value[key], (*path, key))


@st.composite
def altered(draw, value):
    """A JSON value in which one or two parts are something else, missing or new."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 2))):
        *way, last = draw(st.sampled_from([path for path in spots(value) if path] or [(None,)]))
        if last is None:
            return draw(values)
        part = value
        for key in way:
            part = part[key]
        what = draw(st.sampled_from(["replace", "remove", "add"]))
        if what == "remove":
            del part[last]
        elif what == "add" and isinstance(part, dict):
            part[draw(st.text(max_size=6))] = draw(values)
        else:
            part[last] = draw(values)
    return value


def as_json(value) -> bytes:
    """As Python writes it: NaN and lone surrogates too."""
    return json.dumps(value).encode()


@contextmanager
def taken_or_refused(error: type[LagkitError], words: object) -> Iterator[None]:
    """What is done inside succeeds, or is refused with a sentence that holds `words`; no other error gets out."""
    try:
        yield
    except error as refusal:
        if str(words) not in str(refusal) or not str(refusal).strip():
            raise AssertionError(f"{words} is not in {refusal}") from refusal
