"""The sandbox of chat templates: Jinja's own, with limits on memory and time.

Chat templates come with checkpoints from strangers. Jinja's sandbox keeps a template from Python's
internals; this one also limits what a single operator, filter or method may produce, the length of
concatenated text, and the total number of loop iterations.
"""

import datetime
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any

from hermes.chat_templates.turns import mark_end_of_loop, mark_turn

__all__ = ["CLOSE", "OPEN", "Refused", "make_environment"]

# Characters that enclose what the assistant says. Unicode noncharacters, so no text contains them.
OPEN, CLOSE = "\ufdd0", "\ufdd1"
# The largest number passed to a filter or method, and the most characters, items or bits that one
# multiplication may produce.
LONGEST = 1_000_000
# The most characters of concatenated text; conversations may be long.
LARGEST = 100_000_000
# The most iterations of all loops together while one conversation is rendered.
TURNS = 10_000_000

FORMS = ("format", "format_map", "%")
LONG_NUMBER = re.compile(r"\d{7,}")


class Refused(Exception):
    """The template called raise_exception."""


def _raise(message: object) -> None:
    raise Refused(str(message))


def _format_now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def _dump_json(value: Any, indent: int | None = None, **_: Any) -> str:
    # As in Hugging Face's templates; Jinja's own filter escapes HTML.
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _join_bounded(parts: Iterable[Any]) -> str:
    """Join parts to one text. Raises OverflowError where it becomes too long."""
    texts, size = [], 0
    for part in parts:
        texts.append(str(part))
        size += len(texts[-1])
        if size > LARGEST:
            raise OverflowError("the text becomes too large")
    return "".join(texts)


def _estimate_product(operator: str, left: Any, right: Any) -> int:
    """Estimate, from above, the characters, items or bits that * or ** produces."""
    if operator == "*":
        for some, times in ((left, right), (right, left)):
            if isinstance(some, str | list | tuple) and isinstance(times, int):
                return len(some) * times
    if not isinstance(left, int) or not isinstance(right, int):
        return 0
    bits = left.bit_length()
    return bits * right if operator == "**" else bits + right.bit_length()


def _check_operation(operator: str, left: Any, right: Any) -> None:
    """Raise OverflowError where an operator would produce something too large."""
    match operator:
        case "+" if isinstance(left, str | list | tuple) and isinstance(right, type(left)):
            fits = len(left) + len(right) <= LARGEST
        case "%" if isinstance(left, str):
            _check_call("%", (left, right))
            return
        case "*" | "**":
            fits = _estimate_product(operator, left, right) <= LONGEST
        case _:
            return
    if not fits:
        raise OverflowError(f"{operator!r} makes something too large")


def _collect_numbers(arguments: Iterable[Any], *, inside: bool) -> Iterator[int]:
    """Yield the absolute values of integer arguments, with `inside` also those one level deeper."""
    for value in arguments:
        if isinstance(value, int):
            yield abs(value)
        elif inside and isinstance(value, list | tuple | dict):
            yield from _collect_numbers(
                value.values() if isinstance(value, dict) else value, inside=False
            )


def _check_call(name: str, arguments: tuple[Any, ...]) -> None:
    """Raise OverflowError where a filter or method of `given[0]` would produce something too large.

    Padding is bounded by the numbers among the arguments, repetition by the number of places where
    it happens.
    """
    if not arguments:
        return
    value, *others = arguments
    widest = max(_collect_numbers(others, inside=name in FORMS), default=0)
    texts = [len(text) for text in others if isinstance(text, str)]
    size = 0
    if isinstance(value, str):
        match name:
            case "format" | "format_map" | "%" if LONG_NUMBER.search(value):
                widest = LONGEST + 1
            case "replace" if len(others) > 1 and isinstance(others[0], str):
                size = value.count(others[0]) * len(str(others[1]))
            case "indent":
                size = (value.count("\n") + 1) * max([widest, *texts, 4])
            case "expandtabs":
                size = value.count("\t") * max(widest, 8)
            case "wordwrap":
                size = len(value) * max([*texts, 1])
            case "join":
                size = len(value) * sum(len(str(item)) for item in others[0])
    elif name == "join":
        size = len(value) * max([*texts, 0]) + sum(len(item) for item in value if item is str(item))
    elif name == "tojson":
        widest *= 1000  # for each line
    if widest > LONGEST or size > LARGEST:
        raise OverflowError(f"{name!r} makes something too large")


def _limit_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a filter so that it is refused where it would produce something too large."""
    # Filters with this attribute get a context or environment before the value.
    takes_context = hasattr(function, "jinja_pass_arg")

    @wraps(function)
    def run(*arguments: Any, **named: Any) -> Any:
        own, rest = arguments[:takes_context], list(arguments[takes_context:])
        if name == "join" and rest and not isinstance(rest[0], str):
            rest[0] = list(rest[0])
        _check_call(name, (*rest, *named.values()))
        return function(*own, *rest, **named)

    return run


def make_environment(*, marks_turns: bool = False) -> Any:
    """Make the sandbox, with the functions and tags that Hugging Face gives its templates.

    marks_turns: the rendered text says which message each part of it was written for (`turns`).
    """
    from jinja2 import nodes, pass_context
    from jinja2.exceptions import SecurityError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.visitor import NodeTransformer

    class Generation(Extension):
        """`{% generation %} ... {% endgeneration %}`, rendered between OPEN and CLOSE."""

        tags = {"generation"}  # noqa: RUF012  # declared so by the base class

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            call = nodes.CallBlock(self.call_method("_mark"), [], [], body)
            return call.set_lineno(line)

        @staticmethod
        def _mark(caller: Callable[[], str]) -> str:
            return f"{OPEN}{caller()}{CLOSE}"

    class Counting(NodeTransformer):
        """Counts iterations of loops, and makes `~` a filter that checks the result's length."""

        def visit_For(self, node: Any) -> Any:
            node = self.generic_visit(node)
            node.iter = self._wrap_in_filter(node.iter, "_turns")
            if not marks_turns or not isinstance(node.target, nodes.Name):
                return node
            loop = next(loops)
            item = nodes.Name(node.target.name, "load", lineno=node.lineno)
            node.body.insert(0, self._print_filtered(item, "_mark_turn", loop))
            end = self._print_filtered(nodes.Const(loop, lineno=node.lineno), "_mark_end", loop)
            return [node, end]

        def visit_Concat(self, node: Any) -> Any:
            node = self.generic_visit(node)
            return self._wrap_in_filter(nodes.List(node.nodes, lineno=node.lineno), "_join_bounded")

        @staticmethod
        def _wrap_in_filter(node: Any, name: str, *arguments: Any) -> Any:
            call = nodes.Filter(node, name, [*arguments], [], None, None, lineno=node.lineno)
            return call.set_environment(node.environment)

        def _print_filtered(self, node: Any, name: str, loop: int) -> Any:
            number = nodes.Const(loop, lineno=node.lineno)
            call = self._wrap_in_filter(node, name, number)
            return nodes.Output([call], lineno=node.lineno)

    class Sandbox(ImmutableSandboxedEnvironment):
        """Jinja's sandbox, which also refuses to look up what it would only refuse to use."""

        intercepted_binops = frozenset({"*", "**", "+", "%"})
        concat = staticmethod(_join_bounded)

        def _parse(self, source: str, name: str | None, filename: str | None) -> Any:
            return Counting().visit(super()._parse(source, name, filename))

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            """Apply an intercepted operator, if its result is not too large."""
            _check_operation(operator, left, right)
            return super().call_binop(context, operator, left, right)

        def call(self, context: Any, called: Any, /, *given: Any, **named: Any) -> Any:
            """Call a function or method, if its result is not too large."""
            method = getattr(called, "__wrapped__", called)  # Jinja wraps str.format
            if isinstance(of := getattr(method, "__self__", None), str):
                given = tuple(list(one) if isinstance(one, Iterator) else one for one in given)
                _check_call(method.__name__, (of, *given, *named.values()))
            return super().call(context, called, *given, **named)

        def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
            raise SecurityError(
                f"access to attribute {attribute!r} of {type(obj).__name__!r} object"
            )

    loops, over_messages = itertools.count(), set[int]()

    def mark(item: Any, loop: int) -> str:
        return mark_turn(item, loop, over_messages)

    @pass_context  # or the compiler would call it once, as a function of constants
    def mark_end(context: Any, _: Any, loop: int) -> str:
        return mark_end_of_loop(loop, over_messages)

    @pass_context
    def turns(context: Any, items: Iterable[Any]) -> Iterator[Any]:
        counter = context.vars.setdefault("_turns", itertools.count(1))
        for item in items:
            if next(counter) > TURNS:
                raise OverflowError(f"more than {TURNS:,} turns of loops")
            yield item

    environment = Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[Generation, "jinja2.ext.loopcontrols"],
    )
    environment.filters["tojson"] = _dump_json
    environment.filters = {
        name: _limit_filter(name, found) for name, found in environment.filters.items()
    }
    environment.filters |= {"_turns": turns, "_join_bounded": _join_bounded}
    environment.filters |= {"_mark_turn": mark, "_mark_end": mark_end}
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _format_now
    del environment.globals["lipsum"]  # produces text of any length
    return environment
