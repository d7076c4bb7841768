"""Faults of the KV cache and of packed documents."""

from hermes import interface
from hermes_conformance.faults.fault import Fault, Plant
from hermes_conformance.faults.patcher import Function, Patcher

DECODING, PACKING = "L1/decoding", "L1/packing"
DEFAULT, PACKED = "default/fresh", "default/hot"
LEARNED = "attention.position_encoding=learned"
WINDOW = "attention.mask=window"


def _change_cache_update(change: Function) -> Plant:
    """Update the KV cache by change(original, self, layer, k, v)."""

    def plant(patcher: Patcher) -> None:
        patcher.wrap_method(
            "cache",
            "KVCache",
            "update",
            lambda original: lambda self, layer, k, v: change(original, self, layer, k, v),
        )

    return plant


def _write_first_row(original, self, layer, k, v):
    """All rows get the first row's keys, as a kernel once did."""
    if k.shape[2] == 1:
        k = k * 0 + k[:1]
    return original(self, layer, k, v)


def _keep_six_tokens(original, self, layer, k, v):
    k, v = original(self, layer, k, v)
    return k[:, :, -6:], v[:, :, -6:]


def _share_layers(original, self, layer, k, v):
    return original(self, 0, k, v)


def _change_context(name: str, change: Function) -> Plant:
    def plant(patcher: Patcher) -> None:
        patcher.wrap(patcher.load_module("context").Context, name, change)

    return plant


def _change_offset(change: Function) -> Plant:
    """Begin a pass at position change(tokens read so far)."""
    return _change_context(
        "offset", lambda original: property(lambda self: change(original.fget(self)))
    )


def _mask_from_own_start(patcher: Patcher) -> None:
    patcher.wrap_method(
        "context",
        "Context",
        "relative_positions",
        lambda original: lambda self, T, S: original(self, T, S) - self.offset,
    )


def _drop_oldest_key(original, self, layer, k, v):
    """A window's buffer is a token too short once it has moved."""
    T, window = k.shape[2], self._windows[layer]
    k, v = original(self, layer, k, v)
    full = window is not None and k.shape[2] == window - 1 + T
    return (k[:, :, 1:], v[:, :, 1:]) if full else (k, v)


def _change_documents(change: Function) -> Plant:
    """Make documents and positions by change(original, self, segments)."""

    def plant(patcher: Patcher) -> None:
        patcher.wrap_method(
            "runtime",
            "Runtime",
            "load_segments",
            lambda original: lambda self, segments: change(original, self, segments),
        )

    return plant


def _delay_documents(original, self, segments):
    if segments is None:
        return original(self, None)
    late = segments.copy()
    late[..., 1:] = segments[..., :-1]
    return original(self, late)


def _copy_first_row(original, self, segments):
    return original(self, None if segments is None else segments * 0 + segments[..., :1, :])


def _continue_positions(original, self, segments):
    documents, positions = original(self, segments)
    if documents is None:
        return None, None
    return documents, positions * 0 + original(self, segments * 0)[1]


def _skip_token_check(patcher: Patcher) -> None:
    patcher.wrap_function(interface.check_tokens, lambda original: lambda *arguments: None)


def _raise_capacity(patcher: Patcher) -> None:
    def wrap(original):
        def faulty(self, *arguments):
            original(self, *arguments)
            self._capacity = 10**6

        return faulty

    patcher.wrap_method("inference", "Decoder", "__init__", wrap)


def _make_fault(name: str, law: str, case: str, plant: Plant, part: str = "cache") -> Fault:
    return Fault(name, part, law, case, plant)


FAULTS = (
    _make_fault(
        "single steps write the first row's keys",
        DECODING,
        DEFAULT,
        _change_cache_update(_write_first_row),
    ),
    _make_fault(
        "the cache keeps six tokens", DECODING, DEFAULT, _change_cache_update(_keep_six_tokens)
    ),
    _make_fault(
        "the cache hands keys back as values",
        DECODING,
        DEFAULT,
        _change_cache_update(lambda original, self, layer, k, v: original(self, layer, k, v)[::-1]),
    ),
    _make_fault("layers share a cache", DECODING, DEFAULT, _change_cache_update(_share_layers)),
    _make_fault(
        "positions begin anew in each read",
        DECODING,
        f"{LEARNED}/fresh",
        _change_offset(lambda n: 0),
    ),
    _make_fault(
        "positions lag by one",
        DECODING,
        f"{LEARNED}/fresh",
        _change_offset(lambda n: max(n - 1, 0)),
    ),
    _make_fault(
        "a second read is masked from its own start", DECODING, DEFAULT, _mask_from_own_start
    ),
    _make_fault(
        "a window's cache drops a key too many",
        DECODING,
        f"{WINDOW}/fresh",
        _change_cache_update(_drop_oldest_key),
    ),
    _make_fault("a cache takes more than its capacity", "L0/refusals", DEFAULT, _raise_capacity),
    _make_fault("ids are not checked", "L0/refusals", DEFAULT, _skip_token_check, "refusals"),
    _make_fault(
        "documents see each other",
        PACKING,
        PACKED,
        _change_documents(lambda original, self, segments: (None, None)),
        "packing",
    ),
    _make_fault(
        "a document's first token belongs to the last",
        PACKING,
        PACKED,
        _change_documents(_delay_documents),
        "packing",
    ),
    _make_fault(
        "all rows are cut as the first",
        PACKING,
        PACKED,
        _change_documents(_copy_first_row),
        "packing",
    ),
    _make_fault(
        "positions run on across documents",
        PACKING,
        f"{LEARNED}/hot",
        _change_documents(_continue_positions),
        "packing",
    ),
)
