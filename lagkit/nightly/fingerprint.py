"""What a job's results depend on, as short hashes: code, libraries, notebook, parameters and the files they name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lagkit
from lagkit.model.hub import resolve_model
from lagkit.nightly.profile import Plan, Task
from lagkit.runs.manifest import versions

_LENGTH = 16


@dataclass(frozen=True)
class Fingerprint:
    """code: the hash of lagkit's sources, of the testbed's model and of the versions of libraries."""

    code: str

    @classmethod
    def now(cls) -> Fingerprint:
        """Of the code that this process runs."""
        package = Path(lagkit.__file__).parent
        files = [path for path in sorted(package.rglob("*")) if path.is_file() and path.suffix != ".pyc"]
        files += sorted(Path(resolve_model("testbed")).glob("*.safetensors"))
        names = [path.relative_to(package.parent).as_posix() for path in files]
        return cls(_hash(versions(), names, *(path.read_bytes() for path in files)))

    def of(self, task: Task) -> str:
        """Of a job: equal as long as neither code nor notebook, parameters nor data change."""
        return _hash(self.code, task.notebook.read_bytes(), task.parameters, task.run, *_read(task))

    def answers(self, plan: Plan) -> str:
        """Of the logs and answers that a plan's jobs share, which depend on code, parameters and data."""
        files = (content for task in plan.tasks for content in _read(task))
        return _hash(self.code, [[task.name, task.parameters, task.run] for task in plan.tasks], *files)


def _read(task: Task) -> Iterator[bytes]:
    """Contents of the files that a task's parameters `data` and `tier` name: the same path may hold other questions."""
    for name in ("data", "tier"):
        path = task.notebook.parent / str(task.parameters.get(name) or "")
        files = sorted(path.glob("dev_*")) if name == "data" else [path]
        yield from (file.read_bytes() for file in files if file.is_file())


def _hash(*parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part if isinstance(part, bytes) else json.dumps(part).encode()).digest())
    return digest.hexdigest()[:_LENGTH]
