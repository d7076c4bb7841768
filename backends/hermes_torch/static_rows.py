"""Decoding whose steps are functions of tensors alone, so that CUDA can capture and replay them.

A step of single tokens has all rows of the cache: those that are not read write to a place beside
their tokens. Where a row's token goes, and how many keys there are, are numbers on the device; the
host computes them from counts that it has, and waits for nothing. Keys are read up to a width, one
of few, and masked. Prompts are read as `RowDecoder` reads them, into the same buffers.

Letters: R rows of the cache, B rows of a read, S keys, H query heads, K key/value heads.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor as Array

from hermes.interface import TokenChoice
from hermes.numerics.positions import choose_table_length
from hermes.numerics.row_layout import RowLayout, RowPass
from hermes.spec import AttentionSpec
from hermes_torch.cache import RowCache, move_tokens
from hermes_torch.context import Context
from hermes_torch.host_copies import HostCopies
from hermes_torch.loss import upcast
from hermes_torch.row_decoder import RowContext, RowDecoder
from hermes_torch.runtime import Runtime
from hermes_torch.step_graphs import StepGraphs
from hermes_torch.token_choice import (
    FIELDS,
    ChoiceKind,
    choose_tokens,
    find_kind,
    list_settings,
)

__all__ = ["StaticRowDecoder"]

Ids = NDArray[np.integer]
Widths = dict[int | None, int]

LEAST_WIDTH = 256  # keys that are read at least; doubled up to a buffer's size


def choose_widths(layout: RowLayout, needed: Widths) -> Widths:
    """How many places of each kind of layer's buffers a step reads, by window."""
    found = {}
    for window, least in needed.items():
        width = LEAST_WIDTH
        while width < least:
            width *= 2
        found[window] = min(width, layout.get_size(window))
    return found


class StepInputs:
    """The numbers of a step, on the device, in memory that stays: tokens, positions, places.

    tokens: (R, 1), -1 for the one that was fed back. Rows that are not read have position 0 and one
    key, and write behind the buffer's last place.
    """

    def __init__(self, layout: RowLayout, device: torch.device):
        self._layout, self._device = layout, device
        self._windows = tuple(dict.fromkeys((None, *layout.windows)))
        R, numbers = layout.rows, 3 + 2 * len(self._windows)
        self._numbers = torch.zeros((numbers, R), dtype=torch.long, device=device)
        self.tokens, self.positions = self._numbers[0, :, None], self._numbers[1, :, None]  # (R, 1)
        self.ends = self._numbers[2]  # (R,), as all that follow
        self.rows = torch.arange(R, device=device)
        of_windows = self._numbers[3:].unflatten(0, (-1, 2))
        self.places = dict(zip(self._windows, of_windows[:, 0], strict=True))
        self.firsts = dict(zip(self._windows, of_windows[:, 1], strict=True))
        self.settings = torch.zeros((len(FIELDS), R), dtype=torch.double, device=device)
        self.fed_back = torch.zeros(R, dtype=torch.long, device=device)

    def load(self, current: RowPass, tokens: Ids | None) -> None:
        """Copy a pass's numbers to the device. tokens: (B,), or None where all were fed back."""
        rows, host = list(current.rows), np.zeros(self._numbers.shape, np.int64)
        host[2] = 1
        host[1, rows], host[2, rows] = current.positions[:, 0], current.after
        for at, window in enumerate(self._windows):
            host[3 + 2 * at] = self._layout.get_size(window)
            host[3 + 2 * at, rows] = current.places[window]
            host[4 + 2 * at, rows] = current.firsts[window]
        host[0, rows] = -1 if tokens is None else tokens
        self._copy(self._numbers, host)

    def load_settings(
        self, rows: Sequence[int], choices: Sequence[TokenChoice], uniforms: Sequence[float]
    ) -> None:
        """Copy how each row's token is chosen to the device."""
        host = np.zeros(self.settings.shape)
        host[:, list(rows)] = list_settings(choices, uniforms)
        self._copy(self.settings, host)

    def feed_back(self, chosen: Array) -> None:
        """Keep the tokens that a step chose for the next one; 0 where it could not. (R,)"""
        self.fed_back.copy_(chosen.clamp(min=0))

    def find_tokens(self) -> Array:
        """Each row's token: the host's, or the one that was fed back. (R, 1)"""
        return torch.where(self.tokens < 0, self.fed_back[:, None], self.tokens)

    def _copy(self, target: Array, host: NDArray[np.generic]) -> None:
        source = torch.from_numpy(host)
        if self._device.type == "cuda":
            source = source.pin_memory()  # which torch keeps until the copy is made
        target.copy_(source, non_blocking=True)


class StaticRowCache(RowCache):
    """A RowCache whose buffers have a place more, for what rows that are not read write."""

    def __init__(self, layout: RowLayout, dtype: torch.dtype, device: torch.device):
        super().__init__(layout, dtype, device, spare=1)

    def move(self, current: RowPass) -> None:
        """Move the last tokens of windows that are full, of all layers, before a step."""
        for window, buffers in zip(self.layout.windows, self._layers, strict=True):
            for buffer in buffers or ():
                move_tokens(buffer, current.moves[window])

    def write_step(
        self, layer: int, k: Array, v: Array, inputs: StepInputs, width: int
    ) -> tuple[Array, Array]:
        """Write a token of every row; read `width` places. (R, K, 1, D) -> (R, K, S, D), ..."""
        window, buffers = self.layout.windows[layer], self._layers[layer]
        assert buffers is not None, "the layer has attention"
        for buffer, new in zip(buffers, (k, v), strict=True):
            buffer[inputs.rows, :, inputs.places[window]] = new[:, :, 0].to(buffer.dtype)
        return buffers[0][:, :, :width], buffers[1][:, :, :width]


class StaticContext(RowContext):
    """A step of single tokens of all rows: its shapes depend on the widths alone.

    capacity: that of every row that is read, as far as tables of RoPE depend on it.
    """

    rows: StaticRowCache

    def __init__(
        self,
        runtime: Runtime,
        cache: StaticRowCache,
        inputs: StepInputs,
        widths: Widths,
        capacity: int,
    ):
        # Not RowContext's own, which copies numbers of a pass from the host.
        Context.__init__(
            self, runtime.tables, runtime.dtype, positions_in_document=inputs.positions
        )
        self.rows, self._inputs, self._widths, self._capacity = cache, inputs, widths, capacity
        self._token_positions, self._ends = inputs.positions, inputs.ends
        self._firsts, self._window, self._angles = inputs.firsts, None, {}

    def _gather_angles(self, spec: AttentionSpec) -> tuple[Array, Array]:
        cos, sin = self.tables.get_angles(spec, self._capacity)
        return cos[self._token_positions], sin[self._token_positions]

    def update(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        """Append to the rows' cache; return the keys and values to attend to."""
        self._window = self.rows.layout.windows[layer]
        return self.rows.write_step(layer, k, v, self._inputs, self._widths[self._window])

    def is_plain_causal(self, T: int, S: int, spec: AttentionSpec) -> bool:
        """No: how many keys count is a number on the device."""
        return False

    def _make_mask(self, T: int, S: int, spec: AttentionSpec) -> Array:
        return self._compare_positions(T, S, spec)

    def _attend(
        self,
        attention: Callable[..., Array],
        q: Array,
        k: Array,
        v: Array,
        spec: AttentionSpec,
        slopes: Array | None,
        sinks: Array | None,
        site: int,
    ) -> Array:
        """Attend; query heads that read one key head are taken as queries of one head.

        So keys are read once and not copied for each head, as CUDA's kernel with a mask asks for.
        """
        B, H, T, D = q.shape
        K = k.shape[1]
        if H == K or slopes is not None or sinks is not None:
            return attention(q, k, v, spec, slopes, sinks, self, site)
        folded = q.reshape(B, K, H // K, D)  # T is 1, so all queries have one position
        y = attention(folded, k, v, spec, slopes, sinks, self, site)  # (B, K, H / K, E)
        return y.reshape(B, H, T, v.shape[-1])


class StaticRowDecoder(RowDecoder):
    """A RowDecoder whose steps of single tokens are captured, and that chooses on its device."""

    _cache: StaticRowCache

    def __init__(self, runtime: Runtime, rows: int, capacity: int):
        super().__init__(runtime, rows, capacity)
        with torch.inference_mode():
            self._inputs = StepInputs(self._layout, runtime.device)
        self._graphs = StepGraphs(runtime.device, captures=runtime.options.compile is not False)
        self._copies = HostCopies(runtime.device)

    def _make_cache(self) -> StaticRowCache:
        return StaticRowCache(self._layout, self._runtime.dtype, self._runtime.device)

    @torch.inference_mode()
    def choose(
        self,
        rows: Sequence[int],
        tokens: Ids,
        counts: Sequence[int],
        choices: Sequence[TokenChoice],
        uniforms: Sequence[float],
        vocab_size: int,
    ) -> Ids:
        """`advance`, and the token that follows each row; as `ChoosesTokens` says."""
        kind, tokens = find_kind(choices, vocab_size), np.asarray(tokens)
        if tokens.shape[1] == 1 and self._has_one_table(rows):
            with self._runtime.apply_options():
                chosen = self.run_step(rows, tokens, kind, choices, uniforms)
                chosen = chosen[self._runtime.to_device(np.array(rows))]
        else:  # the end of a prompt, once a text
            logits = torch.from_numpy(self.advance(rows, tokens, counts))
            settings = torch.from_numpy(list_settings(choices, uniforms))
            chosen = choose_tokens(logits, settings, kind)
        found: Ids = chosen.cpu().numpy()
        return found

    @torch.inference_mode()
    def begin_choice(
        self,
        rows: Sequence[int],
        tokens: Ids,
        choices: Sequence[TokenChoice],
        uniforms: Sequence[float],
        vocab_size: int,
    ) -> Callable[[], Ids]:
        """Begin `choose` after one token more of each row; as `ChoosesAhead` says."""
        at, kind = list(rows), find_kind(choices, vocab_size)
        if self._has_one_table(rows):
            with self._runtime.apply_options():
                chosen = self.run_step(rows, np.asarray(tokens)[:, None], kind, choices, uniforms)
                self.feed_back(chosen)
                wait = self._copies.begin(chosen)
            return lambda: wait().numpy()[at]
        if (tokens < 0).any():  # which this way needs on the host
            last = self._inputs.fed_back.cpu().numpy()
            tokens = np.where(tokens < 0, last[at], tokens)
        found = self.choose(rows, tokens[:, None], [1] * len(at), choices, uniforms, vocab_size)
        every = np.zeros(self._layout.rows, np.int64)
        every[at] = found
        self.feed_back(self._runtime.to_device(every, torch.long))
        return lambda: found

    def feed_back(self, chosen: Array) -> None:
        """Let the next step read what a step chose, (R,), where it is given no token."""
        self._inputs.feed_back(chosen)

    def run_step(
        self,
        rows: Sequence[int],
        tokens: Ids | None,
        kind: ChoiceKind | None = None,
        choices: Sequence[TokenChoice] = (),
        uniforms: Sequence[float] = (),
    ) -> Array:
        """Read a token of each of these rows; (R, V) logits, or (R,) tokens, of all rows.

        tokens: (B, 1), -1 for one that was fed back, None where all were. kind: of the choices,
        None for logits. What is returned is good until the next step.
        """
        layout, runtime = self._layout, self._runtime
        known = np.zeros((len(rows), 1), np.int64) if tokens is None else np.maximum(tokens, 0)
        layout.check(rows, known, [1] * len(rows))
        current = layout.plan(rows, known, [1] * len(rows))
        self._cache.move(current)
        self._inputs.load(current, None if tokens is None else tokens[:, 0])
        if kind is not None:
            self._inputs.load_settings(rows, choices, uniforms)
        widths, capacity = choose_widths(layout, current.widths), current.planned[0]
        runtime.tables.prepare(capacity)
        shape = tuple(widths.items()), self._find_tables(capacity), kind
        found: Array = self._graphs.run(shape, partial(self.compute_step, widths, capacity, kind))
        layout.finish(current)
        return found

    def compute_step(self, widths: Widths, capacity: int, kind: ChoiceKind | None) -> Array:
        """What is captured: from the inputs on the device to logits or tokens."""
        runtime = self._runtime
        ctx = StaticContext(runtime, self._cache, self._inputs, widths, capacity)
        x = runtime.module.model(self._inputs.find_tokens(), runtime.use_context(ctx))[:, -1]
        logits = upcast(runtime.module.compute_logits(x))
        return logits if kind is None else choose_tokens(logits, self._inputs.settings, kind)

    def _find_tables(self, capacity: int) -> tuple[int, ...]:
        """Which table of each rope a row of this capacity has."""
        longest = self._layout.spec.max_seq_len
        ropes = self._runtime.tables.ropes
        return tuple(choose_table_length(rope, capacity, longest) for rope, _ in ropes)

    def _has_one_table(self, rows: Sequence[int]) -> bool:
        """Whether the rows agree on RoPE's tables; where they do not, each has its own gathered."""
        return len({self._find_tables(n) for n in self._layout.list_capacities(rows)}) == 1

    def _read(
        self, rows: Sequence[int], tokens: Ids, counts: Sequence[int]
    ) -> NDArray[np.floating]:
        if tokens.shape[1] > 1 or not self._has_one_table(rows):
            return super()._read(rows, tokens, counts)
        with self._runtime.apply_options():
            logits = self.run_step(rows, tokens)
            return self._runtime.to_numpy(logits[self._runtime.to_device(np.array(rows))])
