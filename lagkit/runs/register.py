"""Register extensions from a notebook: a way to keep tokens, a data set, an embedder or a metric, by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any, Literal, TypeVar, get_args

from lagkit.datasets.layouts import LAYOUTS
from lagkit.datasets.loaders import LOADERS
from lagkit.logs import retrieve
from lagkit.model import hub
from lagkit.policy import KEEPS, Keep, Variant
from lagkit.runs.config import RunConfig
from lagkit.stats.metrics import COSTS, METRICS, SCORES
from lagkit.util.code import digest
from lagkit.util.errors import ConfigError

Kind = Literal["keep", "data", "embedder", "metric"]
Function = TypeVar("Function", bound=Callable[..., Any])


_COLUMNS = ("policy", "split", "question_id", "answer", "rounds", "abstained", "abstention", "confidence", "failed")
# By kind: what is registered, and lagkit's own names.
_PLACES: dict[str, tuple[dict[str, Any], Collection[str]]] = {
    "keep": (KEEPS, get_args(Keep)),
    "data": (LOADERS, LAYOUTS),
    "embedder": (retrieve.EMBEDDERS, ("hash", *hub.EMBEDDERS)),
    "metric": (METRICS, (*SCORES, *COSTS, *_COLUMNS, "error", "failures", "cost", "n")),
}


def register(kind: Kind, name: str, function: Function) -> Function:
    """Register a function under a name, for this process; see docs/extending.md. Returns the function.

    kind: `keep`, from a Trace to spans `(start, stop)` of characters, a sequence of them for each round: then
    `kv_NAME` and `text_NAME` are policies. `data`, from a folder (Path) to a `datasets.loaders.Dataset`: then
    `dataset=NAME` reads it. `embedder`, without arguments, to an Embedder: then `embedder=NAME` has it. `metric`, from
    a Question, its answer (None where there is none) and the last response to a score from 0 to 1: then it is a column
    of results, summaries and differences.

    A name that is registered already has the new function from then on. Raises ConfigError for an unknown kind, a name
    that is lagkit's own or no word of small letters, digits and `_`, and for what is no function.
    """
    if kind not in _PLACES:
        raise ConfigError(f"Nothing of the kind {kind!r} can be registered: choose one of {', '.join(_PLACES)}.")
    registered, taken = _PLACES[kind]
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ConfigError(f"{name!r} is no name to register: use small letters, digits and _, a letter first.")
    if name in taken:
        raise ConfigError(f"{name!r} is lagkit's own {kind}: choose another name than {', '.join(taken)}.")
    if not callable(function):
        raise ConfigError(f"What is registered as {name!r} is a {type(function).__name__}: give a function.")
    if kind == "keep":
        try:
            digest(function)
        except TypeError as error:
            raise ConfigError(f"{error}, whose code would tell its blocks from others: define one with def.") from error
    registered[name] = function
    return function


def refuse_elsewhere(config: RunConfig) -> None:
    """Raise ConfigError where a run uses what other processes, its workers, cannot know."""
    policies = [Variant.parse(name).policy for name in config.policies]
    used = [f"keep {policy.keep}" for policy in policies if policy and policy.keep in KEEPS]
    used += [f"embedder {config.store.embedder}"] if config.store.embedder in retrieve.EMBEDDERS else []
    if used:
        raise ConfigError(
            f"Workers are other processes and cannot know what is registered in this one ({', '.join(used)}): run "
            "without workers."
        )
