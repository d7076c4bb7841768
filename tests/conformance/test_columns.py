"""The three model.py are one text in three dialects; where they drift, the message is the diff."""

import ast
import difflib
from pathlib import Path

import pytest

BACKENDS = Path(__file__).resolve().parents[2] / "backends"
NAMES = ("numpy", "torch", "mlx")


def outline(source):
    """What must be the same: classes, docstrings, methods, arguments, assigned names, in order."""
    lines = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            lines.append(f"class {node.name}")
            lines.append(f"    says {ast.get_docstring(node)!r}")
            for method in node.body:
                if isinstance(method, ast.FunctionDef):
                    lines += method_outline(method)
    return lines


def method_outline(method):
    name = "forward" if method.name == "__call__" else method.name
    lines = [f"    def {name}({', '.join(argument.arg for argument in method.args.args)})"]
    if ast.get_docstring(method):
        lines.append(f"        says {ast.get_docstring(method)!r}")
    for node in statements(method.body):
        match node:
            case ast.Assign(targets=targets):
                names = [ast.unparse(target) for target in targets]
                lines.append(f"        {' = '.join(names)} =")
            case ast.AugAssign() | ast.AnnAssign():
                lines.append(f"        {ast.unparse(node.target)} =")
            case ast.For(target=target, iter=source):
                lines.append(f"        for {ast.unparse(target)} in {ast.unparse(source)}")
            case ast.If(test=test):
                lines.append(f"        if {ast.unparse(test)}")
            case ast.Return():
                lines.append("        return")
    return lines


def statements(body):
    for node in body:
        yield node
        for part in ("body", "orelse"):
            yield from statements(getattr(node, part, []))
        for case in getattr(node, "cases", []):
            yield from statements(case.body)


def source(name):
    return (BACKENDS / f"hermes_{name}" / "model.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("other", NAMES[1:])
def test_the_columns_say_the_same(other):
    first, second = outline(source("numpy")), outline(source(other))
    diff = difflib.unified_diff(first, second, "hermes_numpy", f"hermes_{other}", lineterm="", n=6)
    text = "\n".join(diff)
    assert not text, f"model.py of hermes_{other} has drifted from the oracle's:\n{text}"


def test_the_outline_sees_a_renamed_variable_and_a_missing_line():
    whole = source("torch")
    for change in [
        ("q, k = self.q_norm(q), self.k_norm(k)", "k = self.k_norm(k)"),
        ("slopes", "p"),
    ]:
        assert change[0] in whole
        assert outline(whole.replace(*change)) != outline(whole)


def test_most_lines_are_the_same_to_the_letter():
    """Printed by -s; the bound only notices a rewrite."""
    lines = [{line.strip() for line in source(name).splitlines() if line.strip()} for name in NAMES]
    share = len(lines[0] & lines[1] & lines[2]) / min(map(len, lines))
    print(f"{share:.0%} of the lines of the three model.py are the same")
    assert share > 0.85


@pytest.mark.parametrize("name", NAMES)
def test_forward_passes_are_read_at_a_glance(name):
    """Lines at most: what would make one longer belongs in ops.py or context.py."""
    most = {"Attention": 25, "FeedForward": 5, "Block": 8, "Stack": 12, "Transformer": 3}
    lengths = {}
    for node in ast.parse(source(name)).body:
        if isinstance(node, ast.ClassDef) and node.name in most:
            forward = next(
                m for m in node.body if getattr(m, "name", "") in ("forward", "__call__")
            )
            lengths[node.name] = forward.end_lineno - forward.lineno + 1
    assert lengths.keys() == most.keys()
    assert {cls: n for cls, n in lengths.items() if n > most[cls]} == {}
