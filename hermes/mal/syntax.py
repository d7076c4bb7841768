"""The parser of MAL: characters to tokens, tokens to a tree. It knows no keyword.

Each node of the tree carries its offset in the text, from which `Source.make_error` makes an error
with line, column and caret. Nothing but MalError is raised, whatever the bytes: nesting, tokens and
digits are bounded. Keywords are read in `meaning.py`; the grammar is specified in `specs/mal.md`.
"""

import re
from dataclasses import dataclass, field

from hermes.errors import MalError
from hermes.mal.tree import Body, Definition, Field, List, Number, String, Tree, Value, Word, quote

__all__ = ["MAX_BYTES", "MAX_NESTING", "Source", "parse", "parse_value"]

MAX_BYTES = 2**20
MAX_NESTING = 64
MAX_TOKENS = 50_000
MAX_VALUES = 10_000  # of a list, repeated ones counted as often as they are
MAX_LENGTH = {"number": 32, "name": 100}  # characters; a float64 needs 24 at most

# Possessive quantifiers (*+, ++) never backtrack, so that tokenizing takes linear time.
TOKEN = re.compile(
    r"""(?P<space> [ \t\n]++ | \#[^\n]*+ )
      | (?P<name> [A-Za-z_][A-Za-z0-9_-]*+ )
      | (?P<number> (?> -? [0-9]++ (?: \. [0-9]++ )? (?: [eE] [+-]? [0-9]++ )? ) (?![\w.+-]) )
      | (?P<string> " [^"\\]*+ (?: \\. [^"\\]*+ )*+ " )
      | (?P<mark> [{}\[\]:,] )""",
    re.VERBOSE | re.DOTALL,
)
ESCAPE = re.compile(r"\\(.)", re.DOTALL)
ESCAPES = {'"': '"', "\\": "\\", "n": "\n", "t": "\t"}


@dataclass(frozen=True)
class Source:
    """The name and text of a file, lines ended by newlines; makes errors from offsets."""

    text: str
    file: str = "<text>"

    @classmethod
    def from_data(cls, data: str | bytes, file: str = "<text>") -> "Source":
        """Decode a file's bytes, without a byte-order mark. Raises MalError."""
        if len(data) > MAX_BYTES or (isinstance(data, str) and _is_too_long(data)):
            raise MalError(f"a file has at most {MAX_BYTES} bytes", file, 1, 1)
        try:
            text = data if isinstance(data, str) else data.decode("utf-8")
        except UnicodeDecodeError as error:
            before = cls(_normalize_newlines(error.object[: error.start].decode("utf-8-sig")), file)
            byte = error.object[error.start]
            sentence = f"byte 0x{byte:02x} at offset {error.start} is not UTF-8"
            raise before.make_error(len(before.text), sentence) from error
        return cls(_normalize_newlines(text.removeprefix("\ufeff")), file)

    def make_error(self, at: int, sentence: str) -> MalError:
        """Make the error that says `sentence` about the text at offset `at`."""
        start = self.text.rfind("\n", 0, at) + 1
        line = self.text.count("\n", 0, at) + 1
        source = self.text[start:].split("\n", 1)[0]
        return MalError(sentence, self.file, line, at - start + 1, source)


def _is_too_long(text: str) -> bool:
    return len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES


def _normalize_newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


@dataclass(slots=True)
class _Token:
    kind: str
    text: str
    at: int

    def __str__(self) -> str:
        return "the end of the file" if self.kind == "end" else quote(self.text)


class _Tokens:
    """The tokens of a file, and where its comments begin."""

    def __init__(self, source: Source):
        self.comments: list[int] = []
        self.list: list[_Token] = []
        at, end = 0, len(source.text)
        while at < end:
            match = TOKEN.match(source.text, at)
            if match is None:
                raise _explain_stray(source, at)
            kind, text = str(match.lastgroup), match[0]
            if kind != "space":
                self.list.append(_Token(kind, text, at))
            elif text[0] == "#":
                self.comments.append(at)
            if len(self.list) + len(self.comments) > MAX_TOKENS:
                raise source.make_error(
                    at, f"a file has at most {MAX_TOKENS} words, marks and comments"
                )
            if len(text) > MAX_LENGTH.get(kind, MAX_BYTES):
                sentence = f"a {kind} has at most {MAX_LENGTH[kind]} characters, got {len(text)}"
                raise source.make_error(at, sentence)
            at = match.end()
        self.list.append(_Token("end", "", end))


def _explain_stray(source: Source, at: int) -> MalError:
    """Explain why no token begins at an offset."""
    character = source.text[at]
    if character == '"':
        return source.make_error(at, "this string is never closed")
    if character.isdecimal() or character in "+-.":
        run = re.compile(r"[^\s{}\[\],:#\"]+").match(source.text, at)
        found = quote(run[0] if run else character)
        return source.make_error(at, f"{found} is not a number; write 12, -0.5 or 1e-5")
    return source.make_error(at, f"unexpected character {character!r}")


@dataclass
class _Parser:
    """Recursive descent, a method for each rule of the grammar.

    position: index of the next token. depth: open braces and brackets. unclosed: whether the file
    has more opening braces than closing ones.
    """

    source: Source
    tokens: list[_Token]
    position: int = 0
    depth: int = 0
    unclosed: bool = field(init=False)

    def __post_init__(self) -> None:
        marks = [token.text for token in self.tokens if token.kind == "mark"]
        self.unclosed = marks.count("{") > marks.count("}")

    @property
    def next(self) -> _Token:
        return self.tokens[self.position]

    def take(self) -> _Token:
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
        definitions = [self.parse_definition()]
        while self.next.kind != "end":
            definitions.append(self.parse_definition())
        return tuple(definitions)

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
        while not self.is_next("}"):
            # After a missing closing brace comes the next definition, NAME NAME {, or the end.
            missing = self.unclosed and self.is_ahead("name", "name", "{")
            if self.next.kind == "end" or missing:
                what = owner if len(owner) <= 60 else f"{owner[:57]}..."
                raise self.source.make_error(opening.at, f"'{{' opening {what} is never closed")
            fields.append(self.parse_field(owner))
            if self.is_next(","):
                self.take()
        self.close()
        return Body(tuple(fields), opening.at)

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

    def resolve_escapes(self, token: _Token) -> str:
        """Resolve the escapes of a string token and remove its quotes."""

        def resolve(match: re.Match[str]) -> str:
            if match[1] not in ESCAPES:
                sentence = f'unknown escape {quote(match[0])}; known are \\" \\\\ \\n \\t'
                raise self.source.make_error(token.at + 1 + match.start(), sentence)
            return ESCAPES[match[1]]

        return ESCAPE.sub(resolve, token.text[1:-1])

    def open(self) -> _Token:
        token = self.take()
        self.depth += 1
        if self.depth > MAX_NESTING:
            raise self.source.make_error(token.at, f"nesting is deeper than {MAX_NESTING}")
        return token

    def close(self) -> None:
        self.take()
        self.depth -= 1


def parse(source: Source) -> Tree:
    """Parse a file. Raises MalError at the first mistake."""
    tokens = _Tokens(source)
    definitions = _Parser(source, tokens.list).parse_file()
    return Tree(definitions, tuple(tokens.comments))


def parse_value(source: Source, owner: str) -> Value:
    """Parse a text that is one value; owner: its key, for errors. Raises MalError."""
    parser = _Parser(source, _Tokens(source).list)
    value = parser.parse_value(owner)
    if parser.next.kind != "end":
        raise parser.make_expected_error("one value")
    return value
