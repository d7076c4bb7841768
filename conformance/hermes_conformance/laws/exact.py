"""L0 of backends: what is equal to the last bit, since nothing in it is rounded."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache

import ml_dtypes
import numpy as np

from hermes.errors import HermesError
from hermes.interface import IGNORE, TrainState
from hermes.numerics.params import list_parameters, list_unfrozen
from hermes_conformance.cases.case import Case
from hermes_conformance.cases.specs import make_field_specs
from hermes_conformance.cases.standard import make_wide_cases
from hermes_conformance.cases.weights import draw_fresh, draw_hot
from hermes_conformance.laws.dropout_masks import compare_masks, make_dropout_cases
from hermes_conformance.laws.exact_integers import make_integer_cases
from hermes_conformance.laws.float64_state import wide_weights
from hermes_conformance.laws.frozen_state import check_frozen_weights
from hermes_conformance.measure.compare import Measurement, compare_bits, compare_values
from hermes_conformance.measure.law import CasePredicate, Check, Law, Needs, match_names
from hermes_conformance.measure.subject import Backends
from hermes_conformance.measure.tolerance import EXACT


def names(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Tensors have the names, order and shapes of the parameter table; a tied head is no tensor."""
    params = backends.subject.build_model(case, "float32").params()
    table = list_parameters(case.spec)
    yield compare_values("names in order", list(params), list(table), EXACT)
    for name in params:
        if name in table:
            yield compare_values(f"shape of {name}", params[name].shape, table[name].shape, EXACT)


def weight_bits(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Models and learners give back the weights they were given, with the same bits.

    Weights in a file's short type come back as float32.
    """
    params = backends.subject.build_model(case, "float32").params()
    for name, value in case.params.items():
        yield compare_bits(name, params[name], value, EXACT)
    if backends.subject.trains:
        state = backends.subject.make_learner(case, "float32").state()
        yield compare_values("step", state.step, 0, EXACT)
        for name, value in case.params.items():
            yield compare_bits(f"learner's {name}", state.params[name], value, EXACT)
        for name in state.exp_avg:
            moments = np.stack([state.exp_avg[name], state.exp_avg_sq[name]])
            yield compare_bits(f"moments of {name}", moments, np.zeros_like(moments), EXACT)
    for dtype in (ml_dtypes.bfloat16, np.float16):
        short = {name: value.astype(dtype) for name, value in case.params.items()}
        options, what = backends.subject.make_options("float32"), np.dtype(dtype).name
        params = backends.subject.backend.build(case.spec, short, options).params()
        for name, value in short.items():
            yield compare_bits(f"{name} from {what}", params[name], value.astype(np.float32), EXACT)
        if backends.subject.trains:
            state = TrainState(short, {}, {}, 0)
            learner = backends.subject.backend.learner(case.spec, state, case.recipe, options)
            params = learner.state().params
            for name, value in short.items():
                what = f"learner's {name} from {np.dtype(dtype).name}"
                yield compare_bits(what, params[name], value.astype(np.float32), EXACT)


def weight_decay(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Weight decay changes every nonzero element of the tensors that the table marks, no other."""
    after = []
    for decay in (0.0, 0.5):
        recipe = replace(case.recipe, optimizer=replace(case.recipe.optimizer, weight_decay=decay))
        learner = backends.subject.make_learner(case, recipe=recipe)
        float(learner.step(case.batch, 1e-2).loss)
        after.append(learner.state().params)
    for name, tensor in list_parameters(case.spec).items():
        moved = np.asarray(after[0][name]) != np.asarray(after[1][name])
        expected = (case.params[name] != 0) & tensor.decay
        yield compare_bits(f"decay of {name}", moved, expected, EXACT)


def freezing(case: Case, backends: Backends) -> Iterator[Measurement]:
    """freeze_layers keeps the bits of the frozen tensors, and the others change."""
    for layers in (0, 1, case.spec.num_layers):
        recipe = replace(case.recipe, freeze_layers=layers)
        learner = backends.subject.make_learner(case, "float32", recipe)
        float(learner.step(case.batch, 1e-2).loss)
        state = learner.state()
        allowed = set(list_unfrozen(case.spec, layers))
        yield compare_values(f"moments, {layers} frozen", set(state.exp_avg), allowed, EXACT)
        for name, value in case.params.items():
            moved = not np.array_equal(state.params[name], value)
            yield compare_values(f"{name} moves, {layers} frozen", moved, name in allowed, EXACT)


def integers(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Logits of small-integer weights are the oracle's: fast, exact, whole and decoded."""
    precision = case.name.rpartition("/")[2]
    expected = backends.oracle.compute_logits(case).astype(np.float32)
    for exact in (False, True):
        functions = "exact" if exact else "fast"
        got = backends.subject.compute_logits(case, precision, exact=exact)
        yield compare_bits(f"logits, {functions} functions", got, expected, EXACT)
        if case.can_decode and not case.packed:
            pieces = backends.subject.decode(case, (2, 3, 5), precision, exact=exact)
            for end, piece in zip((2, 3, 5, case.T), pieces, strict=True):
                what = f"logits after {end} tokens, {functions} functions"
                yield compare_bits(what, piece, expected[:, end - 1], EXACT)


def refusals(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Bad ids, lengths, capacities and empty batches are refused; frameworks would accept some."""
    subject, V = backends.subject, case.spec.vocab_size
    model = subject.build_model(case, "float32")
    row = np.zeros((1, case.spec.max_seq_len + 1), np.int32)
    yield _expect_refusal("an id of V", lambda: model.logits(np.full((1, 2), V, np.int32)))
    yield _expect_refusal("an id of -1", lambda: model.logits(np.full((1, 2), -1, np.int32)))
    yield _expect_refusal("a row longer than max_seq_len", lambda: model.logits(row))
    decoder = model.decoder(2, 4)
    yield _expect_refusal(
        "more tokens than capacity", lambda: decoder.advance(np.zeros((2, 5), int))
    )
    yield _expect_refusal(
        "fewer rows than the decoder has", lambda: decoder.advance(np.zeros((1, 2), int))
    )
    yield _expect_refusal("an id of V when decoding", lambda: decoder.advance(np.full((2, 2), V)))
    if subject.trains:
        empty = replace(case.batch, targets=np.full_like(case.batch.targets, IGNORE))
        learner = subject.make_learner(case, "float32")
        yield _expect_refusal("a batch of no targets", lambda: learner.grads(empty))


def _expect_refusal(what: str, call: Callable[[], object]) -> Measurement:
    try:
        call()
    except HermesError:
        return Measurement(0.0, EXACT, what)
    return Measurement(1.0, EXACT, f"{what} was accepted")


def state_bits(case: Case, backends: Backends) -> Iterator[Measurement]:
    """A learner given another's state hands over the same state, bit for bit."""
    first = backends.subject.make_learner(case, "float32")
    float(first.step(case.batch, 1e-2).loss)
    before = first.state()
    options = backends.subject.make_options("float32")
    second = backends.subject.backend.learner(case.spec, before, case.recipe, options).state()
    yield compare_values("step", second.step, before.step, EXACT)
    for part in ("params", *before.slots):
        one = second.params if part == "params" else second.slots[part]
        other = before.params if part == "params" else before.slots[part]
        for name, value in other.items():
            yield compare_bits(f"{part} of {name}", one[name], value, EXACT)


TENSOR_KINDS = (  # architectures that have all kinds of tensors between them
    "default",
    "attention.bias=all",
    "attention.qk_norm=head",
    "attention.qk_norm=each_head",
    "attention.output_gate=true biased",
    "attention.sinks=true",
    "attention.position_encoding=learned",
    "attention.position_encoding=alibi-learned",
    "block.norm=layernorm/sandwich",
    "ffn.bias=true/gated",
    "model.pattern",
    "embeddings.tie_weights=true",
    "output.bias=true",
)


@cache
def make_cases(long: bool = False) -> tuple[Case, ...]:
    """The cases of L0."""
    specs = make_field_specs()
    return (
        *(Case(f"{name}/fresh", spec, draw_fresh) for name, spec in specs.items()),
        *(Case(f"{name}/hot", specs[name], draw_hot) for name in TENSOR_KINDS),
        *make_dropout_cases(),
        *make_integer_cases(),
        *make_integer_cases("bfloat16"),
        *make_wide_cases(),
    )


def _make_law(
    name: str,
    statement: str,
    check: Check,
    applies_to: CasePredicate,
    needs: Needs = "forward",
    precision: str | None = None,
) -> Law:
    return Law("L0", name, statement, EXACT, check, applies_to, needs, precision)


def _is_fresh(case: Case) -> bool:
    return case.name.endswith("/fresh")


def _is_hot(case: Case) -> bool:
    return case.name.endswith("/hot") and not case.name.startswith(("dropout.", "wide."))


LAWS = (
    _make_law("names", "tensors have the table's names, order and shapes", names, _is_fresh),
    _make_law("weights", "weights come back with the same bits", weight_bits, _is_hot),
    _make_law(
        "wide-weights",
        "float64 weights come back with the same bits",
        wide_weights,
        match_names("wide."),
        precision="float64",
    ),
    _make_law(
        "integers", "integer weights give the oracle's bits", integers, match_names("integer.")
    ),
    _make_law(
        "masks",
        "dropout drops the same elements",
        compare_masks,
        match_names("dropout."),
        "learner",
    ),
    _make_law(
        "decay",
        "weight decay changes the tensors that the table marks",
        weight_decay,
        _is_hot,
        "learner",
    ),
    _make_law(
        "frozen",
        "frozen tensors keep their bits",
        freezing,
        match_names("default/hot", "model.pattern/hot", "embeddings.tie"),
        "learner",
    ),
    _make_law(
        "frozen-short",
        "frozen weights keep their bits, and gradients theirs, where they are held in bfloat16",
        check_frozen_weights,
        match_names("default/hot", "model.pattern/hot", "embeddings.tie_weights=true/hot"),
        "learner",
        "bfloat16",
    ),
    _make_law("resume", "a state passed on is the same state", state_bits, _is_hot, "learner"),
    _make_law("refusals", "bad input is refused", refusals, match_names("default/fresh")),
)
