"""L0: what must be equal to the last bit, because nothing is rounded or everything is agreed on."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import ml_dtypes
import numpy as np

from hermes.errors import HermesError
from hermes.interface import IGNORE, Batch, TrainState
from hermes.numerics.params import list_parameters, list_unfrozen
from hermes.numerics.randomness import dropout_row_keys
from hermes.spec import AttentionSpec, BlockSpec, EmbeddingsSpec, FfnSpec
from hermes_conformance.cases.case import Case
from hermes_conformance.cases.specs import fields, model
from hermes_conformance.cases.weights import fresh, hot
from hermes_conformance.laws.exact_integers import integer_cases
from hermes_conformance.measure.compare import Measure, identical, same
from hermes_conformance.measure.law import Law, Sides
from hermes_conformance.measure.tolerance import EXACT
from hermes_numpy.context import Context

ROWS = range(8)


def names(case: Case, sides: Sides) -> Iterator[Measure]:
    """Names, order and shapes of all tensors; a tied head is no tensor."""
    held = sides.subject.model(case, "float32").params()
    table = list_parameters(case.spec)
    yield same("names in order", list(held), list(table), EXACT)
    for name in held:
        if name in table:
            yield same(f"shape of {name}", held[name].shape, table[name].shape, EXACT)


def carried(case: Case, sides: Sides) -> Iterator[Measure]:
    """Weights handed in come back with the same bits, from a model and from a learner.

    Those of a file in a short type, too, as float32.
    """
    held = sides.subject.model(case, "float32").params()
    for name, value in case.params.items():
        yield identical(name, held[name], value, EXACT)
    if sides.subject.trains:
        state = sides.subject.learner(case, "float32").state()
        yield same("step", state.step, 0, EXACT)
        for name, value in case.params.items():
            yield identical(f"learner's {name}", state.params[name], value, EXACT)
        for name in state.exp_avg:
            moments = np.stack([state.exp_avg[name], state.exp_avg_sq[name]])
            yield identical(f"moments of {name}", moments, np.zeros_like(moments), EXACT)
    for dtype in (ml_dtypes.bfloat16, np.float16):
        short = {name: value.astype(dtype) for name, value in case.params.items()}
        options, what = sides.subject.options("float32"), np.dtype(dtype).name
        held = sides.subject.backend.build(case.spec, short, options).params()
        for name, value in short.items():
            yield identical(f"{name} from {what}", held[name], value.astype(np.float32), EXACT)
        if sides.subject.trains:
            begun = TrainState(short, {}, {}, 0)
            learner = sides.subject.backend.learner(case.spec, begun, case.recipe, options)
            held = learner.state().params
            for name, value in short.items():
                what = f"learner's {name} from {np.dtype(dtype).name}"
                yield identical(what, held[name], value.astype(np.float32), EXACT)


def decayed(case: Case, sides: Sides) -> Iterator[Measure]:
    """Weight decay moves exactly the tensors that the table marks, every element of them."""
    after = []
    for decay in (0.0, 0.5):
        recipe = replace(case.recipe, optimizer=replace(case.recipe.optimizer, weight_decay=decay))
        learner = sides.subject.learner(case, recipe=recipe)
        float(learner.step(case.batch, 1e-2).loss)
        after.append(learner.state().params)
    for name, tensor in list_parameters(case.spec).items():
        moved = np.asarray(after[0][name]) != np.asarray(after[1][name])
        expected = (case.params[name] != 0) & tensor.decay
        yield identical(f"decay of {name}", moved, expected, EXACT)


def trained(case: Case, sides: Sides) -> Iterator[Measure]:
    """freeze_layers leaves the bits of the frozen tensors, and moves the others."""
    for layers in (0, 1, case.spec.num_layers):
        recipe = replace(case.recipe, freeze_layers=layers)
        learner = sides.subject.learner(case, "float32", recipe)
        float(learner.step(case.batch, 1e-2).loss)
        state = learner.state()
        allowed = set(list_unfrozen(case.spec, layers))
        yield same(f"moments, {layers} frozen", set(state.exp_avg), allowed, EXACT)
        for name, value in case.params.items():
            moved = not np.array_equal(state.params[name], value)
            yield same(f"{name} moves, {layers} frozen", moved, name in allowed, EXACT)


def integers(case: Case, sides: Sides) -> Iterator[Measure]:
    """Logits of small-integer weights, by the fast and by the exact table, whole and decoded."""
    precision = case.name.rpartition("/")[2]
    expected = sides.oracle.logits(case).astype(np.float32)
    for exact in (False, True):
        table = "exact" if exact else "fast"
        got = sides.subject.logits(case, precision, exact=exact)
        yield identical(f"logits, {table} table", got, expected, EXACT)
        if case.decodes and not case.packed:
            pieces = sides.subject.decoded(case, (2, 3, 5), precision, exact=exact)
            for end, piece in zip((2, 3, 5, case.T), pieces, strict=True):
                what = f"logits after {end} tokens, {table} table"
                yield identical(what, piece, expected[:, end - 1], EXACT)


def masks(case: Case, sides: Sides) -> Iterator[Measure]:
    """Which elements dropout drops, seen from outside: those whose gradient is exactly zero."""
    learner = sides.subject.learner(case, "float32")
    for row in ROWS:
        rows = np.array([[row]], np.uint32)
        batch = replace(case.batch, rows=rows)
        _, grads = learner.grads(batch)
        keys = dropout_row_keys(case.recipe.seed, 1, rows[0])
        for site, name, gone in _sites(case, grads):
            shape, rate = gone.shape, RATES[case.name]
            kept = Context(dropout_keys=keys).dropout(np.ones((1, *shape)), rate, site)[0]
            yield identical(f"row {row}, site {site} by {name}", gone, kept == 0, EXACT)


def _sites(case: Case, grads) -> Iterator[tuple[int, str, np.ndarray]]:
    """(site, tensor, which elements the mask dropped) for the one kind of dropout of the case."""
    kind = case.name.split("/")[0]
    if kind == "dropout.embeddings":
        rows = grads["model.embed_tokens.weight"][case.tokens[0]]
        yield 0, "model.embed_tokens.weight", rows == 0
        return
    for layer in range(case.spec.num_layers):
        at = f"model.layers.{layer}"
        match kind:
            case "dropout.attention":
                name = f"{at}.self_attn.v_proj.bias"
                heads = grads[name].reshape(case.spec.layers[0].attention.kv_heads, -1)
                yield 1 + 4 * layer, name, (heads == 0).all(axis=1)[:, None, None]
            case "dropout.ffn":
                name = f"{at}.mlp.down_proj.bias"
                yield 2 + 4 * layer, name, grads[name][None] == 0
            case "dropout.block":
                name = f"{at}.self_attn.o_proj.bias"
                yield 3 + 4 * layer, name, grads[name][None] == 0
                name = f"{at}.mlp.down_proj.bias"
                yield 4 + 4 * layer, name, grads[name][None] == 0


RATES = {
    "dropout.embeddings/hot": 0.15,
    "dropout.attention/hot": 0.4,
    "dropout.ffn/hot": 0.3,
    "dropout.block/hot": 0.1,
}


@cache
def dropout_cases() -> tuple[Case, ...]:
    """One kind of dropout each. One token, so that a bias's gradient is that of one element."""
    attention, ffn = AttentionSpec(4, bias="all"), FfnSpec(40, "gelu", bias=True)
    specs = {
        "embeddings": model(embeddings=EmbeddingsSpec(dropout=0.15)),
        "attention": model(replace(attention, dropout=0.4), ffn),
        "ffn": model(attention, replace(ffn, dropout=0.3)),
        "block": model(attention, ffn, BlockSpec(attention, dropout=0.1)),
    }
    return tuple(
        Case(
            f"dropout.{kind}/hot",
            spec,
            hot,
            1,
            1,
            fixed=_distinct(9 if kind == "embeddings" else 1),
        )
        for kind, spec in specs.items()
    )


def _distinct(T: int) -> Batch:
    """One row of T tokens, every one another, all targets counted."""
    tokens = np.arange(3, 3 + T, dtype=np.int32)[None, None]
    return Batch(tokens, tokens + 1, np.zeros((1, 1), np.uint32))


def refusals(case: Case, sides: Sides) -> Iterator[Measure]:
    """What a gather would not check is refused: ids, lengths, capacities, batches of nothing."""
    side, V = sides.subject, case.spec.vocab_size
    built, longest = side.model(case, "float32"), case.spec.max_seq_len
    row = np.zeros((1, longest + 1), np.int32)
    yield _refused("an id of V", lambda: built.logits(np.full((1, 2), V, np.int32)))
    yield _refused("an id of -1", lambda: built.logits(np.full((1, 2), -1, np.int32)))
    yield _refused("a row longer than max_seq_len", lambda: built.logits(row))
    decoder = built.decoder(2, 4)
    yield _refused("more tokens than capacity", lambda: decoder.advance(np.zeros((2, 5), int)))
    yield _refused("other rows than announced", lambda: decoder.advance(np.zeros((1, 2), int)))
    yield _refused("an id of V when decoding", lambda: decoder.advance(np.full((2, 2), V)))
    if side.trains:
        nothing = replace(case.batch, targets=np.full_like(case.batch.targets, IGNORE))
        learner = side.learner(case, "float32")
        yield _refused("a batch of no targets", lambda: learner.grads(nothing))


def _refused(what, call) -> Measure:
    try:
        call()
    except HermesError:
        return Measure(0.0, EXACT, what)
    return Measure(1.0, EXACT, f"{what} was accepted")


def resumed(case: Case, sides: Sides) -> Iterator[Measure]:
    """A state handed to a new learner of the same backend comes back with the same bits."""
    first = sides.subject.learner(case, "float32")
    float(first.step(case.batch, 1e-2).loss)
    before = first.state()
    options = sides.subject.options("float32")
    second = sides.subject.backend.learner(case.spec, before, case.recipe, options).state()
    yield same("step", second.step, before.step, EXACT)
    for part in ("params", "exp_avg", "exp_avg_sq"):
        for name, value in getattr(before, part).items():
            yield identical(f"{part} of {name}", getattr(second, part)[name], value, EXACT)


KINDS_OF_TENSOR = (
    "default",
    "attention.bias=all",
    "attention.qk_norm=head",
    "attention.position_encoding=learned",
    "attention.position_encoding=alibi-learned",
    "block.norm=layernorm/sandwich",
    "ffn.bias=true/gated",
    "model.pattern",
    "embeddings.tie_weights=true",
    "output.bias=true",
)


@cache
def cases(long: bool = False) -> tuple[Case, ...]:
    """Of L0."""
    named = tuple(Case(f"{name}/fresh", spec, fresh) for name, spec in fields().items())
    loud = tuple(Case(f"{name}/hot", fields()[name], hot) for name in KINDS_OF_TENSOR)
    return (
        *named,
        *loud,
        *dropout_cases(),
        *integer_cases(),
        *integer_cases("bfloat16"),
    )


def _law(name, says, check, applies, needs="forward"):
    return Law("L0", name, says, EXACT, check, applies, needs, precision=None)


def _is(*prefixes):
    return lambda case: case.name.startswith(prefixes)


def _fresh(case: Case) -> bool:
    return case.name.endswith("/fresh")


def _loud(case: Case) -> bool:
    return case.name.endswith("/hot") and not case.name.startswith("dropout.")


FREEZING = ("default/hot", "model.pattern/hot", "embeddings.tie")

LAWS = (
    _law("names", "tensors have the table's names, order and shapes", names, _fresh),
    _law("weights", "weights handed in come back with the same bits", carried, _loud),
    _law("integers", "integer weights give the oracle's bits", integers, _is("integer.")),
    _law("masks", "dropout drops the same elements", masks, _is("dropout."), "learner"),
    _law("decay", "weight decay touches what the table marks", decayed, _loud, "learner"),
    _law(
        "frozen",
        "frozen tensors keep their bits",
        trained,
        _is(*FREEZING),
        "learner",
    ),
    _law("resume", "a state handed on is the same state", resumed, _loud, "learner"),
    _law("refusals", "what cannot be is refused", refusals, _is("default/fresh")),
)
