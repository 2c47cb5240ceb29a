"""What a run was made with, beside its results: settings, code, versions, prompt, model, machine."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lagkit.config import RunConfig
from lagkit.errors import ConfigError

if TYPE_CHECKING:
    from lagkit.experiment import Experiment

_PACKAGES = ("lagkit", "torch", "transformers", "faiss-cpu", "sentence-transformers", "pandas")

# Settings that may change between resumptions of one run: they decide what is answered next, not what an answer is.
_MAY_CHANGE = {"out", "data", "policies", "splits", "device", "batch_size", "seen_questions", "unseen_questions"}


def claim(out: Path, config: RunConfig) -> None:
    """Make the run's folder, or check that it holds a run with these settings; raises ConfigError if it doesn't."""
    path = out / "manifest.json"
    settings = config.model_dump(mode="json")
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))["settings"]
        changed = [k for k in settings if k not in _MAY_CHANGE and settings[k] != before.get(k)]
        if changed:
            what = ", ".join(f"{k} was {before.get(k)!r} and is {settings[k]!r}" for k in changed)
            raise ConfigError(f"{out} holds a run with other settings ({what}): choose another folder.")
    out.mkdir(parents=True, exist_ok=True)
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_json(path, {**before, "settings": settings})


def describe(run: Experiment, **more: Any) -> dict[str, Any]:
    """Complete the run's manifest and return it; `more` is added as it is."""
    manifest = {
        "settings": run.config.model_dump(mode="json"),
        "git": git_state(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        "prompt": {"name": run.prompt.name, "hash": run.prompt.hash},
        "model": run.lm.fingerprint,
        "machine": machine(),
        **more,
    }
    write_json(run.out / "manifest.json", manifest)
    return manifest


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
    """Commit of the source tree and whether it was changed since; None outside a checkout."""
    root = Path(__file__).resolve().parent
    try:
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
