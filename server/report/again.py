"""How a run is repeated, as a command that can be copied."""

from __future__ import annotations

import shlex

from server.report.markup import Markup, paragraph, tag


def command(config: str, out: str) -> list[Markup]:
    """What to type to run ``config`` (a path from the report) again. Every setting of the command line is resolved in
    it, and its ``data.root`` is absolute, so that nothing is left to add."""
    about = "In the folder of this report; all settings are resolved in the config:"
    typed = f"fedrecon run {shlex.quote(config)} --out {shlex.quote(out)}"
    return [paragraph(about), tag("pre", tag("code", typed))]
