"""Budgets of the code: short functions, files of a sensible size, few private helpers, documented public names."""

import ast
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

pytestmark = pytest.mark.quick

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("fedrecon_core", "strategies", "client", "server")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = Function | ast.ClassDef
PRIVATE_PER_1000_LINES = 13.0
"""Upper bound of private functions and methods; with more of them a reader jumps instead of reading."""
SMALL, SMALL_SHARE = 50, 0.21
"""At most this share of the modules has fewer than ``SMALL`` lines."""


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in FILES:
        yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def length(function: Function) -> int:
    """Lines from ``def`` to the end, without the docstring."""
    total = (function.end_lineno or function.lineno) - function.lineno + 1
    if ast.get_docstring(function) is None:
        return total
    return total - ((function.body[0].end_lineno or 0) - function.body[0].lineno + 1)


def lengths() -> dict[str, int]:
    return {
        f"{path}:{node.lineno} {node.name}": length(node)
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, Function)
    }


def public(body: list[ast.stmt]) -> list[Documented]:
    return [node for node in body if isinstance(node, Documented) and not node.name.startswith("_")]


def is_overload(node: Documented) -> bool:
    return any(ast.unparse(decorator).endswith(("overload", ".setter")) for decorator in node.decorator_list)


def undocumented(tree: ast.Module) -> Iterator[str]:
    """Public names without a docstring; a method of a derived class may be an override, which inherits it."""
    for node in public(tree.body):
        if ast.get_docstring(node) is None and not is_overload(node):
            yield f"{node.lineno} {node.name}"
        if isinstance(node, ast.ClassDef) and not node.bases:
            for method in public(node.body):
                if isinstance(method, Function) and ast.get_docstring(method) is None and not is_overload(method):
                    yield f"{method.lineno} {node.name}.{method.name}"


def test_most_functions_are_short() -> None:
    counted = lengths()
    long = sorted(name for name, lines in counted.items() if lines >= 40)
    assert median(counted.values()) < 15
    assert len(long) <= 0.05 * len(counted), f"{len(long)} of {len(counted)} functions have 40 lines or more: {long}"


def test_files_stay_below_400_lines() -> None:
    counted = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: lines for name, lines in counted.items() if lines >= 400} == {}


def test_few_files_are_tiny() -> None:
    counted = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    small = sorted(name for name, lines in counted.items() if lines < SMALL)
    print(f"{len(small)} of {len(counted)} modules have fewer than {SMALL} lines: {len(small) / len(counted):.0%}")
    assert len(small) <= SMALL_SHARE * len(counted), small


def test_few_functions_are_private_helpers() -> None:
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in FILES)
    names = [
        node.name
        for _, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, Function) and node.name.startswith("_") and not node.name.startswith("__")
    ]
    found = 1000 * len(names) / lines
    print(f"{len(names)} private functions in {lines} lines: {found:.1f} per 1,000")
    assert found <= PRIVATE_PER_1000_LINES


def test_public_names_have_docstrings() -> None:
    missing = [f"{path}:{name}" for path, tree in trees() for name in undocumented(tree)]
    missing += [f"{path}:1 module" for path, tree in trees() if ast.get_docstring(tree) is None]
    assert missing == []


def test_no_module_is_called_utils() -> None:
    assert [str(path) for path in FILES if {"utils", "util"} & {path.stem, path.parent.name}] == []
