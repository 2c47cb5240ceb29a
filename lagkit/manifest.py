"""What a run was made with, beside its results: settings, code, versions, prompt, model, machine."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from lagkit.config import Requests, RunConfig
from lagkit.errors import ConfigError, DataError
from lagkit.home import laboratory
from lagkit.prompts import Prompt

if TYPE_CHECKING:
    from lagkit.experiment import Experiment

_PACKAGES = ("lagkit", "torch", "transformers", "faiss-cpu", "sentence-transformers", "pandas")

# Settings that may change between resumptions of one run: they decide what is answered next, not what an answer is.
_MAY_CHANGE = {
    *("out", "store", "data", "policies", "splits", "seen_questions", "unseen_questions"),
    *("device", "batch_size", "blocks", "api"),
}


def claim(out: Path, config: RunConfig, prompt: Prompt) -> None:
    """Make the run's folder, or check that the answers in it were given with these settings and this wording.

    Raises ConfigError if they weren't. A folder without answers takes any settings.
    """
    settings, wording = config.model_dump(mode="json"), {"name": prompt.name, "hash": prompt.hash}
    before = read_manifest(out)
    if before and (out / "traces").exists():
        # A setting that is younger than the run: its default is what the run was made with.
        defaults = {k: field.get_default() for k, field in RunConfig.model_fields.items() if not field.is_required()}
        earlier, now = {"prompt": wording, **defaults, **before, **before["settings"]}, {"prompt": wording, **settings}
        earlier["temperature"], now["temperature"] = _temperature(earlier), _temperature(now)
        changed = [k for k in now if k not in _MAY_CHANGE and now[k] != earlier.get(k)]
        if changed:
            what = ", ".join(f"{k} was {earlier.get(k)!r} and is {now[k]!r}" for k in changed)
            raise ConfigError(f"{out} holds a run with other settings ({what}): choose another folder.")
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "manifest.json", {**before, "settings": settings, "prompt": wording})


def _temperature(settings: dict[str, Any]) -> float | None:
    """The one of the settings of `api` that answers depend on."""
    return Requests(**(settings.get("api") or {})).temperature


def read_manifest(out: Path) -> dict[str, Any]:
    """The manifest of the run in `out`; empty if there is none. Raises DataError if it is damaged."""
    path = out / "manifest.json"
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise DataError(f"The manifest {path} is damaged ({error}): delete it, and the run resumes.") from error


@contextmanager
def session(run: Experiment) -> Iterator[None]:
    """Note in the manifest what this session works with; `seconds` stays null if it is killed or interrupted."""
    path, entry = run.out / "manifest.json", {**_session(), "workers": run.executor.about}
    manifest = read_manifest(run.out)
    manifest |= {
        "prompt": {"name": run.prompt.name, "hash": run.prompt.hash},
        "model": run.executor.model.fingerprint,
        "sessions": [*manifest.get("sessions", ()), entry],
    }
    write_json(path, manifest)
    began = time.perf_counter()
    yield
    # Read anew: another session may have shared the folder, answering other policies.
    manifest = read_manifest(run.out)
    for other in manifest["sessions"]:
        if other["id"] == entry["id"]:
            other["seconds"] = round(time.perf_counter() - began, 1)
    write_json(path, manifest)


def _session() -> dict[str, Any]:
    return {
        "id": uuid4().hex[:8],
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": None,
        "git": git_state(),
        "versions": versions(),
        "machine": machine(),
    }


def versions() -> dict[str, str]:
    """Of Python, lagkit and the libraries that results depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def machine() -> dict[str, Any]:
    """The processor, its cores, and the GPU if there is one; no host name."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
    }


def git_state() -> dict[str, Any] | None:
    """Commit of the source tree and whether it was changed since; None outside a checkout.

    An installed copy may lie inside a repository of somebody else, whose commit says nothing of it.
    """
    root = laboratory()
    try:
        if Path(_git(root, "rev-parse", "--show-toplevel")).resolve() != root:
            return None
        commit = _git(root, "rev-parse", "HEAD")
        return {"commit": commit, "changed": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def write_json(path: Path, value: Any) -> None:
    """Write aside, then rename, so that a kill leaves the old file or the new one."""
    aside = path.with_suffix(".tmp")
    aside.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    aside.replace(path)


def _git(root: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
