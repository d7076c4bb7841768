"""Faults of decoders made for a GPU, and of the choice of tokens on the device."""

from hermes_conformance.faults.fault import Fault, Plant
from hermes_conformance.faults.patcher import Function, Patcher

ROWS, CHOICES, HOT = "L2/device-rows", "L2/choices", "default/hot"


def _change_choice(name: str, change: Function) -> Plant:
    """A step of the choice is change(original, *its arguments)."""
    return lambda patcher: patcher.wrap(
        patcher.load_module("token_choice"),
        name,
        lambda original: lambda *arguments: change(original, *arguments),
    )


def _change_step(cls: str, name: str, change: Function) -> Plant:
    return lambda patcher: patcher.wrap_method(
        "static_rows",
        cls,
        name,
        lambda original: lambda self, *arguments: change(original, self, *arguments),
    )


def _write_over_idle_rows(original, self, layer, k, v, inputs, width):
    """Rows that take no part write to their first place."""
    places = dict(inputs.places)
    for window, at in places.items():
        places[window] = at % self.layout.get_size(window)
    kept, inputs.places = inputs.places, places
    try:
        return original(self, layer, k, v, inputs, width)
    finally:
        inputs.places = kept


def _fold_other_heads(original, self, attention, q, k, v, *more):
    B, H, T, D = q.shape
    K = k.shape[1]
    other = q.reshape(B, H // K, K, T, D).swapaxes(1, 2).reshape(B, H, T, D)
    return original(self, attention, other, k, v, *more)


def _read_whole_buffers(original, self, T, S, spec):
    mask = original(self, T, S, spec)
    return mask | True


def _make_fault(name: str, law: str, plant: Plant, only: str | None = None) -> Fault:
    return Fault(name, "cache", law, HOT, plant, only)


def _forget_position(patcher: Patcher) -> None:
    """A step that was captured keeps the position of its first run."""

    def wrap(original):
        def load(self, current, tokens):
            kept = self.positions.clone() if getattr(self, "was_loaded", False) else None
            original(self, current, tokens)
            self.was_loaded = True
            if kept is not None:
                self.positions.copy_(kept)

        return load

    patcher.wrap_method("static_rows", "StepInputs", "load", wrap)


def _change_fed_back(change: Function) -> Plant:
    """What a step feeds back, by row, is change(decoder, what it should be)."""

    def plant(patcher: Patcher) -> None:
        if patcher.name == "torch":
            patcher.wrap_method(
                "static_rows",
                "StaticRowDecoder",
                "feed_back",
                lambda original: lambda self, chosen: original(self, change(self, chosen)),
            )
            return

        def wrap(original):
            def begin(self, *arguments):
                read = original(self, *arguments)
                self._fed_back = change(self, self._fed_back)
                return read

            return begin

        patcher.wrap_method("row_decoder", "DeviceRowDecoder", "begin_choice", wrap)

    return plant


def _reverse(decoder, chosen):
    return chosen.flip(0) if hasattr(chosen, "flip") else chosen[::-1]


def _keep_first(decoder, chosen):
    """The same tokens are fed back after every step."""
    return decoder.__dict__.setdefault("_first_chosen", chosen + 0) + 0  # MLX changes it in place


FAULTS = (
    _make_fault(
        "rows that take no part in a step are written over",
        ROWS,
        _change_step("StaticRowCache", "write_step", _write_over_idle_rows),
        "torch",
    ),
    _make_fault(
        "query heads are folded onto other key heads",
        ROWS,
        _change_step("StaticContext", "attend", _fold_other_heads),
        "torch",
    ),
    _make_fault(
        "a step reads places behind a row's tokens",
        ROWS,
        _change_step("StaticContext", "_make_mask", _read_whole_buffers),
        "torch",
    ),
    _make_fault("a step has the position of an earlier one", ROWS, _forget_position, "torch"),
    _make_fault(
        "a device draws with half of its random number",
        CHOICES,
        _change_choice(
            "_draw", lambda original, p, uniform, *more: original(p, 0.5 * uniform, *more)
        ),
    ),
    _make_fault(
        "a device keeps less than top_p",
        CHOICES,
        _change_choice("_keep_most_probable", lambda original, p, share: original(p, 0.6 * share)),
    ),
    _make_fault(
        "a device does not know top_k",
        CHOICES,
        _change_choice("_keep_largest", lambda original, p, *more: p),
    ),
    _make_fault(
        "a step begun ahead reads the token of another row",
        "L2/choices-ahead",
        _change_fed_back(_reverse),
    ),
    _make_fault(
        "a step begun ahead reads the token of an earlier one",
        "L2/choices-ahead",
        _change_fed_back(_keep_first),
    ),
)
