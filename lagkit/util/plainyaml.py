"""YAML from untrusted files and command lines: plain values only."""

from __future__ import annotations

from typing import Any

import yaml

from lagkit.util.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """Plain values without aliases and repeated keys.

    A few lines of aliases can stand for more than a machine holds; of two equal keys, YAML's own loader takes the last.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            where = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # of PyYAML
            raise yaml.YAMLError(f"settings have no aliases (`*name`), line {where.line + 1}: write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found = super().construct_mapping(node, deep)
        if len(found) < len(node.value):
            keys = [self.construct_object(key) for key, _ in node.value]
            second = next(i for i, key in enumerate(keys) if key in keys[:i])
            line = node.value[second][0].start_mark.line + 1
            raise yaml.YAMLError(f"the key {keys[second]!r} is there a second time in line {line}")
        return found


def load_yaml(text: str, what: str) -> Any:
    """The value that `text` stands for; raises ConfigError, naming `what`, for anything that is not plain YAML."""
    try:
        return yaml.load(text, _Loader)
    # Besides its own errors: dates that there are not, numbers without digits, tags that do not fit, endless nesting.
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{what} is not YAML: {error}") from error
