"""Every one-token change of a source text: operators, comparisons, constants, booleans, branches.

DeMillo, Lipton and Sayward 1978, "Hints on test data selection"; the operators are the five
that Offutt et al. 1996, "An experimental determination of sufficient mutant operators", found to
stand for all others, with constants besides.
"""

import ast
import io
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

ARITHMETIC = {
    **{"+": "-", "-": "+", "*": "/", "/": "*", "//": "*", "%": "*", "**": "*"},
    **{"<<": ">>", ">>": "<<", "&": "|", "|": "&", "^": "&"},
}
COMPARISONS = {
    **{"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="},
    **{"is": "is not", "is not": "is", "in": "not in", "not in": "in"},
}
BOOLEANS = {"and": "or", "or": "and"}

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Mutant:
    """One change of a file.

    file: below the package, with slashes. function: the qualified name around it, "" for none.
    before, after: the lines that change, their white space made single. occurrence: which of the
    function's changes with these texts. begin, end: characters that `token` takes the place of.
    statement: first and last line of the statement that runs it (of a compound one, its head); 0, 0
    where that is done when the file is imported.
    """

    file: str
    line: int
    function: str
    before: str
    after: str
    begin: int
    end: int
    token: str
    statement: tuple[int, int] = (0, 0)
    occurrence: int = 0

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        """What it is, whatever the lines above it: it stays the same when other lines change."""
        return self.file, self.function, self.before, self.after, self.occurrence

    def change(self, source: str) -> str:
        """The file's text with the change."""
        return source[: self.begin] + self.token + source[self.end :]


@cache
def list_mutants(file: str, source: str) -> tuple[Mutant, ...]:
    """Every change of a source text that still parses, in the order of the text."""
    found, seen = [], Counter[tuple[str, ...]]()
    for mutant in sorted(_Finder(file, source).find(), key=lambda m: (m.begin, m.end, m.token)):
        try:
            ast.parse(mutant.change(source))
        except SyntaxError:
            continue
        same = mutant.function, mutant.before, mutant.after
        found.append(replace(mutant, occurrence=seen[same]))
        seen[same] += 1
    return tuple(found)


def _find_head(node: ast.stmt) -> tuple[int, int]:
    """First and last line of a statement, of a compound one up to its body."""
    body = getattr(node, "body", None) or getattr(node, "cases", None)
    if not body:
        return node.lineno, node.end_lineno or node.lineno
    first = body[0].pattern if isinstance(body[0], ast.match_case) else body[0]
    return node.lineno, max(node.lineno, first.lineno - 1)


class _Finder:
    """Walks a file's syntax tree and finds the tokens to change."""

    def __init__(self, file: str, source: str):
        self._file, self._source, self._statement = file, source, (0, 0)
        lines = source.splitlines(keepends=True)
        self._lines = lines
        self._starts = [0]
        for line in lines:
            self._starts.append(self._starts[-1] + len(line))
        self._tokens = [
            (self._starts[t.start[0] - 1] + t.start[1], self._starts[t.end[0] - 1] + t.end[1], t)
            for t in tokenize.generate_tokens(io.StringIO(source).readline)
            if t.type in (tokenize.OP, tokenize.NAME) and t.string not in "()"
        ]

    def find(self) -> Iterator[Mutant]:
        """The changes, in the order of the tree."""
        yield from self._visit(ast.parse(self._source), "")

    def _get_span(self, node: ast.expr) -> tuple[int, int]:
        """First character of an expression and the one after its last."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return (
            self._find_offset(node.lineno, node.col_offset),
            self._find_offset(node.end_lineno, node.end_col_offset),
        )

    def _find_offset(self, line: int, column: int) -> int:
        """A character from a line, counted from 1, and a column in bytes of UTF-8."""
        before = self._lines[line - 1].encode("utf-8")[:column].decode("utf-8")
        return self._starts[line - 1] + len(before)

    def _make(self, function: str, begin: int, end: int, token: str) -> Mutant:
        line = self._source.count("\n", 0, begin) + 1
        last = self._source.count("\n", 0, end) + 1
        first, after = self._starts[line - 1], self._starts[last]
        changed = self._source[first:begin] + token + self._source[end:after]
        before = " ".join(self._source[first:after].split())
        after_text = " ".join(changed.split())
        where = self._statement
        return Mutant(self._file, line, function, before, after_text, begin, end, token, where)

    def _visit(self, node: ast.AST, function: str, later: bool = False) -> Iterator[Mutant]:
        """The changes below a node, without those of annotations, messages and assertions.

        later: whether it runs when its function is called, not when the file is imported.
        """
        if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom):
            return
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        outer = self._statement
        if isinstance(node, ast.stmt):
            self._statement = _find_head(node) if later else (0, 0)
        yield from self._change(node, function)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            function = f"{function}.{node.name}" if function else node.name
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "bases"):
                continue
            inner = later or (isinstance(node, FUNCTIONS) and name == "body")
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from self._visit(child, function, inner)
        self._statement = outer

    def _change(self, node: ast.AST, function: str) -> Iterator[Mutant]:
        """The changes of a node itself."""
        match node:
            case ast.BinOp(left=left, op=op, right=right):
                # Outside functions `|` joins types and dictionaries.
                if function or not isinstance(op, ast.BitOr):
                    yield from self._replace_operator(function, left, right, ARITHMETIC)
            case ast.AugAssign(target=target, value=value):
                equal = {f"{old}=": f"{new}=" for old, new in ARITHMETIC.items()}
                yield from self._replace_operator(function, target, value, equal)
            case ast.Compare(left=left, comparators=comparators):
                operands = [left, *comparators]
                for one, other in pairwise(operands):
                    yield from self._replace_operator(function, one, other, COMPARISONS)
            case ast.BoolOp(values=values):
                for one, other in pairwise(values):
                    yield from self._replace_operator(function, one, other, BOOLEANS)
            case ast.UnaryOp(op=ast.USub() | ast.Not(), operand=operand):
                begin, end = self._get_span(node)[0], self._get_span(operand)[0]
                opened = self._source[begin:end]
                yield self._make(function, begin, end, opened.lstrip("-not ") or "")
            case ast.Constant(value=value):
                yield from self._change_constant(node, value, function)
            case ast.If(test=test) | ast.IfExp(test=test):
                yield from self._negate(function, test)
            case ast.comprehension(ifs=tests):
                for test in tests:
                    yield from self._negate(function, test)

    def _replace_operator(
        self, function: str, left: ast.expr, right: ast.expr, table: dict[str, str]
    ) -> Iterator[Mutant]:
        """The operator between two expressions, exchanged by the table."""
        after, before = self._get_span(left)[1], self._get_span(right)[0]
        between = [t for t in self._tokens if t[0] >= after and t[1] <= before]
        operator = " ".join(token.string for _, _, token in between)
        if operator in table:
            yield self._make(function, between[0][0], between[-1][1], table[operator])

    def _change_constant(
        self, node: ast.Constant, value: object, function: str
    ) -> Iterator[Mutant]:
        begin, end = self._get_span(node)
        if isinstance(value, bool):
            yield self._make(function, begin, end, str(not value))
        elif isinstance(value, int):
            yield self._make(function, begin, end, str(value + 1))
        elif isinstance(value, float) and abs(value) < 1e300:
            yield self._make(function, begin, end, repr(2 * value or 1.0))

    def _negate(self, function: str, test: ast.expr) -> Iterator[Mutant]:
        """The other branch, unless an exchanged comparison or a `not` left out is that already."""
        match test:
            case ast.Compare(ops=[ast.Is() | ast.IsNot() | ast.In() | ast.NotIn()]):
                return
            case ast.Compare(ops=[ast.Eq() | ast.NotEq()]) | ast.UnaryOp(op=ast.Not()):
                return
        begin, end = self._get_span(test)
        yield self._make(function, begin, end, f"(not ({self._source[begin:end]}))")
