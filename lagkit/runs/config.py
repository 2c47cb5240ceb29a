"""The settings of a run, checked before anything expensive starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, PositiveInt, field_validator, model_validator

from lagkit.datasets.world.controls import AnyControls, Controls, controls_of
from lagkit.logs.address import beside, checked_uri
from lagkit.model.api.requests import Requests
from lagkit.model.backend import API
from lagkit.model.names import BlockSource, Codec, DType, device_name
from lagkit.policy import AUTHORS, CONTROLS, POLICIES, Variant, chat_refusal
from lagkit.types import Limits
from lagkit.util.errors import ConfigError, LagkitError
from lagkit.util.home import laboratory
from lagkit.util.paths import at, shown
from lagkit.util.settings import Folder, Settings

if TYPE_CHECKING:
    from lagkit.logs.store import Store

Split = Literal["seen", "unseen"]
T = TypeVar("T")
Wording = Literal["examples", "plain", "short", "paper"]

# Settings that belong to a model: `testbed`, `smollm2`, `laptop`, `paper`. What they leave out, a run adds.
TIERS = {path.stem: path for path in sorted((Path(__file__).parent / "tiers").glob("*.yaml"))}


def _as_value_error(check: Callable[[T], T]) -> Callable[[T | None], T | None]:
    """A check for pydantic: passes None, and gives lagkit's errors as ValueError."""

    def checked(value: T | None) -> T | None:
        try:
            return value if value is None else check(value)
        except LagkitError as error:
            raise ValueError(str(error).rstrip(".")) from error

    return checked


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{twice[0]!r} stands twice")
    return names


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        Variant.parse(name)
    if "no_logs" not in names:
        raise ValueError("no_logs must be among them, since differences are measured against it")
    return names


Device = Annotated[str | None, AfterValidator(_as_value_error(device_name))]
Place = Annotated[str | None, AfterValidator(_as_value_error(checked_uri))]


class ModelSettings(Settings):
    """The language model and how it is asked.

    name (`model`): as `load_model` takes it; `api` says how one behind an API is asked. device: `cpu`, `cuda`, `cuda:N`
    or `mps`, by default the best there is. dtype: of the model and of the logs' KV. wording: of the prompts; small
    models need worked `examples`, larger ones don't (`plain`), `short` is for models that were trained on the protocol,
    and `paper` is the published procedure (docs/paper.md).
    """

    name: str = Field(default="smollm2", alias="model")
    device: Device = None
    dtype: DType | None = "bfloat16"
    wording: Wording = "examples"
    api: Requests | None = None

    @model_validator(mode="after")
    def _asked_through_an_api(self) -> Self:
        if self.api is not None and not self.name.startswith(API):
            raise ValueError(f"`api` says how a model behind an API is asked, and {self.name} is none: leave it out")
        if self.dtype is None and not self.name.startswith(API):
            raise ValueError("dtype: float32 or bfloat16 is needed")
        return self


class DataSettings(Settings):
    """The questions of a run: where they come from, how they are split, and how many are drawn.

    folder (`data`): in the LAG layout. format (`dataset`): its layout, by default the folder's name. world: instead of
    a folder, the controls of a test world (`world.controls`), which is generated in `out`. split: which
    questions are seen and which unseen: as the `authors` split them, or `disjoint`, by `seed`, so that they share no
    hop (`datasets.split`). splits: which of both are answered. log_questions, seen_questions, unseen_questions: sizes
    of seeded samples (None takes all); seen questions are drawn from those that the log store was built on.
    """

    folder: Folder | None = Field(default=None, alias="data")
    world: dict[str, Any] | None = None
    format: str | None = Field(default=None, alias="dataset")
    split: Literal["authors", "disjoint"] = "authors"
    splits: Annotated[tuple[Split, ...], AfterValidator(_each_once)] = Field(default=("seen", "unseen"), min_length=1)
    log_questions: PositiveInt | None = None
    seen_questions: PositiveInt | None = None
    unseen_questions: PositiveInt | None = None
    seed: int = 1234

    @field_validator("world")
    @classmethod
    def _all_controls(cls, world: dict[str, Any] | None) -> dict[str, Any] | None:
        return world if world is None else controls_of(world).flat()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.folder is None and self.world is None:
            sample = shown(laboratory() / "data" / "sample")
            raise ValueError(
                f"there are no questions: give a folder of them as `data`, such as {sample}, which comes with lagkit"
            )
        if self.folder is not None and self.world is not None:
            raise ValueError("give either `data`, a folder of questions, or `world`, the controls of a test world")
        if self.world is not None and self.format is not None:
            raise ValueError("`dataset` is the format of `data`, and a test world has its own: leave it out")
        if self.split == "disjoint" and isinstance(self.controls, Controls) and self.controls.contradicted:
            # Changed facts lead to other hops, and so to other components than those of the world that the logs are of.
            raise ValueError("a world with contradicted facts cannot be split anew: use split=authors")
        return self

    @property
    def controls(self) -> AnyControls:
        """Controls of the test world; the defaults where the run has none."""
        return controls_of(self.world or {})


class StoreSettings(Settings):
    """The log store: where it is, what finds a log, and how KV blocks are kept.

    place (`store`): if not in `out`, a folder or an address such as `s3://bucket/logs`, of this run alone
    (docs/stores.md). codec: encoding of KV blocks in files; int8 halves a bfloat16 one (`lagkit.model.codec`). blocks:
    whether the KV of logs is loaded, recomputed, or as is `planned` from how fast the store and the model are. search:
    of many logs, by codes and then `exact` scores, or of all logs whatever that takes (`logs.vectors`).
    """

    place: Place = Field(default=None, alias="store")
    embedder: str = "minilm"
    codec: Codec = "none"
    blocks: BlockSource = "load"
    search: Literal["auto", "exact"] = "auto"

    @model_validator(mode="after")
    def _computed_as_stored(self) -> Self:
        if self.blocks != "load" and self.codec != "none":
            raise ValueError(f"blocks of codec {self.codec} are not what computing them again gives: use blocks=load")
        return self

    def applied(self, store: Store) -> Store:
        """A store that is open, told how to search and where its blocks come from."""
        store.exact_search, store.source = self.search == "exact", self.blocks
        return store


class RunConfig(Settings):
    """Everything that a run depends on; defaults are the authors' (paper, section 4) on a model for two cores.

    Users write all keys flat, as in `RunConfig.of("testbed", out="runs/mine", seed=5, max_rounds=3)`, on a command line
    and in a file; `flat()` shows them so. out: folder of the results. policies: variants, each a policy and what it
    changes of the limits (`policy.Variant`). Keys of a group whose field has another name: `model` (`model.name`),
    `data` (`data.folder`), `dataset` (`data.format`), `store` (`store.place`).

    In `data`, `out` and `store`, `~` is the user's home, and relative paths are below the folder in which Python runs
    when the settings are read, also those of a file. device, dtype, codec and blocks are for models loaded here.
    """

    what: ClassVar[str] = "run settings"
    groups: ClassVar[tuple[str, ...]] = ("data", "model", "store", "limits")

    out: Folder
    policies: Annotated[tuple[str, ...], AfterValidator(_each_once), AfterValidator(_as_value_error(_known))] = tuple(
        name for name in POLICIES if name not in AUTHORS | CONTROLS
    )
    data: DataSettings
    model: ModelSettings
    store: StoreSettings
    limits: Limits

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
    def _within_reach(self) -> Self:
        for variant in map(Variant.parse, self.policies if self.model.name.startswith(API) else ()):
            if reason := chat_refusal(variant.policy, variant.limits(self.limits)):
                raise ValueError(reason.rstrip("."))
        return self

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
        world = config.data.world
        if "seed" in settings and world is not None and "seed" not in (settings.get("world") or {}):
            return cls.read(path, {**settings, "world": {**world, "seed": config.data.seed}})
        return config

    def changed(self, **settings: Any) -> Self:
        """These settings with others in the place of some. Raises ConfigError as `parse` does."""
        return self.parse({**self.flat(), **settings})

    def derived(self, name: str, /, **settings: Any) -> Self:
        """The settings of a run that belongs to this one, changed to `settings`: its folder and its store are its own.

        name: of its folder in `out`. Raises ConfigError as `parse` does.
        """
        place = None if self.store.place is None else beside(self.store.place, name.replace("/", "-"))
        return self.changed(**({"out": self.out / name, "store": place} | settings))
