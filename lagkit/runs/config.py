"""The settings of a run, checked before anything expensive starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from lagkit.agent.chat import refusal
from lagkit.datasets.world.dataset import Controls
from lagkit.logs.address import beside, checked_uri
from lagkit.logs.contract import BlockSource
from lagkit.model.api.requests import Requests
from lagkit.model.backend import API
from lagkit.model.codec import Codec
from lagkit.model.devices import DType, device_name
from lagkit.policy import AUTHORS, POLICIES, Variant
from lagkit.types import Limits
from lagkit.util.errors import ConfigError, StoreError
from lagkit.util.paths import at
from lagkit.util.settings import Folder, Settings

Split = Literal["seen", "unseen"]
Wording = Literal["examples", "plain", "short", "paper"]

# Settings that belong to a model, by its size: `testbed`, `smollm2`, `paper`. What they leave out, a run adds.
TIERS = {path.stem: path for path in sorted((Path(__file__).parent / "tiers").glob("*.yaml"))}


class RunConfig(Settings):
    """Everything that a run depends on; defaults are the authors' (paper, section 4) on a model for two cores.

    data: folder in the LAG layout. dataset: its format, by default the folder's name. world: instead of `data`, the
    controls of a test world (`world.dataset.Controls`), which is drawn into `out`. out: where results go.
    store: where the run's log store is, if not in `out`: a folder or an address such as `s3://bucket/logs`, of this run
    alone (docs/stores.md). In `data`, `out` and `store`, `~` is the user's home, and what is relative is below the
    folder in which Python runs when the settings are read, also those of a file.
    codec: what the store's files hold of a KV block; int8 halves a bfloat16 one (`lagkit.model.codec`).
    blocks: whether the KV of logs is loaded, recomputed, or as is `planned` from how fast the store and the model are.
    wording: of the prompts; small models need worked `examples`, larger ones don't (`plain`), `short` is for models
    that were trained on the protocol, and `paper` is the published procedure (docs/paper.md). log_questions,
    seen_questions, unseen_questions: sizes of seeded samples (None takes all); seen questions are drawn from those
    that the log store was built on. split: which questions are seen and which unseen: as the `authors` split them, or
    `disjoint`, by `seed`, so that they share no hop (`datasets.split`). search: of many logs, by codes and then
    `exact` scores, or of all logs whatever that takes (`logs.vectors`). min_similarity: a log less similar to the
    query is not used (None uses all). policies: variants, each a policy and what it changes of the limits
    (`policy.Variant`). passages to force_answer: the limits, as in `types.Limits`. model: as `load_model` takes it;
    `api` says how one behind an API is asked.
    device: `cpu`, `cuda`, `cuda:N` or `mps`, by default the best there is. dtype: of the model and of the logs' KV.
    Both, and codec and blocks, are for models that are loaded here.
    """

    what: ClassVar[str] = "run settings"

    data: Folder | None = None
    world: dict[str, Any] | None = None
    out: Folder
    dataset: str | None = None
    model: str = "smollm2"
    device: str | None = None
    dtype: DType | None = "bfloat16"
    codec: Codec = "none"
    blocks: BlockSource = "load"
    store: str | None = None
    embedder: str = "minilm"
    wording: Wording = "examples"
    policies: tuple[str, ...] = tuple(name for name in POLICIES if name not in AUTHORS)
    split: Literal["authors", "disjoint"] = "authors"
    splits: tuple[Split, ...] = Field(default=("seen", "unseen"), min_length=1)
    log_questions: PositiveInt | None = None
    seen_questions: PositiveInt | None = None
    unseen_questions: PositiveInt | None = None
    seed: int = 1234
    passages: PositiveInt = 2
    logs: PositiveInt = 3
    search: Literal["auto", "exact"] = "auto"
    min_similarity: float | None = Field(default=None, ge=-1, le=1)
    max_rounds: PositiveInt | None = None
    max_new_tokens: PositiveInt = 1024
    batch_size: PositiveInt = Field(default=16, description="questions in flight at once")
    best_log: Literal["first", "last"] = "first"
    force_answer: bool = False
    api: Requests | None = None

    @model_validator(mode="before")
    @classmethod
    def _loaded_here(cls, settings: Any) -> Any:
        """Refuse what says how a model is loaded here, or how its KV is kept, where an endpoint has both."""
        if not isinstance(settings, dict) or not str(settings.get("model", "")).startswith(API):
            return settings
        idle = {"device": None, "dtype": None, "codec": "none", "blocks": "load"}
        for name, nothing in idle.items():
            if settings.get(name, nothing) not in (None, nothing):
                raise ValueError(f"`{name}` does nothing for a model behind an API, {settings['model']}: leave it out")
        return {**settings, **idle}

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.data is None) == (self.world is None):
            raise ValueError("give either `data`, a folder of questions, or `world`, the controls of a test world")
        if self.world is not None and self.dataset is not None:
            raise ValueError("`dataset` is the format of `data`, and a test world has its own: leave it out")
        return self

    @model_validator(mode="after")
    def _split_as_logged(self) -> Self:
        if self.split == "disjoint" and self.controls.contradicted:
            # Changed facts lead to other hops, and so to other components than those of the world that the logs are of.
            raise ValueError("a world with contradicted facts cannot be split anew: use split=authors")
        return self

    @model_validator(mode="after")
    def _computed_as_stored(self) -> Self:
        if self.blocks != "load" and self.codec != "none":
            raise ValueError(f"blocks of codec {self.codec} are not what computing them again gives: use blocks=load")
        return self

    @model_validator(mode="after")
    def _asked_through_an_api(self) -> Self:
        if self.api is not None and not self.model.startswith(API):
            raise ValueError(f"`api` says how a model behind an API is asked, and {self.model} is none: leave it out")
        if self.dtype is None and not self.model.startswith(API):
            raise ValueError("dtype: float32 or bfloat16 is needed")
        return self

    @model_validator(mode="after")
    def _within_reach(self) -> Self:
        for variant in map(Variant.parse, self.policies if self.model.startswith(API) else ()):
            if reason := refusal(variant.policy, variant.limits(self.limits)):
                raise ValueError(reason.rstrip("."))
        return self

    @field_validator("device")
    @classmethod
    def _a_device(cls, device: str | None) -> str | None:
        try:
            return device if device is None else device_name(device)
        except ConfigError as error:
            raise ValueError(str(error).rstrip(".")) from error

    @field_validator("store")
    @classmethod
    def _a_place(cls, store: str | None) -> str | None:
        try:
            return store if store is None else checked_uri(store)
        except StoreError as error:
            raise ValueError(str(error).rstrip(".")) from error

    @field_validator("world")
    @classmethod
    def _all_controls(cls, world: dict[str, Any] | None) -> dict[str, Any] | None:
        return world if world is None else Controls.parse(world).model_dump(mode="json")

    @field_validator("policies")
    @classmethod
    def _known_policies(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            try:
                Variant.parse(name)
            except ConfigError as error:
                raise ValueError(str(error).rstrip(".")) from error
        if "no_logs" not in names:
            raise ValueError("no_logs must be among them, since differences are measured against it")
        return names

    @field_validator("policies", "splits")
    @classmethod
    def _each_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{twice[0]} stands twice")
        return names

    @classmethod
    def of(cls, tier: str | Path, /, **settings: Any) -> Self:
        """The settings of a tier (a key of `TIERS`, or a YAML file), changed to `settings`.

        `data` takes the place of a tier's world, and a model behind an API that of how the tier's is loaded. `seed` is
        also that of the test world, unless `world` names one. Raises ConfigError as `read` does.
        """
        if settings.get("data"):
            settings = {"world": None, **settings}
        if str(settings.get("model", "")).startswith(API):
            settings = {"device": None, "dtype": None, **settings}
        path = TIERS.get(str(tier)) or at(tier)
        if not path.is_file() and path.suffix not in (".yaml", ".yml"):
            raise ConfigError(f"There is no tier {str(tier)!r}: use one of {', '.join(TIERS)}, or a YAML file.")
        config = cls.read(path, settings)
        if "seed" in settings and config.world is not None and "seed" not in (settings.get("world") or {}):
            return cls.read(path, {**settings, "world": {**config.world, "seed": config.seed}})
        return config

    def derived(self, name: str, /, **settings: Any) -> Self:
        """The settings of a run that belongs to this one, changed to `settings`: its folder and its store are its own.

        name: of its folder in `out`. Raises ConfigError as `parse` does.
        """
        store = None if self.store is None else beside(self.store, name.replace("/", "-"))
        return self.parse({**self.model_dump(), "out": self.out / name, "store": store, **settings})

    @property
    def controls(self) -> Controls:
        """Of the test world; the defaults where the run has none."""
        return Controls.parse(self.world or {})

    @property
    def limits(self) -> Limits:
        """The agent's share of the settings."""
        return Limits(**{name: getattr(self, name) for name in Limits.__dataclass_fields__})
