"""The cases of L2: fields with kernels of their own, extreme sizes, texts, and losses in chunks."""

from dataclasses import replace
from functools import cache

from hermes.recipe import Preference
from hermes.spec import EmbeddingsSpec, FfnSpec, OutputSpec
from hermes_conformance.cases.case import RECIPE, Case
from hermes_conformance.cases.specs import ATTENTION, make_field_specs, make_spec
from hermes_conformance.cases.standard import make_edge_cases, make_objective_cases
from hermes_conformance.cases.weights import draw_fresh, draw_hot
from hermes_conformance.laws import generation, ranges

WIDE = 128
KERNELS = (
    "default",
    "attention.",
    "ffn.activation=",
    "ffn.limit=",
    "ffn.bias=true",
    "block.norm=",
    "block.residual_scale=",
    "block.shared_norm=",
    "block.attention=none",
    "block.ffn=none",
    "model.pattern",
    "model.num_layers",
    "embeddings.",
    "output.",
)
FRESH = (
    "default",
    "attention.position_encoding=learned",
    "block.norm=layernorm/pre",
    "ffn.bias=true",
)


@cache
def make_cases(long: bool = False) -> tuple[Case, ...]:
    """The cases of L2: hot ones of fields with kernels of their own, a few fresh, and texts."""
    specs = [
        (name, spec)
        for name, spec in make_field_specs().items()
        if name.startswith(KERNELS)
        and (long or name.endswith("/pre") or not name.startswith("block.norm="))
    ]
    cases = [
        Case(f"{name}/hot", s, draw_hot, packed=n % 3 == 2) for n, (name, s) in enumerate(specs)
    ]
    cases += [Case(f"{name}/fresh", make_field_specs()[name], draw_fresh) for name in FRESH]
    cases += [case for case in make_edge_cases() if not case.name.startswith("edge.saturated")]
    cases += generation.make_cases(long)
    # One long row: its prefill has matrix products of more rows than any other case's, and its
    # single tokens have products of one row.
    biased = replace(ATTENTION, bias="all")
    long_row = make_spec(
        biased, FfnSpec(40, bias=True), output=OutputSpec(bias=True), max_seq_len=160
    )
    cases.append(Case("decoding.one row/hot", long_row, draw_hot, A=1, B=1, T=140))
    objectives = ("preference.", "weighted.", "z_loss.", "lora.token rows", "lora.keys")
    cases += [case for case in make_objective_cases() if case.name.startswith(objectives)]
    # A vocabulary whose logits take several chunks on a CPU, of which the last is a part of one, of
    # next-token losses and of a pair. It is odd, so that rows of logits end within a cache line.
    # beta is small since the rows' sums are hundreds of nats, known to about 1e-5: with a larger
    # beta that error would become one of the slopes.
    tied = EmbeddingsSpec(tie_weights=True)
    large = make_spec(vocab_size=300_001, embeddings=tied, max_seq_len=64)
    pairs = replace(RECIPE, objective="preference", preference=Preference(beta=0.05))
    cases.append(Case("slices.next token/hot", large, draw_hot, A=1, B=3, T=30))
    uneven = Case("slices.weighted/hot", large, draw_hot, A=1, B=3, T=30, weighted=True)
    cases.append(replace(uneven, recipe=replace(RECIPE, z_loss=0.02)))
    # T is chosen as cases of tolerance.NORM_32 are: the reference BLAS sums the vocabulary's terms
    # from left to right, which moves an element by 1.7e-3 at T = 44, and by 3.2e-4 here.
    cases.append(Case("slices.pairs/hot", large, draw_hot, A=1, B=4, T=48, recipe=pairs))
    # Sums of so many terms that another order of them shows.
    wide = make_spec(ffn=FfnSpec(WIDE * 5 // 2), hidden_size=WIDE)
    cases.append(Case("preference.wide/hot", wide, draw_hot, A=1, B=4, T=32, recipe=pairs))
    return (*cases, *ranges.make_cases())
