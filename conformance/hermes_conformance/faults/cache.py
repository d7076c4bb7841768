"""Faults of the cache and of packed documents."""

from hermes import interface
from hermes_conformance.faults.fault import Fault, Inside

DECODING, PACKING = "L1/decoding", "L1/packing"
DEFAULT, PACKED = "default/fresh", "default/hot"
LEARNED = "attention.position_encoding=learned"


def _extend(change):
    """change(original, self, layer, k, v) in the place of what a cache keeps and hands back."""

    def plant(inside: Inside) -> None:
        inside.method(
            "cache",
            "KVCache",
            "update",
            lambda original: lambda self, layer, k, v: change(original, self, layer, k, v),
        )

    return plant


def _first_row(original, self, layer, k, v):
    """What a kernel once did to every row but the first."""
    if k.shape[2] == 1:
        k = k * 0 + k[:1]
    return original(self, layer, k, v)


def _short(original, self, layer, k, v):
    k, v = original(self, layer, k, v)
    return k[:, :, -6:], v[:, :, -6:]


def _one_layer(original, self, layer, k, v):
    return original(self, 0, k, v)


def _context(name, change):
    def plant(inside: Inside) -> None:
        inside.wrap(inside.module("context").Context, name, change)

    return plant


def _offset(change):
    """change(tokens read so far) in the place of where a pass begins."""
    return _context("offset", lambda original: property(lambda self: change(original.fget(self))))


def _upper_left(inside: Inside) -> None:
    inside.method(
        "context",
        "Context",
        "relative_positions",
        lambda original: lambda self, T, S: original(self, T, S) - self.offset,
    )


def _documents(change):
    """change(segments and positions) in the place of both."""

    def plant(inside: Inside) -> None:
        inside.method(
            "runtime",
            "Runtime",
            "load_segments",
            lambda original: lambda self, segments: change(original, self, segments),
        )

    return plant


def _shifted(original, self, segments):
    if segments is None:
        return original(self, None)
    late = segments.copy()
    late[:, 1:] = segments[:, :-1]
    return original(self, late)


def _row_of_first(original, self, segments):
    return original(self, None if segments is None else segments * 0 + segments[:1])


def _running(original, self, segments):
    found, places = original(self, segments)
    if found is None:
        return None, None
    return found, places * 0 + original(self, segments * 0)[1]


def _uncounted(inside: Inside) -> None:
    inside.function(interface.check_tokens, lambda original: lambda *arguments: None)


def _capacity(inside: Inside) -> None:
    def make(original):
        def wrong(self, *arguments):
            original(self, *arguments)
            self._capacity = 10**6

        return wrong

    inside.method("inference", "Decoder", "__init__", make)


def _fault(name, law, case, plant, part="cache"):
    return Fault(name, part, law, case, plant)


FAULTS = (
    _fault("single steps write the first row's keys", DECODING, DEFAULT, _extend(_first_row)),
    _fault("the cache keeps six tokens", DECODING, DEFAULT, _extend(_short)),
    _fault(
        "the cache hands keys back as values",
        DECODING,
        DEFAULT,
        _extend(lambda original, self, layer, k, v: original(self, layer, k, v)[::-1]),
    ),
    _fault("layers share a cache", DECODING, DEFAULT, _extend(_one_layer)),
    _fault("positions begin anew in each read", DECODING, f"{LEARNED}/fresh", _offset(lambda n: 0)),
    _fault("positions lag by one", DECODING, f"{LEARNED}/fresh", _offset(lambda n: max(n - 1, 0))),
    _fault("a second read is masked from its own start", DECODING, DEFAULT, _upper_left),
    _fault("a cache takes more than its capacity", "L0/refusals", DEFAULT, _capacity),
    _fault("ids are not checked", "L0/refusals", DEFAULT, _uncounted, "refusals"),
    _fault(
        "documents see each other",
        PACKING,
        PACKED,
        _documents(lambda original, self, segments: (None, None)),
        "packing",
    ),
    _fault(
        "a document's first token belongs to the last",
        PACKING,
        PACKED,
        _documents(_shifted),
        "packing",
    ),
    _fault("all rows are cut as the first", PACKING, PACKED, _documents(_row_of_first), "packing"),
    _fault(
        "positions run on across documents",
        PACKING,
        f"{LEARNED}/hot",
        _documents(_running),
        "packing",
    ),
)
