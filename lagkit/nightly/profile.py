"""`nightly.yaml`: profiles, each a list of notebooks with parameters, checked as a whole before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, PositiveInt, model_validator

from lagkit.nightly import notebook as nb
from lagkit.util.errors import ConfigError
from lagkit.util.paths import at
from lagkit.util.settings import Settings
from lagkit.views.parameters import check

_OURS = ("out", "run")  # folders that the nightly run chooses


class Job(Settings):
    """One notebook with parameters.

    name: of the job and its folder, by default the notebook's. after: jobs that end before it starts, rightly or not.
    run: a name for the folder of logs and answers; jobs that share one never run at the same time. timeout: seconds.
    """

    notebook: str
    name: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    after: tuple[str, ...] = ()
    run: str = "run"
    timeout: PositiveInt | None = None

    @model_validator(mode="before")
    @classmethod
    def _named(cls, job: Any) -> Any:
        return {"name": job.get("notebook"), **job} if isinstance(job, dict) else job


class Profile(Settings):
    """Jobs and what they have in common.

    parameters: for every job whose notebook has them; null: must be given as a setting. timeout: of a job, in seconds.
    summary: the job whose results become `summary.json` and the table in the terminal. cuda: whether it needs a GPU.
    """

    about: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    timeout: PositiveInt = 900
    summary: str | None = None
    cuda: bool = False
    jobs: tuple[Job, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _jobs_in_an_order(self) -> Self:
        names = [job.name for job in self.jobs]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two jobs are called {twice[0]}: give one another `name`")
        after = [(f"after of {job.name}", name) for job in self.jobs for name in job.after]
        for where, name in [*after, ("summary", self.summary)]:
            if name is not None and name not in names:
                raise ValueError(f"{where} names {name!r}, which is no job of the profile: jobs are {', '.join(names)}")
        try:
            TopologicalSorter({job.name: job.after for job in self.jobs}).prepare()
        except CycleError as error:
            raise ValueError(f"jobs wait for each other: {' after '.join(error.args[1])}") from error
        return self


class Nightly(Settings):
    """The whole file. notebooks, baselines: folders, relative to it.

    chance: by notebook and pattern of metrics' names, the value that a metric would have if the method did nothing or
    the model guessed. Metrics that no pattern fits are recorded, but not gated. tolerance: likewise, by how much a
    metric may move with the same seed, where that is not a flip or two of the answers that it is a mean of.
    """

    what: ClassVar[str] = "nightly profiles"

    notebooks: Path = Path("notebooks")
    baselines: Path = Path("tests/baselines")
    chance: dict[str, dict[str, float]] = Field(default_factory=dict)
    tolerance: dict[str, dict[str, float]] = Field(default_factory=dict)
    profiles: dict[str, Profile] = Field(min_length=1)


@dataclass(frozen=True)
class Task:
    """A job, ready to run: all its parameters but `out` and `run`; `run` is None where the notebook takes none."""

    name: str
    notebook: Path
    parameters: dict[str, Any]
    after: tuple[str, ...]
    run: str | None
    timeout: int


@dataclass(frozen=True)
class Plan:
    """A profile, ready to run. baseline: its file, which need not exist."""

    profile: str
    about: str
    tasks: tuple[Task, ...]
    summary: str | None
    chance: dict[str, dict[str, float]]
    baseline: Path
    tolerance: dict[str, dict[str, float]] = field(default_factory=dict)


def plan(path: str | Path, profile: str, overrides: Mapping[str, Any] | None = None) -> Plan:
    """Read a profile and check every parameter of every notebook.

    overrides: parameters that take the place of the profile's in every job whose notebook has them. A folder `data` is
    relative to the file at `path`, in `overrides` to where the command runs. Raises ConfigError.
    """
    path, overrides = at(path), dict(overrides or {})
    nightly = Nightly.read(path)
    if profile not in nightly.profiles:
        raise ConfigError(f"{path} has no profile {profile!r}; it has {', '.join(nightly.profiles)}.")
    wanted = nightly.profiles[profile]
    common = {**_with_folder(wanted.parameters, path.parent), **_with_folder(overrides, Path.cwd())}
    jobs = {job.name: job for job in wanted.jobs}
    order = TopologicalSorter({job.name: job.after for job in wanted.jobs}).static_order()
    tasks = tuple(_task(jobs[name], wanted, at(nightly.notebooks, path.parent), common, overrides) for name in order)
    known = {name for task in tasks for name in task.parameters}
    if unused := [name for name in common if name not in known]:
        raise ConfigError(f"No notebook of the profile {profile} has a parameter {unused[0]!r}.")
    if missing := [name for task in tasks for name, value in task.parameters.items() if value is None]:
        raise ConfigError(f"The profile {profile} needs {missing[0]}: add {missing[0]}=VALUE.")
    for task in tasks:
        check(task.notebook.name, nb.declared(task.notebook), task.parameters)
        if (data := task.parameters.get("data")) and not Path(data).is_dir():
            raise ConfigError(f"There is no data folder {data}: give another with data=FOLDER.")
    if wanted.cuda:
        import torch

        if not torch.cuda.is_available():
            raise ConfigError(f"The profile {profile} needs a CUDA GPU, and torch finds none: run another profile.")
    baseline = at(nightly.baselines, path.parent) / f"{profile}.json"
    return Plan(profile, wanted.about, tasks, wanted.summary, nightly.chance, baseline, nightly.tolerance)


def _task(job: Job, profile: Profile, notebooks: Path, common: Mapping[str, Any], overrides: Mapping[str, Any]) -> Task:
    """Own parameters go before the profile's, and `overrides`, which `common` holds too, before both."""
    notebook = notebooks / f"{job.notebook}.ipynb"
    declared = nb.declared(notebook)
    own = {name: value for name, value in job.parameters.items() if name not in overrides or name not in declared}
    parameters = {name: value for name, value in common.items() if name in declared} | own
    if ours := [name for name in _OURS if name in parameters]:
        raise ConfigError(f"The parameter {ours[0]} of {job.name} is chosen by the nightly run: leave it out.")
    run = job.run if "run" in declared else None
    return Task(job.name, notebook, parameters, job.after, run, job.timeout or profile.timeout)


def _with_folder(parameters: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """With `data` absolute: a kernel runs in its notebook's folder."""
    data = parameters.get("data")
    if not isinstance(data, str) or not data:
        return dict(parameters)
    return {**parameters, "data": str(at(data, base).resolve())}
