"""Every public function of the backends says what it takes and returns; mypy checks it."""

import ast
from pathlib import Path

import pytest

BACKENDS = Path(__file__).resolve().parents[2] / "backends"
FILES = sorted(BACKENDS.glob("hermes_*/*.py"))


def public_functions(tree):
    """(name, function) of every function and method that others may call, __init__ among them."""
    holders = [("", tree)]
    holders += [(f"{n.name}.", n) for n in tree.body if isinstance(n, ast.ClassDef)]
    for prefix, holder in holders:
        for node in holder.body:
            special = isinstance(node, ast.FunctionDef) and node.name.startswith("__")
            if isinstance(node, ast.FunctionDef) and (special or not node.name.startswith("_")):
                yield f"{prefix}{node.name}", node


def missing_annotations(function):
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    rest = [a for a in (arguments.vararg, arguments.kwarg) if a is not None]
    missing = [a.arg for a in (*named, *rest) if a.annotation is None and a.arg != "self"]
    if function.returns is None and function.name != "__init__":
        missing.append("return")
    return missing


@pytest.mark.parametrize("path", FILES, ids=[str(p.relative_to(BACKENDS)) for p in FILES])
def test_public_functions_are_annotated(path):
    functions = public_functions(ast.parse(path.read_text(encoding="utf-8")))
    missing = {name: missing_annotations(function) for name, function in functions}
    assert {name: found for name, found in missing.items() if found} == {}


def test_a_missing_annotation_is_seen():
    tree = ast.parse("class A:\n    def f(self, x, *, y: int): ...\ndef _g(x): ...")
    assert [(name, missing_annotations(f)) for name, f in public_functions(tree)] == [
        ("A.f", ["x", "return"])
    ]
