"""How a complete cell was made otherwise than it would be made today."""

from __future__ import annotations

from collections.abc import Iterator

from server.sweep.cells import Cell
from server.sweep.directory import SweepDirectory
from strategies.code_hash import code_hash


def origins(directory: SweepDirectory, cell: Cell) -> Iterator[str]:
    """In words, each difference: by other code, on another device than this machine would use, with another root. What
    a cell does not say of itself is no difference."""
    manifest, root = directory.manifest_of(cell), directory.root_of(cell)
    code, device, today = manifest.get("code_sha256"), manifest.get("device"), directory.device_of(cell)
    if code not in (None, code_hash()):
        told = "which may not repeat them bit by bit"
        yield f"by other code ({str(code)[:8]}) than today's ({code_hash()[:8]}), {told}"
    if device not in (None, today):
        yield f"on {device}, and {f'{today} would be used' if today else 'there is none'} here today"
    if root != cell.config.data.root:
        yield f"with data.root {root or 'unset'}, and today's is {cell.config.data.root or 'unset'}"
