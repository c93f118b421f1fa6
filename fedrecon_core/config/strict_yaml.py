"""YAML as people write it by hand: plain values, no key twice, nothing that a parser chokes on."""

from __future__ import annotations

from typing import Any

import yaml


class StrictLoader(yaml.SafeLoader):
    """Refuses a mapping that names a key twice, of which plain YAML silently takes the last one."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """The mapping of ``node``."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise RepeatedKeyError(str(key.value), key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep=deep)


class RepeatedKeyError(yaml.MarkedYAMLError):
    """A key stands twice in one mapping."""

    def __init__(self, key: str, mark: Any) -> None:
        super().__init__(problem=f"the key '{key}' stands twice", problem_mark=mark)
        self.key = key
        self.line = int(mark.line) + 1


def load(text: str, loader: Any = StrictLoader) -> Any:
    """The value of ``text``; whatever is wrong with it is a ``yaml.YAMLError``, also a date that is none, a key that is
    a list, or a nesting that has no end."""
    try:
        return yaml.load(text, loader)
    except yaml.YAMLError:
        raise
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except Exception as error:  # what PyYAML makes of `!!bool x` is a KeyError, of `!!int ""` an IndexError
        raise yaml.YAMLError(f"a value that cannot be read: {error}") from None
