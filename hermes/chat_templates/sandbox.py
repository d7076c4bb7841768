"""Where chat templates run: Jinja's sandbox, in which they make nothing enormous.

Jinja's own keeps a template from what lies outside. This one also bounds what is made inside: by
one operator, filter or method, by putting texts together, and by the turns of loops.
"""

import datetime
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any

__all__ = ["CLOSE", "OPEN", "Refused", "make_environment"]

# Characters that stand around what the assistant says; not for interchange, so in no one's text.
OPEN, CLOSE = "\ufdd0", "\ufdd1"
# Numbers, and characters, items or bits that one multiplication may make.
LONGEST = 1_000_000
# Characters of texts put together; a conversation may hold long ones.
LARGEST = 100_000_000
# Turns of all loops while a conversation is written.
TURNS = 10_000_000

FORMS = ("format", "format_map", "%")
LONG_NUMBER = re.compile(r"\d{7,}")


class Refused(Exception):
    """The template's own refusal, by raise_exception."""


def _raise(message: object) -> None:
    raise Refused(str(message))


def _format_now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def _dump_json(value: Any, indent: int | None = None, **_: Any) -> str:
    # As in Hugging Face's, and not Jinja's own, which writes for HTML.
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _join_bounded(parts: Iterable[Any]) -> str:
    """Parts as one text, if that is not enormous."""
    held, size = [], 0
    for part in parts:
        held.append(str(part))
        size += len(held[-1])
        if size > LARGEST:
            raise OverflowError("the text becomes too large")
    return "".join(held)


def _estimate_product(operator: str, left: Any, right: Any) -> int:
    """Characters, items or bits of what * or ** makes, no fewer than there will be."""
    if operator == "*":
        for some, times in ((left, right), (right, left)):
            if isinstance(some, str | list | tuple) and isinstance(times, int):
                return len(some) * times
    if not isinstance(left, int) or not isinstance(right, int):
        return 0
    bits = left.bit_length()
    return bits * right if operator == "**" else bits + right.bit_length()


def _check_operation(operator: str, left: Any, right: Any) -> None:
    """Raises OverflowError where an operator would make something enormous."""
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


def _collect_numbers(given: Iterable[Any], *, inside: bool) -> Iterator[int]:
    """The whole numbers among arguments, and with `inside` those in their lists and objects."""
    for value in given:
        if isinstance(value, int):
            yield abs(value)
        elif inside and isinstance(value, list | tuple | dict):
            yield from _collect_numbers(
                value.values() if isinstance(value, dict) else value, inside=False
            )


def _check_call(name: str, given: tuple[Any, ...]) -> None:
    """Raises OverflowError where a filter or a method of `given[0]` would make something enormous.

    What pads is told a number; what repeats does so for each place that it finds.
    """
    if not given:
        return
    value, *more = given
    widest = max(_collect_numbers(more, inside=name in FORMS), default=0)
    texts = [len(text) for text in more if isinstance(text, str)]
    size = 0
    if isinstance(value, str):
        match name:
            case "format" | "format_map" | "%" if LONG_NUMBER.search(value):
                widest = LONGEST + 1
            case "replace" if len(more) > 1 and isinstance(more[0], str):
                size = value.count(more[0]) * len(str(more[1]))
            case "indent":
                size = (value.count("\n") + 1) * max([widest, *texts, 4])
            case "expandtabs":
                size = value.count("\t") * max(widest, 8)
            case "wordwrap":
                size = len(value) * max([*texts, 1])
            case "join":
                size = len(value) * sum(len(str(item)) for item in more[0])
    elif name == "join":
        size = len(value) * max([*texts, 0]) + sum(len(item) for item in value if item is str(item))
    elif name == "tojson":
        widest *= 1000  # for each line
    if widest > LONGEST or size > LARGEST:
        raise OverflowError(f"{name!r} makes something too large")


def _limit_filter(name: str, made: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that is refused where it would make something enormous."""
    told = hasattr(made, "jinja_pass_arg")  # Jinja's own first argument, before the value

    @wraps(made)
    def run(*given: Any, **named: Any) -> Any:
        own, rest = given[:told], list(given[told:])
        if name == "join" and rest and not isinstance(rest[0], str):
            rest[0] = list(rest[0])
        _check_call(name, (*rest, *named.values()))
        return made(*own, *rest, **named)

    return run


def make_environment() -> Any:
    """The sandbox, with what Hugging Face's templates are given."""
    from jinja2 import nodes, pass_context
    from jinja2.exceptions import SecurityError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.visitor import NodeTransformer

    class Generation(Extension):
        """`{% generation %} ... {% endgeneration %}`: what the assistant says, between marks."""

        tags = {"generation"}  # noqa: RUF012  # the base class has it so

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            call = nodes.CallBlock(self.call_method("_mark"), [], [], body)
            return call.set_lineno(line)

        @staticmethod
        def _mark(caller: Callable[[], str]) -> str:
            return f"{OPEN}{caller()}{CLOSE}"

    class Counting(NodeTransformer):
        """Loops whose turns are counted, and `~` as a filter that knows how much it makes."""

        def visit_For(self, node: Any) -> Any:
            node = self.generic_visit(node)
            node.iter = self._wrap_in_filter(node.iter, "_turns")
            return node

        def visit_Concat(self, node: Any) -> Any:
            node = self.generic_visit(node)
            return self._wrap_in_filter(nodes.List(node.nodes, lineno=node.lineno), "_join_bounded")

        @staticmethod
        def _wrap_in_filter(node: Any, name: str) -> Any:
            made = nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)
            return made.set_environment(node.environment)

    class Sandbox(ImmutableSandboxedEnvironment):
        """Jinja's, which refuses also to look at what it would only refuse to use."""

        intercepted_binops = frozenset({"*", "**", "+", "%"})
        concat = staticmethod(_join_bounded)

        def _parse(self, source: str, name: str | None, filename: str | None) -> Any:
            return Counting().visit(super()._parse(source, name, filename))

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            """Such an operation, if its result is no larger than a template has use for."""
            _check_operation(operator, left, right)
            return super().call_binop(context, operator, left, right)

        def call(self, context: Any, called: Any, /, *given: Any, **named: Any) -> Any:
            """Such a call, under the same condition."""
            method = getattr(called, "__wrapped__", called)  # of str.format, Jinja's own stands in
            if isinstance(of := getattr(method, "__self__", None), str):
                given = tuple(list(one) if isinstance(one, Iterator) else one for one in given)
                _check_call(method.__name__, (of, *given, *named.values()))
            return super().call(context, called, *given, **named)

        def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
            raise SecurityError(
                f"access to attribute {attribute!r} of {type(obj).__name__!r} object"
            )

    @pass_context
    def turns(context: Any, items: Iterable[Any]) -> Iterator[Any]:
        counter = context.vars.setdefault("_turns", itertools.count(1))
        for item in items:
            if next(counter) > TURNS:
                raise OverflowError(f"more than {TURNS:,} turns of loops")
            yield item

    made = Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[Generation, "jinja2.ext.loopcontrols"],
    )
    made.filters["tojson"] = _dump_json
    made.filters = {name: _limit_filter(name, found) for name, found in made.filters.items()}
    made.filters |= {"_turns": turns, "_join_bounded": _join_bounded}
    made.globals["raise_exception"] = _raise
    made.globals["strftime_now"] = _format_now
    del made.globals["lipsum"]  # text without end, and without use
    return made
