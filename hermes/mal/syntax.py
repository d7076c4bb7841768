"""The parser of MAL: tokens to a tree. It knows no keyword.

Each node of the tree carries its offset in the text, from which `Source.make_error` makes an error
with line, column and caret. Nothing but MalError is raised, whatever the bytes: nesting, tokens and
digits are bounded. Keywords are read in `meaning.py`; the grammar is specified in `specs/mal.md`.
"""

import re
from dataclasses import dataclass, field

from hermes.errors import MalError
from hermes.mal.tokens import Source, Token, Tokens
from hermes.mal.tree import Body, Definition, Field, List, Number, String, Tree, Value, Word, quote

__all__ = ["MAX_NESTING", "parse", "parse_value"]

MAX_NESTING = 64
MAX_VALUES = 10_000  # of a list, repeated ones counted as often as they are
ESCAPE = re.compile(r"\\(.)", re.DOTALL)
ESCAPES = {'"': '"', "\\": "\\", "n": "\n", "t": "\t"}


class _Unclosed(MalError):
    """A brace is never closed: nobody knows which part what follows belongs to."""


@dataclass
class _Parser:
    """Recursive descent, a method for each rule of the grammar.

    position: index of the next token. depth: open braces and brackets. unclosed: whether the file
    has more opening braces than closing ones. mistakes: gets all of them, and parsing continues at
    the next field or definition; None to raise the first.
    """

    source: Source
    tokens: list[Token]
    mistakes: list[MalError] | None = None
    has_gaps: bool = False
    position: int = 0
    depth: int = 0
    unclosed: bool = field(init=False)

    def __post_init__(self) -> None:
        marks = [token.text for token in self.tokens if token.kind == "mark"]
        self.unclosed = marks.count("{") > marks.count("}")

    @property
    def next(self) -> Token:
        return self.tokens[self.position]

    def take(self) -> Token:
        """Consume and return the next token; the last one, the end, is never consumed."""
        token = self.tokens[self.position]
        self.position = min(self.position + 1, len(self.tokens) - 1)
        return token

    def is_next(self, *texts: str) -> bool:
        """Whether the next token is one of these marks."""
        return self.next.kind == "mark" and self.next.text in texts

    def is_ahead(self, *kinds: str) -> bool:
        """Whether the next tokens are of these kinds; a mark is its own kind."""
        found = self.tokens[self.position : self.position + len(kinds)]
        seen = [token.text if token.kind == "mark" else token.kind for token in found]
        return seen == list(kinds)

    def make_expected_error(self, what: str) -> MalError:
        """Make the error that `what` was expected in place of the next token."""
        return self.source.make_error(self.next.at, f"expected {what}, found {self.next}")

    def parse_file(self) -> tuple[Definition, ...]:
        """file = definition+"""
        definitions: list[Definition] = []
        while not definitions or self.next.kind != "end":
            start = self.position
            try:
                definitions.append(self.parse_definition())
            except MalError as error:
                self.note(error)
                self.has_gaps, self.depth = True, 0
                self.position = start
                self.take()
                while self.next.kind != "end" and not self.is_definition_next():
                    self.take()
                if self.next.kind == "end":
                    break
        return tuple(definitions)

    def note(self, error: MalError) -> None:
        """Raise an error, or note it where all mistakes are wanted."""
        if self.mistakes is None:
            raise error
        if self.tokens[self.position].kind != "stray":  # that was noted
            self.mistakes.append(error)

    def is_definition_next(self) -> bool:
        """Whether a definition begins here: NAME NAME {, first in its line."""
        return self.is_ahead("name", "name", "{") and self.is_first_in_line()

    def is_first_in_line(self) -> bool:
        """Whether the next token is the first of its line."""
        if self.position == 0:
            return True
        before = self.tokens[self.position - 1].at
        return "\n" in self.source.text[before : self.next.at]

    def skip_field(self, start: int) -> str:
        """Skip what cannot be parsed from token `start` on, up to the next field or the brace.

        Returns the key, "" where there is none.
        """
        first = self.tokens[start]
        self.position, braces = start, 0  # only braces have fields in them, whatever is unclosed
        while self.next.kind != "end":
            begins = self.is_ahead("name", ":") or self.is_ahead("name", "{")
            apart = self.is_first_in_line() or self.tokens[self.position - 1].text == ","
            is_next_field = begins and apart and self.position > start
            if braces <= 0 and (self.is_next("}") or is_next_field):
                break
            if self.position > start and self.is_definition_next():
                break
            braces += self.is_next("{") - self.is_next("}")
            self.take()
        return first.text if first.kind == "name" else ""

    def parse_definition(self) -> Definition:
        """definition = NAME NAME body"""
        if self.next.kind != "name":
            raise self.make_expected_error("a definition, as in model my_model { ... }")
        kind = self.take()
        if self.next.kind != "name":
            raise self.make_expected_error(f"a name after {quote(kind.text)}")
        name = self.take()
        if not self.is_next("{"):
            raise self.make_expected_error(f"'{{' after {quote(name.text)}")
        body = self.parse_body(f"{kind.text} {name.text}")
        return Definition(kind.text, name.text, body, kind.at, name.at)

    def parse_body(self, owner: str) -> Body:
        """body = "{" (field ","?)* "}" """
        opening = self.open()
        fields: list[Field] = []
        skipped: list[str] = []
        depth = self.depth
        while not self.is_next("}"):
            # After a missing closing brace comes the next definition, NAME NAME {, or the end.
            missing = self.unclosed and self.is_ahead("name", "name", "{")
            if self.next.kind == "end" or missing:
                what = owner if len(owner) <= 60 else f"{owner[:57]}..."
                sentence = f"'{{' opening {what} is never closed"
                raise self.source.make_error(opening.at, sentence, _Unclosed)
            start = self.position
            try:
                fields.append(self.parse_field(owner))
            except _Unclosed:
                raise
            except MalError as error:
                self.note(error)
                skipped.append(self.skip_field(start))
                self.depth = depth
            if self.is_next(","):
                self.take()
        self.close()
        return Body(tuple(fields), opening.at, tuple(skipped))

    def parse_field(self, owner: str) -> Field:
        """field = NAME ":" value | NAME body"""
        if self.next.kind != "name":
            raise self.make_expected_error(f"a key of {owner}" if len(owner) <= 60 else "a key")
        key = self.take()
        if self.is_next("{"):
            return Field(key.text, self.parse_body(key.text), key.at)
        if not self.is_next(":"):
            raise self.make_expected_error(f"':' after {quote(key.text)}")
        self.take()
        return Field(key.text, self.parse_value(key.text), key.at)

    def parse_value(self, owner: str) -> Value:
        """value = NUMBER | STRING | BOOL | NAME body? | body | list"""
        token = self.next
        match token.kind:
            case "number":
                return Number(self.take().text, token.at)
            case "string":
                return String(self.resolve_escapes(self.take()), token.at)
            case "name":
                self.take()
                body = self.parse_body(token.text) if self.is_next("{") else None
                return Word(token.text, body, token.at)
        if self.is_next("{"):
            return self.parse_body(owner)
        if self.is_next("["):
            return self.parse_list(owner)
        raise self.make_expected_error(f"a value of {quote(owner)}")

    def parse_list(self, owner: str) -> List:
        """list = "[" item ("," item)* ","? "]" """
        opening = self.open()
        values = self.parse_item(owner)
        while self.is_next(","):
            self.take()
            if self.is_next("]"):
                break
            values += self.parse_item(owner)
            if len(values) > MAX_VALUES:
                sentence = f"a list has at most {MAX_VALUES} values"
                raise self.source.make_error(opening.at, sentence)
        if self.next.kind == "end":
            raise self.source.make_error(opening.at, f"'[' opening {quote(owner)} is never closed")
        if not self.is_next("]"):
            raise self.make_expected_error("',' or ']'")
        self.close()
        return List(tuple(values), opening.at)

    def parse_item(self, owner: str) -> list[Value]:
        """item = (NUMBER "x")? value; `3 x a` is a, a, a."""
        value = self.parse_value(owner)
        if not isinstance(value, Number) or (self.next.kind, self.next.text) != ("name", "x"):
            return [value]
        self.take()
        is_count = re.fullmatch("[0-9]+", value.text) and 1 <= int(value.text) <= MAX_VALUES
        if not is_count:
            sentence = f"{value.text} x repeats a value; write an integer from 1 to {MAX_VALUES}"
            raise self.source.make_error(value.at, sentence)
        return int(value.text) * [self.parse_value(owner)]

    def resolve_escapes(self, token: Token) -> str:
        """Resolve the escapes of a string token and remove its quotes."""

        def resolve(match: re.Match[str]) -> str:
            if match[1] not in ESCAPES:
                sentence = f'unknown escape {quote(match[0])}; known are \\" \\\\ \\n \\t'
                raise self.source.make_error(token.at + 1 + match.start(), sentence)
            return ESCAPES[match[1]]

        return ESCAPE.sub(resolve, token.text[1:-1])

    def open(self) -> Token:
        token = self.take()
        self.depth += 1
        if self.depth > MAX_NESTING:
            raise self.source.make_error(token.at, f"nesting is deeper than {MAX_NESTING}")
        return token

    def close(self) -> None:
        self.take()
        self.depth -= 1


def parse(source: Source, mistakes: list[MalError] | None = None) -> Tree:
    """Parse a file. Raises MalError at the first mistake.

    mistakes: gets all that can be told apart, and what lies between them is parsed. Raises MalError
    then only for a file that is too large.
    """
    tokens = Tokens(source, mistakes)
    parser = _Parser(source, tokens.list, mistakes)
    definitions = parser.parse_file()
    return Tree(definitions, tuple(tokens.comments), parser.has_gaps)


def parse_value(source: Source, owner: str) -> Value:
    """Parse a text that is one value; owner: its key, for errors. Raises MalError."""
    parser = _Parser(source, Tokens(source).list)
    value = parser.parse_value(owner)
    if parser.next.kind != "end":
        raise parser.make_expected_error("one value")
    return value
