"""L0 of dropout: which elements are dropped, one by one, on rates that a hash meets exactly."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np

from hermes.interface import Batch, Tensors
from hermes.numerics.randomness import dropout_row_keys, lowbias32
from hermes.spec import AttentionSpec, BlockSpec, EmbeddingsSpec, FfnSpec
from hermes_conformance.cases.case import RECIPE, Case
from hermes_conformance.cases.specs import make_spec
from hermes_conformance.cases.weights import draw_hot
from hermes_conformance.measure.compare import Measurement, compare_bits
from hermes_conformance.measure.subject import Backends
from hermes_conformance.measure.tolerance import EXACT
from hermes_numpy.context import Context

ROWS = range(8)
SITES = {"embeddings": 0, "attention": 1, "ffn": 2, "block": 3}  # each kind's first
NEAR = {"embeddings": 0.15, "attention": 0.4, "ffn": 0.3, "block": 0.1}  # the rates wanted
FEWEST = 4  # elements of a row that every kind has at least: attention has one for each head


@cache
def choose_rate(kind: str) -> float:
    """The rate nearest to NEAR whose threshold is the hash of an element, which is kept.

    Among the rows of ROWS and the first elements of a row, at the kind's first site. Written out
    from specs/numerics.md, not taken from a backend.
    """
    keys = dropout_row_keys(RECIPE.seed, 1, np.array(ROWS))
    site = np.uint32(SITES[kind] * 0x85EBCA6B % 2**32)
    elements = np.arange(FEWEST, dtype=np.uint32) * np.uint32(0x9E3779B9)
    hashes = lowbias32(elements ^ lowbias32(keys + site)[:, None])
    rates = hashes.ravel() / 2.0**32  # exact: 32 bits of a float64's 53
    return float(rates[np.abs(rates - NEAR[kind]).argmin()])


def compare_masks(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Dropout drops the oracle's elements: those are where a gradient is exactly zero."""
    learner = backends.subject.make_learner(case, "float32")
    for row in ROWS:
        rows = np.array([[row]], np.uint32)
        batch = replace(case.batch, rows=rows)
        _, grads = learner.grads(batch)
        keys = dropout_row_keys(case.recipe.seed, 1, rows[0])
        for site, name, dropped in _find_dropped_elements(case, grads):
            ones, rate = np.ones((1, *dropped.shape)), choose_rate(_find_kind(case))
            expected = Context(dropout_keys=keys).dropout(ones, rate, site)[0] == 0
            yield compare_bits(f"row {row}, site {site} by {name}", dropped, expected, EXACT)


def _find_dropped_elements(case: Case, grads: Tensors) -> Iterator[tuple[int, str, np.ndarray]]:
    """(site, tensor, boolean array of the dropped elements) for the case's one kind of dropout."""
    kind = _find_kind(case)
    if kind == "embeddings":
        rows = grads["model.embed_tokens.weight"][case.tokens[0]]
        yield 0, "model.embed_tokens.weight", rows == 0
        return
    for layer in range(case.spec.num_layers):
        at = f"model.layers.{layer}"
        match kind:
            case "attention":
                name = f"{at}.self_attn.v_proj.bias"
                heads = grads[name].reshape(case.spec.attentions[0].kv_heads, -1)
                yield 1 + 4 * layer, name, (heads == 0).all(axis=1)[:, None, None]
            case "ffn":
                name = f"{at}.mlp.down_proj.bias"
                yield 2 + 4 * layer, name, grads[name][None] == 0
            case "block":
                name = f"{at}.self_attn.o_proj.bias"
                yield 3 + 4 * layer, name, grads[name][None] == 0
                name = f"{at}.mlp.down_proj.bias"
                yield 4 + 4 * layer, name, grads[name][None] == 0


def _find_kind(case: Case) -> str:
    return case.name.removeprefix("dropout.").removesuffix("/hot")


@cache
def make_dropout_cases() -> tuple[Case, ...]:
    """Cases with one kind of dropout each.

    They have one token, so that an element of a bias's gradient is that of one dropped element.
    """
    attention, ffn = AttentionSpec(4, bias="all"), FfnSpec(40, "gelu", bias=True)
    rates = {kind: choose_rate(kind) for kind in SITES}
    specs = {
        "embeddings": make_spec(embeddings=EmbeddingsSpec(dropout=rates["embeddings"])),
        "attention": make_spec(replace(attention, dropout=rates["attention"]), ffn),
        "ffn": make_spec(attention, replace(ffn, dropout=rates["ffn"])),
        "block": make_spec(attention, ffn, BlockSpec(attention, dropout=rates["block"])),
    }
    return tuple(
        Case(
            f"dropout.{kind}/hot",
            spec,
            draw_hot,
            1,
            1,
            fixed_batch=_make_distinct_batch(9 if kind == "embeddings" else 1),
        )
        for kind, spec in specs.items()
    )


def _make_distinct_batch(T: int) -> Batch:
    """One row of T different tokens, all of whose targets count."""
    tokens = np.arange(3, 3 + T, dtype=np.int32)[None, None]
    return Batch(tokens, tokens + 1, np.zeros((1, 1), np.uint32))
