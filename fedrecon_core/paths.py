"""Paths as people write them: ``~`` and relative ones, and one line where it can be none."""

from __future__ import annotations

from pathlib import Path

from fedrecon_core.disk import reason
from fedrecon_core.errors import ConfigError


def user_path(text: str | Path, base: Path, key: str) -> Path:
    """``text`` as an absolute path, relative ones from ``base``; ``ConfigError`` naming ``key`` where the system knows
    no such user, or takes no such name."""
    try:
        path = (base / Path(text).expanduser()).resolve()
        path.exists()
    except (RuntimeError, OSError, ValueError) as error:
        found = "".join(c if c.isprintable() else "?" for c in str(text))[:80]
        raise ConfigError(f"{key}: expected a path, found '{found}': {reason(error)}") from None
    return path
