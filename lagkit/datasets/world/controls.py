"""What a test world is like: its controls."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator

from lagkit.datasets.loaders import Stratum
from lagkit.datasets.world.carry import RUNGS
from lagkit.datasets.world.world import language
from lagkit.util.errors import ConfigError
from lagkit.util.settings import Settings


class Controls(Settings):
    """What a test world is like; what is not named keeps its default.

    hops: of the unseen questions, in equal parts. log_hops: of the log-store questions; each hop more is a round more
    before the last one, where a query brings one fact. passages_per_fact: in how many passages a fact is told.
    distractors: passages per entity that name it but tell nothing of use. overlap: shares of the unseen questions by
    what they share with the log-store questions (`loaders.overlap`). contradicted: share of the facts that are
    changed after the questions were drawn, so that logs of the same world without changes mislead.
    """

    what: ClassVar[str] = "controls of a test world"

    seed: int = 0
    entities: PositiveInt = 400
    hops: tuple[PositiveInt, ...] = Field(default=(1, 2, 3, 4), min_length=1)
    log_hops: tuple[PositiveInt, ...] = Field(default=(2, 3, 4), min_length=1)
    log_questions: PositiveInt = 150
    unseen_questions: PositiveInt = 300
    passages_per_fact: PositiveInt = 1
    distractors: NonNegativeInt = 2
    overlap: dict[Stratum, float] = Field(default={"all": 0.7, "final": 0.1, "other": 0.1, "none": 0.1})
    contradicted: float = Field(default=0.0, ge=0, le=1)

    @field_validator("hops", "log_hops")
    @classmethod
    def _possible(cls, hops: tuple[int, ...]) -> tuple[int, ...]:
        most = len(language().by_name)
        if max(hops) > most:
            raise ValueError(
                f"{max(hops)} hops are more than this language allows: no relation comes twice, so at most {most}"
            )
        return hops

    @field_validator("overlap")
    @classmethod
    def _is_a_whole(cls, shares: dict[Stratum, float]) -> dict[Stratum, float]:
        if not (min(shares.values(), default=0) >= 0 and abs(sum(shares.values()) - 1) <= 1e-6):  # nor NaN
            raise ValueError(f"the shares must be positive and add up to 1; they are {shares}")
        return shares


class CarryControls(Settings):
    """What a world of mode `carry` (`world.carry`) is like; a quarter of the unseen questions are on each rung."""

    what: ClassVar[str] = "controls of a test world of mode carry"

    mode: Literal["carry"]
    seed: int = 0
    entities: PositiveInt = 400
    unseen_questions: PositiveInt = Field(default=300, multiple_of=len(RUNGS))


AnyControls = Controls | CarryControls


def controls_of(given: dict[str, Any]) -> AnyControls:
    """The controls that are given, of a plain world if no `mode` is; raises ConfigError."""
    if "mode" not in given:
        return Controls.parse(given)
    if given["mode"] != "carry":
        raise ConfigError(f"A test world has no mode {given['mode']!r}: give mode=carry, or leave it out.")
    return CarryControls.parse(given)
