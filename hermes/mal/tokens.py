"""Characters to tokens: the lexical part of MAL, and the source that errors are made from."""

import re
from dataclasses import dataclass

from hermes.errors import MalError
from hermes.mal.tree import quote

__all__ = ["MAX_BYTES", "Source", "Token", "Tokens"]

MAX_BYTES = 2**20
MAX_TOKENS = 50_000
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
# What is left out with a character that begins no token: the rest of its line, or of its number.
STRAY = re.compile(r"\"[^\n}]*+|[-+.0-9][^\s{}\[\],:#\"]*+")


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

    def make_error(self, at: int, sentence: str, kind: type[MalError] = MalError) -> MalError:
        """Make the error that says `sentence` about the text at offset `at`."""
        start = self.text.rfind("\n", 0, at) + 1
        line = self.text.count("\n", 0, at) + 1
        source = self.text[start:].split("\n", 1)[0]
        return kind(sentence, self.file, line, at - start + 1, source)


def _is_too_long(text: str) -> bool:
    return len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES


def _normalize_newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


@dataclass(slots=True)
class Token:
    """A word, number, string or mark, and its offset; "end" ends a file, "stray" begins none."""

    kind: str
    text: str
    at: int

    def __str__(self) -> str:
        return "the end of the file" if self.kind == "end" else quote(self.text)


class Tokens:
    """The tokens of a file, and where its comments begin.

    mistakes: gets what is no token, which becomes one of kind "stray".
    """

    def __init__(self, source: Source, mistakes: list[MalError] | None = None):
        self.comments: list[int] = []
        self.list: list[Token] = []
        at, end = 0, len(source.text)
        while at < end:
            match = TOKEN.match(source.text, at)
            if match is None:
                error = _explain_stray(source, at)
                if mistakes is None:
                    raise error
                mistakes.append(error)
                stray = STRAY.match(source.text, at)
                length = len(stray[0]) if stray else 1
                self.list.append(Token("stray", source.text[at : at + length], at))
                at += length
                continue
            kind, text = str(match.lastgroup), match[0]
            if kind != "space":
                self.list.append(Token(kind, text, at))
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
        self.list.append(Token("end", "", end))


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
