"""Every public function and method of the package is annotated."""

import ast
from pathlib import Path

import pytest

import hermes_conformance

PACKAGE = Path(hermes_conformance.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))


def find_public_functions(tree):
    """Functions and methods of a module that others may call."""
    holders = [tree, *(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name[0] != "_")]
    for holder in holders:
        for node in holder.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                yield node, holder is not tree


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(PACKAGE)) for path in FILES])
def test_public_functions_are_annotated(path):
    for node, is_method in find_public_functions(ast.parse(path.read_text(encoding="utf-8"))):
        arguments = node.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        named += [argument for argument in (arguments.vararg, arguments.kwarg) if argument]
        missing = [argument.arg for argument in named if argument.annotation is None]
        if is_method and named and named[0].arg in ("self", "cls"):
            missing.remove(named[0].arg)
        where = f"line {node.lineno}: {node.name}"
        assert not missing, f"{where}: {', '.join(missing)} without a type"
        assert node.returns is not None, f"{where}: no type of what it returns"
