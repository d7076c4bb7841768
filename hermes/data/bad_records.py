"""What becomes of records that cannot be read: the first one stops, or they are counted."""

from hermes.errors import DataError
from hermes.formatting import format_count

__all__ = [
    "LISTED",
    "MAX_BAD_RECORDS",
    "SKIP_ADVICE",
    "BadRecordError",
    "BadRecords",
    "skip_or_raise",
]

MAX_BAD_RECORDS = 0.01
LISTED = 10
SKIP_ADVICE = "; --skip-bad-records leaves such records out"
# Below so many records the share of bad ones is judged only when all are read.
FEW = 10_000


class BadRecordError(DataError):
    """A record that cannot be read, and may be left out. reason: the sentence without that."""

    def __init__(self, reason: str):
        super().__init__(f"{reason}{SKIP_ADVICE}")
        self.reason = reason


class BadRecords:
    """Counts the records that are left out, and keeps the sentences of the first ten.

    limit: the share of bad records, of all, above which reading stops.
    """

    def __init__(self, limit: float = MAX_BAD_RECORDS):
        if not 0 <= limit <= 1:
            raise DataError(f"--max-bad-records must be from 0 to 1, got {limit}")
        self.limit, self.good, self.bad = limit, 0, 0
        self.first: list[str] = []

    def skip(self, error: DataError) -> None:
        """Leave out a record. Raises DataError where too many were left out."""
        self.bad += 1
        if len(self.first) < LISTED:
            self.first.append(str(error))
        if self.bad > self.limit * max(self.bad + self.good, FEW):
            self._refuse()

    def check(self) -> None:
        """Judge the share of bad records, now that all are read. Raises DataError."""
        if self.bad > self.limit * (self.bad + self.good):
            self._refuse()

    def _refuse(self) -> None:
        raise DataError(
            f"{format_count(self.bad, 'bad records')} among {self.bad + self.good:,}, more than "
            f"{self.limit:.3g} of them; the first: {self.first[0]}; mend them, or raise "
            "--max-bad-records"
        )

    def describe(self) -> list[str]:
        """Sentences for the user: how many were left out, and the first ten."""
        if not self.bad:
            return []
        more = f", of which the first {LISTED} are" if self.bad > LISTED else ""
        return [f"left out {format_count(self.bad, 'bad records')}{more}:", *self.first]


def skip_or_raise(error: DataError, bad: BadRecords | None) -> None:
    """Leave a record out where bad ones are counted; else raise its error, with that way out."""
    if bad is None:
        raise BadRecordError(str(error)) from None
    bad.skip(error)
