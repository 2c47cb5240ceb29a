"""Share of KV's gain that text recovers: a run with a local model and one behind an API."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pandas as pd

from lagkit.model.api.endpoint import Endpoint
from lagkit.model.api.model import APIModel
from lagkit.model.api.requests import Requests
from lagkit.model.api.serving import serving
from lagkit.model.backend import API
from lagkit.policy import Variant, chat_refusal
from lagkit.runs import manifest
from lagkit.runs.config import RunConfig
from lagkit.runs.experiment import Experiment
from lagkit.stats.intervals import Hops, paired_intervals
from lagkit.types import Limits
from lagkit.util.errors import ConfigError


def reached(
    local: Experiment, endpoint: str, model: str, *, per_minute: int, input_price: float, output_price: float
) -> AbstractContextManager[APIModel]:
    """A block with a model behind an API: what `endpoint` calls `model`, or, where that is empty, a server of our own.

    The server has the model of the run `local`, and ends with the block. per_minute: requests at most, 0 for no limit.
    Prices are of a million tokens. Raises ConfigError for a model without an endpoint, and what `Endpoint.find` raises.
    """
    requests = Requests(per_minute=per_minute or None, input_price=input_price, output_price=output_price)
    if endpoint:
        return nullcontext(APIModel(model, endpoint=Endpoint.find(endpoint), requests=requests))
    if model:
        raise ConfigError("`model` is the name of a model at an `endpoint`: give that too, or leave both out.")
    own = local.config.model
    return serving(own.name, dtype=own.dtype or "auto", device=own.device or "auto", requests=requests)


def run_behind_api(local: Experiment, lm: APIModel, variants: Sequence[str], out: str | Path) -> Experiment:
    """The unseen questions of a run, asked again through an API with the same logs, as text; what is there stays.

    local: a run whose logs are built. variants: text policies in the user turn; `no_logs` is always among them. `out`
    holds the new run, whose settings are those of `local` otherwise. Raises ConfigError for a policy out of reach,
    before anything is asked, and EndpointError.
    """
    settings = local.config.flat() | {
        "model": API + lm.name,
        "api": lm.requests.flat(),
        "policies": reachable(variants),
        "splits": ("unseen",),
        "out": out,
        "store": None,
        **{"device": None, "dtype": None, "codec": "none", "blocks": "load"},  # of models that are loaded here
    }
    run = Experiment(RunConfig.parse(settings), lm=lm, embedder=local.embedder)
    with manifest.session(run):
        lend_logs(local, run)
        for name in run.config.policies:
            run.answer(name, "unseen")
    return run


def reachable(variants: Sequence[str]) -> tuple[str, ...]:
    """`no_logs` and the variants; raises ConfigError for one that a model behind an API cannot follow."""
    for variant in map(Variant.parse, variants):
        if reason := chat_refusal(variant.policy, variant.limits(Limits())):
            raise ConfigError(reason)
    return tuple(dict.fromkeys(["no_logs", *variants]))


def lend_logs(source: Experiment, borrower: Experiment) -> None:
    """Put the logs of one run into another's store, in the same order: words and embeddings, which any model can use.

    Both runs have one embedder. Logs that are there already stay, and those that the source has replaced go.
    """
    with source.store() as logs:
        borrower.fill(list(logs.traces()), source.made())


def gains(results: pd.DataFrame, reference: tuple[str, str], hops: Hops, score: str) -> pd.DataFrame:
    """Gain of each variant over doing without logs in the same place, and its distance from the reference's.

    results: one row per `where` (`local`, `API`), `policy` and `question_id`, of one split; each place has `no_logs`.
    reference: (where, policy). score: the column that counts; a failed question scores 0. Indexed by `where` and
    `policy`: `mean`, `low`, `high` of the gain, paired by question; `apart`, `apart_low`, `apart_high` of the gain less
    the reference's; and `recovered`, the ratio of the two, missing where the reference's interval covers zero.
    """
    scored = results.assign(**{score: results[score].fillna(0.0)})
    scores = scored.pivot(index="question_id", columns=["where", "policy"], values=score)
    kept, names = [key for key in scores if key[1] != "no_logs"], ["where", "policy"]
    pairs = {key: (scores[key[0], "no_logs"], scores[key]) for key in kept}
    gained = {key: own - base for key, (base, own) in pairs.items()}
    found = paired_intervals(pairs, hops, names)[["mean", "low", "high"]]
    apart = paired_intervals({key: (gained[reference], own) for key, own in gained.items()}, hops, names)
    whole = found.loc[reference]
    recovered = found["mean"] / whole["mean"] if whole["low"] > 0 or whole["high"] < 0 else None
    bounds = {"apart": apart["mean"], "apart_low": apart["low"], "apart_high": apart["high"]}
    return found.assign(**bounds, recovered=recovered)
