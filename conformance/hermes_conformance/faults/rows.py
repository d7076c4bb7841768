"""Faults of the KV cache whose rows have different lengths."""

from dataclasses import replace

from hermes.numerics.row_layout import RowLayout, RowPass
from hermes_conformance.faults.fault import Fault, Plant
from hermes_conformance.faults.patcher import FAST_TABLES, Function, Patcher

ROWS, HOT = "L1/rows", "default/hot"
LEARNED, WINDOW = "attention.position_encoding=learned/hot", "attention.mask=window/hot"


def _change_row_pass(change: Function) -> Plant:
    """Change the layout of each pass over rows by change(it)."""

    def plant(patcher: Patcher) -> None:
        patcher.wrap(
            RowLayout, "plan", lambda original: lambda *arguments: change(original(*arguments))
        )

    return plant


def _write_as_first_row(row_pass):
    places = {window: at * 0 + at[:1] for window, at in row_pass.places.items()}
    return replace(row_pass, places=places)


def _place_as_longest_row(row_pass):
    return replace(row_pass, positions=row_pass.positions * 0 + row_pass.positions.max(axis=0))


def _forget_moves(row_pass):
    firsts = {window: first * 0 for window, first in row_pass.firsts.items()}
    return replace(row_pass, firsts=firsts)


def _skip_moves(row_pass):
    return replace(row_pass, moves={window: [] for window in row_pass.moves})


def _move_on_with_ended(patcher: Patcher) -> None:
    """Once a row of the cache is full, the others are a place further on than they are."""

    def wrap(original):
        def faulty(self, *arguments):
            row_pass = original(self, *arguments)
            lengths = zip(self._lengths, self._planned, strict=True)
            has_ended = any(0 < planned == length for length, planned in lengths)
            return replace(row_pass, positions=row_pass.positions + has_ended)

        return faulty

    patcher.wrap(RowLayout, "plan", wrap)


def _return_as_before_end(original, self, rows, *more):
    """Where fewer rows are read than before, each has the logits of another."""
    self._most = max(getattr(self, "_most", 0), len(rows))
    logits = original(self, rows, *more)
    return logits if len(rows) == self._most else logits[::-1]


def _read_from_first_row(row_pass):
    """Rows that are no neighbours are read as if they were."""
    return _FirstRows(**vars(row_pass))


class _FirstRows(RowPass):
    @property
    def span(self) -> slice:
        return slice(0, len(self.rows))


def _change_row_method(cls: str, name: str, change: Function) -> Plant:
    """Wrap a method of the cache of rows, or of a pass over them."""
    module = "cache" if cls == "RowCache" else "row_decoder"
    return lambda patcher: patcher.wrap_method(
        module,
        cls,
        name,
        lambda original: lambda self, *arguments: change(original, self, *arguments),
    )


def _widen_window(original, self, T, S, spec):
    wider = None if spec.window_size is None else spec.window_size + 1
    return original(self, T, S, replace(spec, window_size=wider))


def _amplify_row_attention(factor: float) -> Plant:
    """The fast attention of rows of different lengths is so many times what it should be."""

    def wrap(original):
        def faulty(q, k, v, spec, slopes, sinks, ctx, site):
            y = original(q, k, v, spec, slopes, sinks, ctx, site)
            return y * factor if hasattr(ctx, "rows") else y

        return faulty

    return lambda patcher: patcher.wrap_table("attention", wrap, FAST_TABLES)


def _make_fault(name: str, law: str, case: str, plant: Plant) -> Fault:
    return Fault(name, "cache", law, case, plant)


FAULTS = (
    _make_fault(
        "rows write where the first one does", ROWS, HOT, _change_row_pass(_write_as_first_row)
    ),
    _make_fault(
        "rows have the positions of the longest",
        ROWS,
        LEARNED,
        _change_row_pass(_place_as_longest_row),
    ),
    _make_fault(
        "rows that are no neighbours read as the first ones",
        ROWS,
        HOT,
        _change_row_pass(_read_from_first_row),
    ),
    _make_fault(
        "a row that moved has its old positions",
        ROWS,
        WINDOW,
        _change_row_pass(_forget_moves),
    ),
    _make_fault("a row's last keys do not move", ROWS, WINDOW, _change_row_pass(_skip_moves)),
    _make_fault(
        "rows look a token too far back",
        ROWS,
        WINDOW,
        _change_row_method("RowContext", "_make_mask", _widen_window),
    ),
    _make_fault(
        "a row begins with nothing of what it says",
        ROWS,
        HOT,
        _change_row_method(
            "RowCache",
            "open_row",
            lambda original, self, row, source, length: original(self, row, row, length),
        ),
    ),
    _make_fault("rows move on a place once another has ended", ROWS, HOT, _move_on_with_ended),
    _make_fault(
        "rows have each other's logits once another has ended",
        "L2/texts",
        "greedy.rope/hot",
        _change_row_method("RowDecoder", "advance", _return_as_before_end),
    ),
    _make_fault(
        "fast attention of rows is a hundredth off", "L2/rows", HOT, _amplify_row_attention(1.01)
    ),
    _make_fault(
        "fast attention of rows is a tenth off, in bfloat16",
        "L3/rows",
        HOT,
        _amplify_row_attention(1.1),
    ),
)
