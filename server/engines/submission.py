"""Write the temporary app folder that ``flwr run`` submits; an installed package has none.

It is written from the packages that this process imports, so that the submitted code is the code of the command.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import fedrecon_core
from fedrecon_core.errors import RunError
from strategies.code_hash import sources

BUNDLE_BYTES = 10 * 1024 * 1024  # Flower's limit for a bundle; here counted before compression

_PYPROJECT = """\
[project]
name = "fedrecon"
version = "{version}"
description = "FedRecon, as submitted by its own command"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "fedrecon"

[tool.flwr.app.components]
serverapp = {server}
clientapp = {client}

[tool.flwr.app.config]
config = ""
out = ""
resume = false
settings = ""
"""


def write_app(folder: Path, components: tuple[str, str], extra: Sequence[Path] = ()) -> Path:
    """Write the app into ``folder`` and return it.

    ``components`` names the ServerApp and the ClientApp; ``extra`` are files and folders to copy to its top.

    Raises:
        RunError: the app is larger than Flower takes.
    """
    folder_of_configs = Path(fedrecon_core.__file__).resolve().parent.parent / "configs"
    configs = _below(folder_of_configs, ".yaml") if folder_of_configs.is_dir() else {}
    files = {**sources(".py", ".yaml", ".md"), **configs}  # .md: the templates of the reports
    for path in extra:
        files |= {path.name: path} if path.is_file() else _below(path)
    total = sum(path.stat().st_size for path in files.values())
    if total > BUNDLE_BYTES:
        raise RunError(f"the app has {total} bytes, Flower takes {BUNDLE_BYTES}; remove large files from the packages")
    for name, source in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    server, client = (json.dumps(name) for name in components)
    version = str(getattr(fedrecon_core, "__version__", "0.1.0"))
    text = _PYPROJECT.format(version=version, server=server, client=client)
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    return folder


def _below(folder: Path, *suffixes: str) -> dict[str, Path]:
    wanted = suffixes or (".py", ".yaml", ".json")
    paths = [path for path in folder.rglob("*") if path.suffix in wanted and path.is_file()]
    return {f"{folder.name}/{path.relative_to(folder).as_posix()}": path for path in paths}
