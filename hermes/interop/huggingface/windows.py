"""Which layers have a window and which have positions, in the fields of each family."""

from dataclasses import dataclass
from typing import Protocol

from hermes.interop.huggingface.draft import Draft, View
from hermes.interop.huggingface.fields import Fields
from hermes.interop.huggingface.layers import find_window_period
from hermes.interop.huggingface.parts import Config
from hermes.spec import NoPositions

__all__ = [
    "EveryNth",
    "FromLayer",
    "NopeLayers",
    "NopeWithoutWindow",
    "WindowForAll",
    "WindowLetters",
    "Windows",
    "refuse_windows",
]

FULL, SLIDING = "full_attention", "sliding_attention"


def _take_types(fields: Fields, draft: Draft) -> list[str] | None:
    types = fields.take("layer_types")
    if types is not None and (not isinstance(types, list) or len(types) != draft["num_layers"]):
        fields.refuse("layer_types", types)
    for kind in types or []:
        if kind not in (FULL, SLIDING):
            fields.refuse("layer_types", kind)
    return types


def _take_window(fields: Fields, default: int | None) -> int | None:
    """Take sliding_window: a missing field means the class's default, null means no window."""
    if fields.has("sliding_window"):
        return fields.take_size("sliding_window")
    missing = "sliding_window" not in fields
    fields.take("sliding_window")
    return default if missing else None


def refuse_windows(fields: Fields, draft: Draft) -> None:
    """Take the fields of windows in a family that has none; sliding_window means nothing there."""
    types = _take_types(fields, draft)
    if types and SLIDING in types:
        fields.refuse("layer_types", types)
    fields.take("sliding_window")


@dataclass(frozen=True)
class WindowForAll:
    """One window for all layers, in a class that ignores layer_types. default: of the class."""

    default: int | None

    def read(self, fields: Fields, draft: Draft) -> None:
        """Read sliding_window; layer_types must not contradict it."""
        window = _take_window(fields, self.default)
        types = _take_types(fields, draft)
        if types and set(types) != {FULL if window is None else SLIDING}:
            fields.refuse("layer_types", types)
        draft.windows = [window] * draft["num_layers"]

    def write(self, view: View) -> Config:
        """Write sliding_window."""
        return {"sliding_window": view.window}


class Older(Protocol):
    """Which layers slide, in a family's fields from before layer_types."""

    def read(self, fields: Fields, draft: Draft) -> list[bool]:
        """Take the fields, and list whether each layer slides."""
        ...

    def write(self, view: View) -> Config:
        """Make the fields."""
        ...


@dataclass(frozen=True)
class EveryNth:
    """Gemma's form: every n-th layer has full attention. default: n of the class.

    written: whether other tools need it; it is null where the layers have no such period.
    """

    default: int
    written: bool = False

    def read(self, fields: Fields, draft: Draft) -> list[bool]:
        """Take n under its two names."""
        names = ("_sliding_window_pattern", "sliding_window_pattern")
        name = names[0] if names[0] in fields else names[1]
        period = fields.take_size(name, self.default)
        fields.take(names[1])
        return [(i + 1) % period != 0 for i in range(draft["num_layers"])]

    def write(self, view: View) -> Config:
        """Write n."""
        period = find_window_period(view.windows)
        return {"sliding_window_pattern": period} if self.written else {}


@dataclass(frozen=True)
class WindowLetters:
    """EXAONE 4's form: a text such as LLLG, local and global layers, or n as in `EveryNth`."""

    def read(self, fields: Fields, draft: Draft) -> list[bool]:
        """Take the text, which the layers repeat and whose last letter the last layer has."""
        name, layers = "sliding_window_pattern", draft["num_layers"]
        pattern = fields.take(name)
        if pattern is None or pattern == 0:
            return [False] * layers
        if isinstance(pattern, str) and pattern and set(pattern) <= {"L", "G"}:
            return [pattern[i % len(pattern)] == "L" and i < layers - 1 for i in range(layers)]
        if type(pattern) is not int or pattern < 1:
            fields.refuse(name, pattern)
        return [(i + 1) % pattern != 0 for i in range(layers)]

    def write(self, view: View) -> Config:
        """Write the text, or null."""
        period = find_window_period(view.windows)
        regular = view.window is not None and period is not None
        letters = "L" * ((period or 1) - 1) + "G"
        return {"sliding_window_pattern": letters if regular else None}


@dataclass(frozen=True)
class FromLayer:
    """Qwen's form: layers from max_window_layers on slide. default: of the class."""

    default: int

    def read(self, fields: Fields, draft: Draft) -> list[bool]:
        """Take the number of the first."""
        first = fields.take_number("max_window_layers")
        first = self.default if first is None else first
        return [i >= first for i in range(draft["num_layers"])]

    def write(self, view: View) -> Config:
        """Write the number of the first layer with a window."""
        slides = (i for i, window in enumerate(view.windows) if window is not None)
        return {"max_window_layers": next(slides, view.spec.num_layers)}


@dataclass(frozen=True)
class Windows:
    """A window in some layers, by layer_types, or by the family's older fields where it has none.

    default: the class's sliding_window. older: None where all layers slide. switch: whether there
    are windows only with use_sliding_window. always: whether a window is written even if no layer
    has one, as the class makes its mask anyway. typed: whether a window needs layer_types.
    """

    default: int | None
    older: Older | None = None
    switch: bool = False
    always: bool = False
    typed: bool = False

    def read(self, fields: Fields, draft: Draft) -> None:
        """Read the window of every layer."""
        types, window = _take_types(fields, draft), _take_window(fields, self.default)
        if self.switch and not fields.take_flag("use_sliding_window", False):
            window = None
        older = self.older
        if self.typed and window is not None and types is None:
            fields.refuse("sliding_window", window)
        sliding = older.read(fields, draft) if older else [True] * draft["num_layers"]
        if types is not None:
            sliding = [kind == SLIDING for kind in types]
            if any(sliding) and window is None:
                fields.refuse("layer_types", types)
        draft.windows = [window if slides else None for slides in sliding]

    def write(self, view: View) -> Config:
        """Write the window, layer_types, the switch and the older form."""
        window = view.window
        config: Config = {
            "sliding_window": (window or view.spec.max_seq_len) if self.always else window,
            "layer_types": [FULL if one is None else SLIDING for one in view.windows],
        }
        config |= {"use_sliding_window": window is not None} if self.switch else {}
        return config | (self.older.write(view) if self.older else {})


@dataclass(frozen=True)
class NopeLayers:
    """SmolLM3's layers without positions: 0 in no_rope_layers, else every n-th one."""

    default: int = 4

    def read(self, fields: Fields, draft: Draft) -> None:
        """Read them; RoPE must have been read."""
        layers = draft["num_layers"]
        interval = fields.take_size("no_rope_layer_interval", self.default)
        flags = fields.take("no_rope_layers")
        if flags is None:
            flags = [int((i + 1) % interval != 0) for i in range(layers)]
        if not isinstance(flags, list) or len(flags) != layers or set(flags) - {0, 1}:
            fields.refuse("no_rope_layers", flags)
        draft.positions = [
            rope if turns else NoPositions()
            for rope, turns in zip(draft.positions, flags, strict=True)
        ]

    def write(self, view: View) -> Config:
        """Write a flag for every layer."""
        turning = [int(not isinstance(one, NoPositions)) for one in view.positions]
        still = next((i for i, turns in enumerate(turning) if not turns), len(turning))
        return {"no_rope_layers": turning, "no_rope_layer_interval": still + 1}


@dataclass(frozen=True)
class NopeWithoutWindow:
    """Layers without a window have no positions, if any layer has a window or `always`."""

    always: bool = False

    def read(self, fields: Fields, draft: Draft) -> None:
        """Take RoPE, which must have been read, from these layers."""
        if self.always or any(window is not None for window in draft.windows):
            draft.positions = [
                NoPositions() if window is None else rope
                for rope, window in zip(draft.positions, draft.windows, strict=True)
            ]

    def write(self, view: View) -> Config:
        """Write nothing: the windows say it."""
        return {}
