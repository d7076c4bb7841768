"""Every mistake of a MAL file in one pass: of syntax, of words, and of what they describe."""

from hermes.errors import MalError
from hermes.mal.meaning import Reader
from hermes.mal.syntax import parse
from hermes.mal.tokens import Source

__all__ = ["list_mistakes"]


def list_mistakes(source: Source) -> list[MalError]:
    """List the mistakes of a file, in its order; none where it has none.

    What follows from another mistake is left out: a definition that is missed because its name is
    misspelt, a limit that holds of a value which cannot be read.
    """
    found: list[MalError] = []
    try:
        tree = parse(source, found)
    except MalError as error:  # the file is too large, or nested too deeply
        return [error]
    reader = Reader(source, tree, found)
    reader.read_all()
    unique = {str(error): error for error in found}
    return sorted(unique.values(), key=lambda error: (error.line, error.column))
