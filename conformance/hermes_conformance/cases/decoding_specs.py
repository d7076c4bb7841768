"""The cases of decoding: buffers of windows that come round, rows in company, fields in steps."""

from dataclasses import replace
from functools import cache

from hermes.interface import PREFILL_CHUNK
from hermes.numerics.row_layout import ROW_TILE
from hermes.spec import Alibi, AttentionSpec, BlockSpec, FfnSpec, ModelSpec, Rope
from hermes_conformance.cases.case import Case
from hermes_conformance.cases.specs import ATTENTION, FFN, OTHER, make_field_specs, make_spec
from hermes_conformance.cases.weights import draw_fresh, draw_hot, draw_level

RING_LENGTH = 40
WORDS = 1_100  # more than two blocks of the sums that a device draws from, and no whole number
# Single tokens, reads that end where a buffer does, and such that are longer than a whole buffer.
READS = (7, 1, 1, 1, 2, 1, 1, 13, 1, 1, 1, 1, 5)


def _make_layers(*attentions: AttentionSpec, max_seq_len: int) -> ModelSpec:
    """A layer with each of these attentions."""
    blocks = tuple(
        BlockSpec(attention, FFN, name=f"layer-{n}") for n, attention in enumerate(attentions)
    )
    return replace(make_spec(max_seq_len=max_seq_len, num_layers=len(blocks)), blocks=blocks)


@cache
def make_ring_cases() -> tuple[Case, ...]:
    """Texts many times as long as the windows, whose buffers have places for two windows."""
    window, short = replace(ATTENTION, window_size=5), replace(ATTENTION, window_size=2)
    sinks = replace(window, window_size=3, sinks=True, position_encoding=Alibi())
    # Twice a window is as long as the text, and a token shorter than that.
    half, less = (replace(ATTENTION, window_size=w) for w in (RING_LENGTH // 2, 19))
    specs = {
        "windows": (window, ATTENTION, short),
        "sinks": (sinks, replace(short, position_encoding=Rope(rotary_dim=2))),
        "half": (half, less),
    }
    return tuple(
        Case(f"decoding.ring {name}/hot", _make_layers(*parts, max_seq_len=48), draw_hot,
             A=1, T=RING_LENGTH, reads=READS)
        for name, parts in specs.items()
    )  # fmt: skip


@cache
def make_company_cases() -> tuple[Case, ...]:
    """Rows for which kernels choose another order of sums by how many are read together."""
    spec = make_spec(AttentionSpec(4, 2), FfnSpec(80), hidden_size=48)
    return (Case("decoding.company/hot", spec, draw_hot, A=1, B=3, T=16),)


@cache
def make_tile_cases() -> tuple[Case, ...]:
    """As many rows as products have in a whole tile, of which each step reads a token each."""
    spec = make_spec(replace(ATTENTION, bias="all"), FfnSpec(40, bias=True))
    return (Case("decoding.whole tile/hot", spec, draw_hot, A=1, B=ROW_TILE, T=12),)


@cache
def make_choice_cases() -> tuple[Case, ...]:
    """Tokens that are chosen from many, and from such as are equally likely to the last bit."""
    large = make_spec(vocab_size=WORDS)
    return (
        Case("choices.many words/hot", large, draw_hot, A=1),
        Case("choices.ties/level", make_spec(), draw_level, A=1),
    )


@cache
def make_step_cases() -> tuple[Case, ...]:
    """Every value of every field, as `make_field_specs` has them, with fresh weights."""
    return tuple(
        Case(f"steps.{name}/fresh", spec, draw_fresh) for name, spec in make_field_specs().items()
    )


@cache
def make_text_cases(length: int) -> tuple[Case, ...]:
    """Texts of this length that are written from short prompts."""
    specs = {
        "rope": make_spec(max_seq_len=300),
        "alibi": make_spec(replace(ATTENTION, position_encoding=Alibi()), max_seq_len=300),
        "window": _make_layers(
            replace(ATTENTION, window_size=4), OTHER.attention or ATTENTION, max_seq_len=300
        ),
    }
    return tuple(Case(f"greedy.{name}/hot", s, draw_hot, T=length) for name, s in specs.items())


@cache
def make_prompt_cases() -> tuple[Case, ...]:
    """A prompt that takes three reads, before and behind the end of a window's buffer."""
    T = 2 * PREFILL_CHUNK + 76
    window = replace(ATTENTION, window_size=300)
    spec = _make_layers(window, replace(ATTENTION, position_encoding=Alibi()), max_seq_len=T)
    return (Case("prompt.long/hot", spec, draw_hot, A=1, B=1, T=T),)
