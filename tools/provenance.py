"""How a page of results was made, in Markdown: its command, commit, versions and settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def made_with(command: str, versions: Mapping[str, str], git: Mapping[str, Any] | None) -> str:
    """The command that makes a page, its commit and the versions of what it ran on."""
    state = git or {"commit": "unknown", "changed": True}
    commit = state["commit"] + (" (with changes)" if state["changed"] else "")
    return f"`{command}`, at commit {commit}; {', '.join(f'{name} {number}' for name, number in versions.items())}."


def listed(settings: Mapping[str, Any]) -> str:
    """Settings as a list, their names in code."""
    return "\n".join(f"- `{key}`: {value}" for key, value in settings.items())
