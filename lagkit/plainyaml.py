"""YAML from files and command lines that somebody else may have written."""

from __future__ import annotations

from typing import Any

import yaml

from lagkit.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """Plain values without aliases: a few lines of these can stand for more than a machine holds."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            where = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # of PyYAML
            raise yaml.YAMLError(f"settings have no aliases (`*name`), line {where.line + 1}: write the value out")
        return super().compose_node(parent, index)


def load_yaml(text: str, what: str) -> Any:
    """The value that `text` stands for; raises ConfigError, naming `what`, for anything that is not plain YAML."""
    try:
        return yaml.load(text, _Loader)
    # Besides its own errors: dates that there are not, numbers without digits, tags that do not fit, endless nesting.
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{what} is not YAML: {error}") from error
