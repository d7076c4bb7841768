"""Faults of decoding beyond the cache: prompts in pieces, rows in company, rows in files."""

from dataclasses import replace

from hermes.inference import decoding, prompt_cache
from hermes.inference.engine import Engine
from hermes.inference.prefixes import PrefixStore
from hermes.interface import PREFILL_CHUNK
from hermes.numerics import row_layout
from hermes_conformance.faults.fault import Fault, Plant
from hermes_conformance.faults.patcher import FAST_TABLES, Function, Patcher

STEPS, TEXTS, PROMPTS = "L2/steps", "L2/texts", "L2/prompts"
COMPANY, WINDOWS = "decoding.company/hot", "decoding.ring windows/hot"
KEPT = "kept.default/hot"


def _amplify_single_steps(patcher: Patcher) -> None:
    """The fast attention of one query gives a hundredth too much."""

    def wrap(original):
        def faulty(q, *rest):
            y = original(q, *rest)
            return y * 1.01 if q.shape[2] == 1 else y

        return faulty

    patcher.wrap_table("attention", wrap, FAST_TABLES)


def _change_pairs(change: Function) -> Plant:
    """Rotate pairs in decoding by change(rotate_pairs, x, cos, sin)."""

    def plant(patcher: Patcher) -> None:
        patcher.wrap_table(
            "rotate_pairs", lambda original: lambda x, cos, sin: change(original, x, cos, sin)
        )

    return plant


def _drop_unrotated_rest(rotate, x, cos, sin):
    y = rotate(x, cos, sin)
    rotated = 2 * cos.shape[-1]
    y[..., rotated:] = y[..., rotated:] * 0
    return y


def _share_first_angles(rotate, x, cos, sin):
    return rotate(x, cos[:1], sin[:1])


def _round_angles(patcher: Patcher) -> None:
    def change(rotate, x, cos, sin):
        return rotate(x, patcher.round_to(cos), patcher.round_to(sin))

    _change_pairs(change)(patcher)


def _shorten_moves(patcher: Patcher) -> None:
    """A buffer that comes round keeps the key of one token fewer than a window needs."""

    def wrap(original):
        def faulty(self, layer, k, v):
            window, start = self._windows[layer], self._kept[layer]
            turns = window is not None and start + k.shape[2] > 2 * window
            if turns:
                self._kept[layer] = start - 1
            return original(self, layer, k, v)

        return faulty

    patcher.wrap_method("cache", "KVCache", "update", wrap)


def _change_method(cls: type, name: str, change: Function) -> Plant:
    """Call change(original, self, ...) for a method of the core library."""

    def plant(patcher: Patcher) -> None:
        patcher.wrap(cls, name, lambda original: lambda self, *args: change(original, self, *args))

    return plant


def _read_again(original, self, rows, counts):
    """A later piece of a prompt begins with the last token of the one before."""
    for row, count in zip(rows, counts, strict=True):
        if count > 1 and row.read:
            row.read -= 1
    return original(self, rows, counts)


def _share_one_token_more(patcher: Patcher) -> None:
    """A row begins with a token too many of what another has read."""

    def wrap(original):
        def faulty(held, tokens):
            common = original(held, tokens)
            return common + 1 if 0 < common < min(len(held), len(tokens) - 1) else common

        return faulty

    patcher.replace(PrefixStore, "count_common", staticmethod(wrap(PrefixStore.count_common)))


def _skip_between_pieces(patcher: Patcher) -> None:
    """Of a long prompt, the first token of the second piece is not read."""
    piece = PREFILL_CHUNK

    def wrap(original):
        def faulty(decoder, tokens, chunk):
            return original(decoder, [*tokens[:piece], *tokens[piece + 1 :]], chunk)

        return faulty

    patcher.wrap_function(decoding._read_prompt, wrap)


def _read_rows_as_they_come(patcher: Patcher) -> None:
    """Rows that should be the same in company are read as others are."""
    model = patcher.load_module("inference").Model
    patcher.replace(model, "invariant_row_decoder", model.row_decoder)


def _read_prompts_together(patcher: Patcher) -> None:
    patcher.wrap_function(row_layout.list_invariant_reads, lambda original: row_layout.list_reads)


def _attend_as_first_row(patcher: Patcher) -> None:
    """Each row has as many keys as the first one."""

    def wrap(original):
        def faulty(current, b):
            alone, first = original(current, b), original(current, 0)
            return replace(alone, after=first.after, firsts=first.firsts)

        return faulty

    module = patcher.load_module("invariant_rows")
    patcher.wrap(module, "narrow_pass", wrap)


def _change_kept_row(change: Function) -> Plant:
    """Keep change(tensors) of a row."""

    def plant(patcher: Patcher) -> None:
        patcher.wrap_method(
            "cache",
            "RowCache",
            "read_row",
            lambda original: lambda self, row: change(original(self, row)),
        )

    return plant


def _swap_parts(tensors):
    other = {"keys": "values", "values": "keys"}
    return {
        name: tensors[f"{name.rpartition('.')[0]}.{other[name.rpartition('.')[2]]}"]
        for name in tensors
    }


def _take_first_tokens(patcher: Patcher) -> None:
    """Of a kept row that is longer than a window's buffer, the first tokens are taken."""

    def wrap(original):
        def faulty(self, row, tensors):
            first = {}
            for name, tensor in tensors.items():
                window = self.layout.windows[int(name.split(".")[1])]
                first[name] = tensor[:, : self.layout.count_kept(window, row)]
            return original(self, row, first)

        return faulty

    patcher.wrap_method("cache", "RowCache", "write_row", wrap)


def _keep_in_bfloat16(patcher: Patcher) -> None:
    changed = {**prompt_cache.DTYPES, "float32": prompt_cache.DTYPES["bfloat16"]}
    patcher.replace(prompt_cache, "DTYPES", changed)


def _swap_heads_in_bfloat16(patcher: Patcher) -> None:
    """A kept row in bfloat16 has the other head's keys and values, and gives them to the other.

    As it leaves the backend, which may itself keep keys and values in another type.
    """

    def wrap(original):
        def faulty(self, row):
            found = original(self, row)
            if self._runtime.options.precision != "bfloat16":
                return found
            return {name: part[[1, 0]] for name, part in found.items()}

        return faulty

    patcher.wrap_method("row_decoder", "RowDecoder", "read_row", wrap)


def _make_fault(name: str, law: str, case: str, plant: Plant, only: str | None = None) -> Fault:
    return Fault(name, "decoding", law, case, plant, only)


FAULTS = (
    _make_fault(
        "attention of a single token is a hundredth off",
        STEPS,
        "steps.default/fresh",
        _amplify_single_steps,
    ),
    _make_fault(
        "a long prompt loses a token between two reads",
        PROMPTS,
        "prompt.long/hot",
        _skip_between_pieces,
    ),
    _make_fault(
        "an engine reads a token of a prompt twice",
        TEXTS,
        "greedy.rope/hot",
        _change_method(Engine, "_read", _read_again),
    ),
    _make_fault(
        "a text begins with a token too many of another",
        TEXTS,
        "greedy.alibi/hot",
        _share_one_token_more,
    ),
    _make_fault("a buffer that comes round forgets a key", "L1/decoding", WINDOWS, _shorten_moves),
    _make_fault(
        "decoding turns pairs the other way",
        "L1/decoding",
        "default/fresh",
        _change_pairs(lambda rotate, x, cos, sin: rotate(x, cos, -sin)),
    ),
    _make_fault(
        "decoding drops what a rope leaves as it is",
        "L1/decoding",
        "attention.position_encoding=rope-partial/fresh",
        _change_pairs(_drop_unrotated_rest),
    ),
    _make_fault(
        "all rows turn as the first one",
        "L1/rows",
        "default/hot",
        _change_pairs(_share_first_angles),
    ),
    _make_fault(
        "decoding rounds its angles to bfloat16", "L2/decoding", "default/hot", _round_angles
    ),
    _make_fault(
        "rows in company are read as any others",
        "L2/invariant-rows",
        COMPANY,
        _read_rows_as_they_come,
    ),
    _make_fault(
        "prompts in company are read together",
        "L2/invariant-rows",
        COMPANY,
        _read_prompts_together,
    ),
    _make_fault(
        "rows in company see as many keys as the first",
        "L2/invariant-rows",
        WINDOWS,
        _attend_as_first_row,
    ),
    _make_fault(
        "rows in company see as many keys as the first, in bfloat16",
        "L3/invariant-rows",
        WINDOWS,
        _attend_as_first_row,
    ),
    _make_fault(
        "kept rows have keys for values", "L5/kept-rows", KEPT, _change_kept_row(_swap_parts)
    ),
    _make_fault(
        "a window goes on from a kept row's first tokens",
        "L5/kept-rows",
        "kept.decoding.ring windows/hot",
        _take_first_tokens,
    ),
    _make_fault(
        "kept rows in float32 are bfloat16 in the file",
        "L5/kept-rows-float32",
        KEPT,
        _keep_in_bfloat16,
    ),
    _make_fault(
        "kept rows in bfloat16 have their heads in the wrong order",
        "L5/kept-rows-bfloat16",
        KEPT,
        _swap_heads_in_bfloat16,
    ),
)
