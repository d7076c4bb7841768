"""Numbers as people read them: bytes and operations with a unit, tables in columns."""

from collections.abc import Iterable, Sequence

__all__ = ["columns", "number_of", "with_unit"]


def number_of(count: int, many: str, one: str = "") -> str:
    """A count and of what: 1 row, 1,200 rows. one: the words where it is one, if an s less is not
    enough.
    """
    return f"{count:,} {(one or many.removesuffix('s')) if count == 1 else many}"


def with_unit(count: float, unit: str) -> str:
    """A count with three digits and a prefix of thousands: 498 MB, 2.55 GFLOP, 512 B."""
    for prefix in ("", "k", "M", "G", "T", "P", "E", "Z"):
        if abs(count) < 999.5 or prefix == "Z":
            break
        count /= 1000
    if not prefix:
        return f"{count:.0f} {unit}"
    digits = 2 if abs(count) < 9.995 else 1 if abs(count) < 99.95 else 0
    return f"{count:.{digits}f} {prefix}{unit}"


def columns(rows: Iterable[Sequence[str]], *, right: Iterable[int] = ()) -> list[str]:
    """Rows as lines, every column as wide as its widest cell; those in `right` end flush."""
    table = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in _transposed(table)]
    flush = set(right)
    return [
        "  ".join(
            cell.rjust(width) if place in flush else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=False))
        ).rstrip()
        for row in table
    ]


def _transposed(table: Sequence[Sequence[str]]) -> list[list[str]]:
    """The columns of rows that may be of different lengths."""
    width = max((len(row) for row in table), default=0)
    return [[row[place] for row in table if place < len(row)] for place in range(width)]
