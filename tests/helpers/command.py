"""The ``fedrecon`` command, called in the test's own process."""

from __future__ import annotations

import sys
from collections.abc import Callable

from server import cli

Outcome = tuple[int, str, str]
"""Exit code, stdout, stderr."""


def caller(monkeypatch, capsys) -> Callable[..., Outcome]:
    """A function that takes the command's arguments."""

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["fedrecon", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        return code, *capsys.readouterr()

    return call


def refused(outcome: Outcome, *words: str) -> None:
    """Exit code 2, no output, and one line that has all ``words``."""
    code, out, err = outcome
    assert code == 2, outcome
    assert out == ""
    assert err.startswith("fedrecon: ")
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    for word in words:
        assert word in err, err
