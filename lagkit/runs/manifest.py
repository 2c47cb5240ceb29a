"""Manifest of a run: settings, code, versions, prompt, model, machine."""

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

from lagkit.util.files import intact, write_json
from lagkit.util.home import laboratory

if TYPE_CHECKING:
    from lagkit.runs.experiment import Experiment

_PACKAGES = ("lagkit", "torch", "transformers", "faiss-cpu", "sentence-transformers", "pandas")

MANIFEST = "manifest.json"
_SHAPES: dict[str, type] = {"settings": dict, "prompt": dict, "data": dict, "sessions": list}


def read_manifest(out: Path) -> dict[str, Any]:
    """The manifest of the run in `out`; empty if there is none. Raises DataError if it is damaged."""
    path = out / MANIFEST
    if not path.exists():
        return {}
    with intact(path, "delete it, and the run resumes"):
        found = dict(json.loads(path.read_text(encoding="utf-8")))
        for name, shape in _SHAPES.items():
            if not isinstance(found.get(name, shape()), shape):
                raise TypeError(f"its {name!r} is no {shape.__name__}")
        return found


@contextmanager
def session(run: Experiment) -> Iterator[None]:
    """Lock the run's folder, and record this session in its manifest; `seconds` stays null if it is interrupted."""
    with run.writing():
        path, manifest = run.out / MANIFEST, read_manifest(run.out)
        entry: dict[str, Any] = {
            "id": uuid4().hex[:8],
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": None,
            "git": git_state(),
            "versions": versions(),
            "machine": machine(),
            "workers": run.executor.about,
        }
        manifest |= {
            "model": run.executor.model.fingerprint,
            "sessions": [*manifest.get("sessions", ()), entry],
        }
        write_json(path, manifest)
        began = time.perf_counter()
        yield
        entry["seconds"] = round(time.perf_counter() - began, 3)
        write_json(path, manifest)


def versions() -> dict[str, str]:
    """Versions of Python, lagkit and the libraries that results depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def machine() -> dict[str, Any]:
    """The processor, what its vectors can do, its cores, and the GPU if there is one; no host name."""
    import torch

    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def git_state() -> dict[str, Any] | None:
    """Commit of the source tree, and whether it has uncommitted changes; None outside a checkout.

    An installed copy may lie inside another repository, whose commit does not describe it.
    """
    root = laboratory()
    try:
        if Path(_git(root, "rev-parse", "--show-toplevel")).resolve() != root:
            return None
        commit = _git(root, "rev-parse", "HEAD")
        return {"commit": commit, "changed": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(root: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
