"""The libraries of the extra ``[features]``: imported when a feature is first extracted, with words for what fails."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from fedrecon_core.errors import DataError

INSTALL = 'python -m pip install -c constraints.txt -e ".[features]"'
SAME_INDEX = "python -m pip install --force-reinstall --no-deps -c constraints.txt torch torchvision --index-url"


def require_library(feature: str, library: str, name: str | None = None) -> Any:
    """The module ``library``, or ``name`` in it; ``DataError`` telling how to install what ``feature`` lacks."""
    package = library.partition(".")[0]
    try:
        importlib.import_module(package)
        module = importlib.import_module(library)
        return module if name is None else getattr(module, name)
    except (ImportError, AttributeError, RuntimeError, OSError) as error:
        raise DataError(f"{feature}: {_words(package, error)}") from error


def _words(library: str, error: Exception) -> str:
    first = list(_chain(error))[-1]
    if isinstance(first, ModuleNotFoundError) and first.name == library:
        return f"expected the library {library}, found none; this needs the extra: {INSTALL}"
    if "operator torchvision::" in str(first):
        return _of_another_torch()
    found = " ".join(f"{type(first).__name__}: {first}".split())
    return f"expected that {library} can be imported, found {found}; install it anew: {INSTALL}"


def _of_another_torch() -> str:
    """torchvision's compiled part fits one build of torch alone; without it, torchvision fails to be imported, and so
    does transformers, which imports it where it is installed."""
    import torch

    build = torch.__version__.partition("+")[2] or "cpu"
    return (
        f"expected a torchvision built for the installed torch {torch.__version__}, found one of another build; take "
        f"both from one index: {SAME_INDEX} https://download.pytorch.org/whl/{build}"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from, the first cause last."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
