"""The cases of L6: the sizes that models are trained at, cut down where time is short.

The head sizes, grouping and masks choose a framework's kernels, as do the rows' lengths; the
vocabulary, how many slices the loss has. Width does not, so it is small where it need not be large.
"""

from dataclasses import replace
from functools import cache

from hermes.recipe import Recipe
from hermes.spec import AttentionSpec, FfnSpec, ModelSpec
from hermes_conformance.cases.case import RECIPE, Case
from hermes_conformance.cases.specs import make_spec
from hermes_conformance.cases.weights import draw_hot

VOCABULARY = 49_152  # that of SmolLM2; more logits than one slice of the loss has
SMALL_VOCABULARY = 512
# AdamW divides a gradient by its own size, so one that is smaller than its rounding has an update
# of either sign, and no bound on roundings bounds that. An eps as large as most gradients makes
# updates smooth; whether a small one is right is for L4 to say.
TRAINED: Recipe = replace(
    RECIPE, batch_size=1, grad_accum=1, lr=3e-4, optimizer=replace(RECIPE.optimizer, eps=1e-2)
)
SMOL = AttentionSpec(15, 5, head_dim=64)
LARGE_HEADS = AttentionSpec(32, 8, head_dim=128)


def _make_spec(attention: AttentionSpec, width: int, T: int, vocabulary: int) -> ModelSpec:
    ffn = FfnSpec(width * 8 // 3 // 8 * 8)
    return make_spec(
        attention, ffn, vocab_size=vocabulary, max_seq_len=2 * T, hidden_size=width, num_layers=2
    )


def _make_case(name: str, attention: AttentionSpec, width: int, T: int, vocabulary: int) -> Case:
    spec = _make_spec(attention, width, T, vocabulary)
    packed = name.endswith("documents")
    return Case(f"{name}/hot", spec, draw_hot, A=1, B=1, T=T, packed=packed, recipe=TRAINED)


@cache
def make_cases(long: bool = False) -> tuple[Case, ...]:
    """Small cases; with `long` also whole ones, of 1,024 and 2,048 tokens."""
    window = replace(LARGE_HEADS, window_size=48)
    cases = [
        _make_case("small.15x64 causal", SMOL, 48, 128, SMALL_VOCABULARY),
        _make_case("small.32x128 window", window, 48, 128, SMALL_VOCABULARY),
        _make_case("small.15x64 documents", SMOL, 48, 128, SMALL_VOCABULARY),
    ]
    if long:
        window = replace(LARGE_HEADS, window_size=512)
        cases += [
            _make_case("whole.15x64 causal", SMOL, 960, 1024, VOCABULARY),
            _make_case("whole.32x128 window", window, 256, 2048, SMALL_VOCABULARY),
            _make_case("whole.15x64 documents", SMOL, 256, 2048, SMALL_VOCABULARY),
        ]
    return tuple(cases)
