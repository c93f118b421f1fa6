"""Validation errors as one line: the key, what was expected, what was found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from fedrecon_core.errors import did_you_mean


class InvalidValueError(ValueError):
    """An invalid value, raised by the validator of a model. ``key`` is the key of the value below that model."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def short_repr(value: Any) -> str:
    """The ``repr`` of ``value``, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def explain(error: ValidationError, raw: Mapping[str, Any], model: type[BaseModel]) -> str:
    """Describe one of the faults in ``error``, which ``model`` raised on ``raw``, in one line.

    An unknown key is reported first, since it may cause other faults. Of the faults in a union's branches, the deepest
    one is reported.
    """
    faults = [(_path(fault, raw), fault) for fault in error.errors()]
    first = next((path for path, fault in faults if fault["type"] == "extra_forbidden"), faults[0][0])
    path, fault = max((f for f in faults if f[0][: len(first)] == first), key=lambda found: len(found[0]))
    cause = fault.get("ctx", {}).get("error")
    key = ".".join(str(part) for part in (*path, *([cause.key] if isinstance(cause, InvalidValueError) else [])))
    hint = _hint(path, raw, model) if fault["type"] == "extra_forbidden" else ""
    return " ".join(f"{key or 'config'}: {_message(fault)}{hint}".split())


def _path(fault: Any, raw: Any) -> tuple[Any, ...]:
    """The keys of ``raw`` that lead to ``fault``, without the names of union branches that pydantic adds."""
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
"""Type of a fault -> what was expected, where pydantic's message uses terms of Python."""


def _message(fault: Any) -> str:
    """What was expected and found, in the project's form."""
    kind, message, found = fault["type"], str(fault["msg"]), short_repr(fault["input"])
    if kind == "extra_forbidden":
        return f"unknown key (found {found})."
    if kind == "missing":
        return "this key is required and was not found"
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    if kind == "too_short":
        least = fault["ctx"]["min_length"]
        expected = f"at least {least} {'entry' if least == 1 else 'entries'}"
    else:
        message = message.removeprefix("Input should be ").replace("String should match pattern", "a text that matches")
        expected = _EXPECTED.get(kind, message.split(", unable to parse")[0])
    return f"expected {expected[0].lower()}{expected[1:]}, found {found}"


def _hint(path: tuple[Any, ...], raw: Any, model: type[BaseModel]) -> str:
    """The known key nearest to the unknown key at ``path``, or all known keys if none is near."""
    annotation: Any = model
    for part in path[:-1]:
        reader = _reader(annotation, raw)
        raw = {"name": part, **raw[part]} if isinstance(raw[part], Mapping) else raw[part]
        if reader and str(part) in reader.model_fields:
            field = reader.model_fields[str(part)]
            annotation = (field.annotation, *field.metadata)
    reader = _reader(annotation, raw)
    known = list(reader.model_fields) if reader else []
    if hint := did_you_mean(str(path[-1]), known) if path else "":
        return f" {hint}"
    return f" Known keys: {', '.join(known)}." if known else ""


def _reader(annotation: Any, value: Any) -> type[BaseModel] | None:
    """The model among the parts of an annotation that reads ``value``. A validator that chooses the model by the
    value's ``name`` has a method ``params``."""
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
