"""Faults of decoders made for a GPU, and of the choice of tokens on the device."""

from dataclasses import replace

from hermes_conformance.faults.fault import Fault, Plant
from hermes_conformance.faults.patcher import Function, Patcher

ROWS, CHOICES, HOT = "L2/device-rows", "L2/choices", "default/hot"
APART, AHEAD = "L2/choices-apart", "L2/written-ahead"
MANY_WORDS, TIES = "choices.many words/hot", "choices.ties/level"
WORDS = 512  # a block of the sums that MLX draws from


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


def _make_fault(
    name: str, law: str, plant: Plant, only: str | None = None, case: str = HOT
) -> Fault:
    return Fault(name, "cache", law, case, plant, only)


def _draw_from_first_words(original, p, *more):
    p = p + 0  # MLX and torch change it in place
    p[:, WORDS:] = 0
    return original(p, *more)


def _begin_sums_anew(original, p):
    parts = [original(p[:, start : start + WORDS]) for start in range(0, p.shape[1], WORDS)]
    whole = p + 0
    for number, part in enumerate(parts):
        start = number * WORDS
        whole[:, start : start + part.shape[1]] = part
    return whole


def _change_chosen(change: Function) -> Plant:
    """The tokens of a step's rows are change(backend's name, original, *arguments)."""

    def plant(patcher: Patcher) -> None:
        patcher.wrap_function(
            patcher.load_module("token_choice").choose_tokens,
            lambda original: lambda *arguments: change(patcher.name, original, *arguments),
        )

    return plant


def _draw_at_zero(name, original, logits, choices, *more):
    """A temperature of 0 is a very small one, by which equals are drawn from."""
    if name == "mlx":
        choices = [replace(one, temperature=one.temperature or 1e-30) for one in choices]
    else:
        choices = choices + 0
        choices[0] = choices[0] + 1e-30 * (choices[0] == 0)
    return original(logits, choices, *more)


def _spoil_all_rows(name, original, *arguments):
    chosen = original(*arguments)
    spoiled = ((chosen < 0).sum() > 0) * 1
    return chosen * (1 - spoiled) - spoiled


def _write_one_more(patcher: Patcher) -> None:
    """A text that is written ahead has a token more than was asked for."""
    place = ("static_decoder", "StaticDecoder")
    if patcher.name == "mlx":
        place = ("inference", "DeviceDecoder")

    def wrap(original):
        def write(self, token, choice, uniforms, count, vocab_size):
            return original(self, token, choice, uniforms, count + 1, vocab_size)

        return write

    patcher.wrap_method(*place, "write_ahead", wrap)


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
    _make_fault(
        "a device draws from the first 512 words alone",
        CHOICES,
        _change_choice("_draw", _draw_from_first_words),
        case=MANY_WORDS,
    ),
    _make_fault(
        "a device's sums begin anew with each block of words",
        CHOICES,
        _change_choice("compute_sums", _begin_sums_anew),
        "mlx",
        MANY_WORDS,
    ),
    _make_fault(
        "a device draws from equals where the temperature is 0",
        APART,
        _change_chosen(_draw_at_zero),
        case=TIES,
    ),
    _make_fault(
        "a row whose logits are no numbers spoils the others",
        APART,
        _change_chosen(_spoil_all_rows),
        case=MANY_WORDS,
    ),
    _make_fault("a text written ahead is a token too long", AHEAD, _write_one_more),
)
