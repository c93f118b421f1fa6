"""Faults of a config in one line each: the key, what was expected, what was found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from fedrecon_core.errors import did_you_mean


class InvalidValueError(ValueError):
    """A fault of the key ``key`` (below the model whose validator raises it): what was expected, what was found."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def short_repr(value: Any) -> str:
    """What was found, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def explain(error: ValidationError, raw: Mapping[str, Any], model: type[BaseModel]) -> str:
    """One fault of ``error``, which ``model`` raised on ``raw``, as one line: key, what was expected, what was found.

    An unknown key comes first, since what else is wrong may follow from it; of the faults of a union's branches the one
    that lies deepest does.
    """
    faults = [(_path(fault, raw), fault) for fault in error.errors()]
    first = next((path for path, fault in faults if fault["type"] == "extra_forbidden"), faults[0][0])
    path, fault = max((f for f in faults if f[0][: len(first)] == first), key=lambda found: len(found[0]))
    cause = fault.get("ctx", {}).get("error")
    key = ".".join(str(part) for part in (*path, *([cause.key] if isinstance(cause, InvalidValueError) else [])))
    return " ".join(f"{key or 'config'}: {_words(fault)}{_nearest(path, fault, raw, model)}".split())


def _path(fault: Any, raw: Any) -> tuple[Any, ...]:
    """The keys of ``raw`` that lead to ``fault``, without the names of union branches that pydantic puts between."""
    path: list[Any] = []
    for part in fault["loc"]:
        inside = part in raw if isinstance(raw, Mapping) else isinstance(raw, list) and isinstance(part, int)
        if inside:
            raw = raw[part]
        if inside or (fault["type"] == "missing" and part == fault["loc"][-1]):
            path.append(part)
    return tuple(path)


_EXPECTED = {
    "model_type": "a mapping of keys",
    "dict_type": "a mapping of keys",
    "tuple_type": "a list",
    "invalid_key": "a text",
}
"""Type of a fault -> what was expected, where pydantic's own words speak of Python."""


def _words(fault: Any) -> str:
    kind, message, found = fault["type"], str(fault["msg"]), short_repr(fault["input"])
    if kind == "extra_forbidden":
        return f"unknown key (found {found})."
    if kind == "missing":
        return "this key is required and was not found"
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    words = message.removeprefix("Input should be ").replace("String should match pattern", "a text that matches")
    words = words.split(", unable to parse")[0]
    if kind == "too_short":
        least = fault["ctx"]["min_length"]
        words = f"at least {least} {'entry' if least == 1 else 'entries'}"
    expected = _EXPECTED.get(kind, words)
    return f"expected {expected[0].lower()}{expected[1:]}, found {found}"


def _nearest(path: tuple[Any, ...], fault: Any, raw: Mapping[str, Any], model: type[BaseModel]) -> str:
    """For an unknown key a hint with the nearest known one or, where none is near, all of them."""
    reader = _reader_at(path[:-1], raw, model) if fault["type"] == "extra_forbidden" else None
    known = list(reader.model_fields) if reader else []
    hint = did_you_mean(str(path[-1]), known) if path else ""
    if hint:
        return f" {hint}"
    return f" Known keys: {', '.join(known)}." if known else ""


def _reader_at(path: tuple[Any, ...], raw: Any, model: type[BaseModel]) -> type[BaseModel] | None:
    """The model that reads the mapping at ``path`` of ``raw``."""
    annotation: Any = model
    for part in path:
        reader = _reader(annotation, raw)
        raw = {"name": part, **raw[part]} if isinstance(raw[part], Mapping) else raw[part]
        if reader and str(part) in reader.model_fields:
            field = reader.model_fields[str(part)]
            annotation = (field.annotation, *field.metadata)
    return _reader(annotation, raw)


def _reader(annotation: Any, value: Any) -> type[BaseModel] | None:
    """The model among the parts of an annotation that reads ``value``; a validator that chooses it by the value's
    ``name`` has a method ``params``."""
    choose = getattr(getattr(annotation, "func", None), "params", None)
    if choose is not None:
        try:
            chosen: type[BaseModel] = choose(value)
        except ValueError:
            return None
        return chosen
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = annotation if isinstance(annotation, tuple) else get_args(annotation)
    parts = (*inner, *getattr(annotation, "__metadata__", ()))
    return next((model for part in reversed(parts) if (model := _reader(part, value))), None)
