"""What is kept of a log and how it is shown: a few choices, and names for the combinations that papers use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from typing import Any, Literal, get_args

from pydantic import TypeAdapter, ValidationError

from lagkit.types import Limits, Trace
from lagkit.util.code import digest
from lagkit.util.errors import ConfigError

Inject = Literal["kv", "text", "cheatsheet", "copy"]
Encode = Literal["conversation", "responses", "kept", "stranger", "filler"]
Keep = Literal["last_action", "last_round", "last_two_rounds", "all_rounds", "step"]
Unit = Literal["trace", "step"]
Place = Literal["front", "prefix", "user_turn"]
Before = Literal["usual", "nothing", "bos", "head"]
Blanks = Literal["between", "around"]
FoundBy = Literal["last_response", "all_responses"]

# In the order in which a policy is spelled out; the last ones may be left out (`_SPELLED`).
_CHOICES = {"inject": Inject, "keep": Keep, "encode": Encode, "place": Place, "before": Before, "blanks": Blanks}
_CHOICES |= {"found_by": FoundBy}
_SPELLED = 4

# Registered ways to choose what is kept of a log (`lagkit.register`): for each of its rounds, the characters
# `[start, stop)` of the response, in their order.
Spans = Sequence[tuple[int, int]]
KEEPS: dict[str, Callable[[Trace], Sequence[Spans]]] = {}


@dataclass(frozen=True)
class Policy:
    """One way to reuse logs.

    inject: as KV, as text, or as notes that the model first distils from their text (`cheatsheet`); with `copy` the
        model is not asked at all, and the answer of the most similar log is given.
    keep: which tokens are stored, or shown: a value of `Keep`, or a registered name (docs/extending.md). With `step`,
        each round of a trace is a log of its own, found by what it searched for and said, and all of it is kept. Rounds
        are kept as generated; an action stands outside reasoning (docs/thinking.md).
    encode: what the model reads before the kept tokens (KV only): the whole `conversation`, all `responses`
        joined by blank lines (the authors' code), or only what is `kept` (Block-Attention, arXiv 2409.15355). Controls,
        with as many tokens in the place of the responses' context: that of another log (`stranger`), or words that say
        nothing (`filler`); a log that has no such context is read as with `kept`.
    place: `front` of the BOS token (the authors' code), after the shared head of the prompt (`prefix`: BOS, system
        message and worked examples; no cheatsheet), or inside the `user_turn` (text and cheatsheet only).
    before: what stands before all that while a log is encoded (KV only): `nothing`, the first token of the prompt's
        shared head (`bos`), or the whole `head`. None of it is kept. `usual` is the head where the log is to stand
        behind it (`prefix`) or was said behind it (`conversation`), and nothing otherwise.
    blanks: where blank lines stand: `between` responses, and between logs that are shown; or also `around` what is kept
        (the authors' code). There the one behind it is kept, too. The one in front of it is only read, and in a log
        whose first round is kept it is the very first token: what is kept then holds no attention sink. What is encoded
        without context (`kept`) has none in front, and so keeps a sink.
    found_by: the text that a log is found by has its question, and its `last_response` or `all_responses`.

    Raises ConfigError for an unknown value or a combination that means nothing.
    """

    inject: Inject
    keep: Keep | str = "last_round"
    encode: Encode = "responses"
    place: Place = "front"
    before: Before = "usual"
    blanks: Blanks = "between"
    found_by: FoundBy = "last_response"

    def __post_init__(self) -> None:
        for field in fields(self):
            value, known = getattr(self, field.name), list(get_args(_CHOICES[field.name]))
            known += KEEPS if field.name == "keep" else ()
            if value not in known:
                raise ConfigError(f"A policy's {field.name} is one of {', '.join(known)}; {value!r} is not.")
        if self.inject == "kv" and self.place == "user_turn":
            raise ConfigError("KV cannot stand inside the user turn: choose place front or prefix, or inject text.")
        if self.inject == "cheatsheet" and self.place == "prefix":
            raise ConfigError("A cheatsheet stands inside the user turn or in front: choose place user_turn or front.")
        if self.inject == "copy" and (self.keep, self.encode, self.place) != ("last_round", "responses", "front"):
            raise ConfigError("A copied answer shows the model nothing of a log: leave out keep, encode and place.")
        if self.inject != "kv" and self.before != "usual":
            raise ConfigError("Only KV is encoded ahead of its use: leave out what stands before, or inject kv.")
        if self.blanks == "around" and (
            self.inject == "copy" or self.place == "user_turn" or self.encode == "conversation"
        ):
            raise ConfigError(
                "Blank lines stand around the responses of logs ahead of the prompt alone, not in a conversation, in "
                "the user turn or around a copied answer: choose blanks between."
            )

    def __str__(self) -> str:
        parts, usual = astuple(self), astuple(Policy(self.inject))
        told = [i + 1 for i in range(_SPELLED, len(parts)) if parts[i] != usual[i]]
        return "/".join(parts[: max(told, default=_SPELLED)])

    @property
    def reads_first(self) -> Before:
        """What stands before a log while it is encoded: `before`, with `usual` resolved."""
        if self.before != "usual":
            return self.before
        return "head" if self.place == "prefix" or self.encode == "conversation" else "nothing"

    @property
    def unit(self) -> Unit:
        """What a log of the store is: a whole trace, or one step of it."""
        return "step" if self.keep == "step" else "trace"

    def block_key(self, head_hash: str) -> str:
        """The name under which a store keeps this policy's blocks: KV depends on all that was read before it.

        head_hash: of the prompt's shared head; what is encoded behind its first token, or nothing, is shared by all.
        """
        read = {"nothing": "bare", "bos": "bos", "head": head_hash}[self.reads_first]
        return f"{self.encode}.{self.keep}{self.stamp}.{read}" + (".around" if self.blanks == "around" else "")

    @property
    def stamp(self) -> str:
        """Tells a registered `keep` from an earlier one of the same name; empty for those of lagkit."""
        return f"@{digest(KEEPS[self.keep])}" if self.keep in KEEPS else ""


# The published code to the letter (docs/paper.md), for `wording: paper`; in a run only where it names them.
AUTHORS: dict[str, Policy] = {
    "authors_kv_last_round": Policy("kv", blanks="around"),
    "authors_kv_last_action": Policy("kv", keep="last_action", blanks="around"),
    "authors_text_last_round": Policy("text", blanks="around"),
    "authors_text_all_rounds": Policy("text", keep="all_rounds", blanks="around", found_by="all_responses"),
    "authors_block": Policy("kv", encode="kept", blanks="around"),
    "authors_cheatsheet": Policy("cheatsheet"),
}

# A published form -> ours of the same kind.
OURS = {name: name.removeprefix("authors_") for name in AUTHORS} | {"authors_block": "kv_block"}

# Controls for what the kept tokens carry of their context; in a run only where it names them.
CONTROLS: dict[str, Policy] = {
    "kv_stranger": Policy("kv", encode="stranger"),
    "kv_filler": Policy("kv", encode="filler"),
}


class NamedPolicies(dict[str, Policy | None]):
    """Policies by name; None is doing without logs.

    `str` of a policy spells its choices out, as `kv/last_round/responses/front`; docs/variants.md says what they mean.
    """


# Our name -> the authors': no_logs = base, text_last_round = log_text, text_all_rounds = log_text_all,
# kv_last_round = log_kv (their main method), kv_last_action = log_kv_last_action.
POLICIES = NamedPolicies(
    no_logs=None,
    text_last_round=Policy("text"),
    text_all_rounds=Policy("text", keep="all_rounds"),
    text_last_round_user_turn=Policy("text", place="user_turn"),
    text_all_rounds_user_turn=Policy("text", keep="all_rounds", place="user_turn"),
    kv_last_action=Policy("kv", keep="last_action"),
    kv_last_round=Policy("kv"),
    kv_last_two_rounds=Policy("kv", keep="last_two_rounds"),
    kv_all_rounds=Policy("kv", keep="all_rounds"),
    kv_block=Policy("kv", encode="kept"),
    kv_last_round_prefix=Policy("kv", place="prefix"),
    cheatsheet=Policy("cheatsheet", place="user_turn"),
    **CONTROLS,
    **AUTHORS,
    # Not of the paper: single steps as logs, and the answer of the nearest log, which reuse has to beat.
    text_step=Policy("text", keep="step"),
    kv_step=Policy("kv", keep="step"),
    copy_nearest=Policy("copy"),
)


def named_policies() -> dict[str, Policy | None]:
    """`POLICIES`, and for each registered `keep` its `kv_KEEP` and `text_KEEP`."""
    return POLICIES | {f"{way}_{keep}": Policy(way, keep=keep) for keep in KEEPS for way in _REGISTERED_WAYS}


def get_policy(name: str) -> Policy | None:
    """A policy (None: no logs) by its name in `named_policies`, or spelled out as `str` has it.

    What stands behind a `+` is passed over: it changes the agent's limits (see `Variant`). Raises ConfigError for an
    unknown name.
    """
    name = name.partition("+")[0]
    known = named_policies()
    if name in known:
        return known[name]
    parts = name.split("/")
    if _SPELLED <= len(parts) <= len(_CHOICES):
        return Policy(*parts)  # type: ignore[arg-type]  # words, which it checks
    raise ConfigError(
        f"Unknown policy {name!r}: use one of {', '.join(known)}, or spell it out as inject/keep/encode/place, "
        "with /before, /before/blanks or /before/blanks/found_by behind it if need be."
    )


_MARK = "+"
_REGISTERED_WAYS: tuple[Inject, ...] = ("kv", "text")
_LIMITS = TypeAdapter(Limits)


@dataclass(frozen=True)
class Variant:
    """What is compared: a policy (None: no logs) under limits of its own, where they differ from those of the run."""

    name: str
    policy: Policy | None
    changes: Mapping[str, Any]

    @classmethod
    def parse(cls, name: str) -> Variant:
        """From a policy's name and changes of `Limits` behind it, as in `no_logs+passages=4+max_rounds=8`.

        Raises ConfigError for an unknown policy, an unknown limit or a wrong value.
        """
        policy = get_policy(name)
        known = {field.name for field in fields(Limits)}
        words = {}
        for change in name.split(_MARK)[1:]:
            key, _, value = change.partition("=")
            if key not in known or not value:
                raise ConfigError(
                    f"{name!r} changes {change!r}: write NAME=VALUE, where NAME is one of {', '.join(sorted(known))}."
                )
            words[key] = value
        try:
            limits = _LIMITS.validate_python(words)
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigError(f"The variant {name!r} is wrong: {first['loc'][0]}: {first['msg']}.") from error
        return cls(name, policy, {key: getattr(limits, key) for key in words})

    @classmethod
    def of(cls, policy: Policy | str | None) -> Variant:
        """A policy, None (no logs) or a name, as a variant; raises as `parse`."""
        return cls.parse(policy) if isinstance(policy, str) else cls(str(policy or "no_logs"), policy, {})

    def limits(self, limits: Limits) -> Limits:
        """The run's limits, with this variant's changes."""
        return replace(limits, **self.changes)


def chat_refusal(policy: Policy | None, limits: Limits) -> str:
    """Why a model behind an API cannot follow a policy under these limits, and what to do; empty if it can."""
    if limits.force_answer:
        return (
            "force_answer has the model go on from an answer that was begun for it, which cannot be done through a "
            "chat API: leave it out."
        )
    if policy is None or policy.inject == "copy":
        return ""
    able = ", ".join(name for name, known in POLICIES.items() if known and known.place == "user_turn")
    if policy.inject == "kv":
        return (
            f"The policy {policy} injects KV, and the KV of a model behind an API can be neither read nor put in: "
            f"choose among no_logs, {able}."
        )
    if policy.place != "user_turn":
        where = "in front of BOS" if policy.place == "front" else "between the turns"
        return (
            f"The policy {policy} puts the text of logs {where}, which cannot be reached through a chat API: "
            f"choose place user_turn ({able})."
        )
    return ""
