"""Text that ends before a stop string, even where that begins in one token and ends in another."""

from collections.abc import Sequence

from hermes.errors import HermesError

__all__ = ["StopStrings"]


class StopStrings:
    """Passes on a text that comes in pieces, up to where the first stop string begins.

    What may be the beginning of a stop string is held back until it is known to be none.
    """

    def __init__(self, stops: Sequence[str] = ()):
        if not all(stops):
            raise HermesError("a stop string is empty; give one with a character at least")
        self._stops = tuple(stops)
        self._longest = max(map(len, stops), default=0)
        self._held = ""
        self.found: str | None = None

    def push(self, piece: str) -> str:
        """Add a piece; return the text that is certain to come before any stop string."""
        if self.found is not None:
            return ""
        text = self._held + piece
        places = [(text.find(stop), stop) for stop in self._stops]
        # The one that is whole first, so that it does not matter how the text is cut into pieces.
        first = min(((at + len(stop), at, stop) for at, stop in places if at >= 0), default=None)
        if first is not None:
            self.found, self._held = first[2], ""
            return text[: first[1]]
        held = self._count_held(text)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def _count_held(self, text: str) -> int:
        """How many of the last characters begin a stop string."""
        for count in range(min(self._longest - 1, len(text)), 0, -1):
            if any(stop.startswith(text[-count:]) for stop in self._stops):
                return count
        return 0

    def flush(self) -> str:
        """What was held back, at the end of the text."""
        rest, self._held = self._held, ""
        return rest
