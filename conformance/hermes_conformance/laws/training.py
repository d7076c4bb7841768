"""L4: training, where a small mistake of the update rule, the clipping or the schedule grows."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np

from hermes.interface import TrainState
from hermes.recipe import Lora, OptimizerRecipe, Preference
from hermes.spec import AttentionSpec, EmbeddingsSpec, FfnSpec, Learned, OutputSpec
from hermes_conformance.cases.case import RECIPE, Case
from hermes_conformance.cases.specs import crossed, fields, model
from hermes_conformance.cases.weights import fresh, hot
from hermes_conformance.golden import vectors
from hermes_conformance.golden.vectors import stored_cases
from hermes_conformance.laws.gradients import vanishing
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.compare import Measure, absolute, identical, relative, rms, same
from hermes_conformance.measure.law import Law, Sides
from hermes_conformance.measure.tolerance import EXACT
from hermes_conformance.oracle.trajectory import Trajectory, kept, oracle_step, train

STEPS, LONG_STEPS, SHORT, FEW = 30, 100, 6, 12
WHOLE = ("train.dropout", "train.gpt2", "train.other rule", "train.hot")


def steps_of(case: Case) -> int:
    """How many updates a float64 run of the case makes."""
    if case.name.startswith("train.long"):
        return LONG_STEPS
    return STEPS if case.name.startswith(WHOLE) else FEW


def compared(case: Case, got: Trajectory, expected: Trajectory) -> Iterator[Measure]:
    """Losses, norms, weights and moments of two float64 runs."""
    bound = tolerance.TRAIN_64
    yield absolute("loss of each update", got.losses, expected.losses, bound)
    apart = got.norms / np.where(expected.norms > 0, expected.norms, 1.0)
    yield absolute("gradient norm of each update", apart, expected.norms > 0, bound)
    yield from states(case, got.state, expected.state, bound)


def states(case: Case, got: TrainState, expected: TrainState, bound) -> Iterator[Measure]:
    """Weights and moments of every tensor, in units of its own rms."""
    yield same("step", got.step, expected.step, EXACT)
    for part in ("params", "exp_avg", "exp_avg_sq"):
        one, other = getattr(got, part), getattr(expected, part)
        yield same(f"names of {part}", set(one), set(other), EXACT)
        for name in other:
            if vanishing(case, name) is None:
                yield _rms_apart(f"{part} of {name}", one[name], other[name], bound)


def _rms_apart(what, got, expected, bound) -> Measure:
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    size, apart = rms(expected), rms(got - expected)
    return Measure(apart / size if size else apart, bound, what, expected.shape)


def trajectory(case: Case, sides: Sides) -> Iterator[Measure]:
    """The whole run, update by update, against another backend's."""
    steps = steps_of(case)
    got = train(sides.subject, case, steps)
    expected = train(sides.reference, case, steps)
    if case.recipe.grad_clip == WARM.grad_clip and case.recipe.lora is None:
        clips = float(np.mean(expected.norms <= case.recipe.grad_clip))
        yield Measure(clips, CLIPPING, "share of updates that do not clip")
    yield from compared(case, got, expected)


CLIPPING = tolerance.Bound(
    0.5, "of updates", "a run that never clips says nothing of clipping", "0 to 0.2"
)


def by_oracle(case: Case, sides: Sides) -> Iterator[Measure]:
    """The committed run, which the oracle made alone: complex steps, and its own AdamW."""
    stored = vectors.read(case.name)
    assert stored.run is not None, "only runs have this law"
    learner, reports = sides.subject.learner(case), []
    for batch, lr in zip(stored.updates, stored.rates, strict=True):
        reports.append(learner.step(batch, float(lr)))
    losses = np.array([float(report.loss) for report in reports])
    norms = np.array([float(report.grad_norm) for report in reports])
    yield from compared(case, Trajectory(losses, norms, kept(learner.state())), stored.run)


def update(case: Case, sides: Sides) -> Iterator[Measure]:
    """The second update is the oracle's rule applied to the learner's own gradients."""
    learner = sides.subject.learner(case)
    float(learner.step(case.update(0), 3e-3).loss)
    before = kept(learner.state())
    loss, grads = learner.grads(case.update(1))
    expected, norm = oracle_step(
        case, before, {name: np.array(grads[name]) for name in grads}, 7e-3
    )
    report = learner.step(case.update(1), 7e-3)
    yield same("step", report.step, 2, EXACT)
    yield absolute("loss of the report", float(report.loss), loss, tolerance.LOSS_64)
    yield relative("norm of the report", float(report.grad_norm), norm, tolerance.TRAIN_64)
    after = learner.state()
    for name in grads:
        if vanishing(case, name) is None:
            moved = rms(expected.params[name] - before.params[name]) or 1.0
            for part in ("params", "exp_avg", "exp_avg_sq"):
                one, other = getattr(after, part)[name], getattr(expected, part)[name]
                scale = moved if part == "params" else None
                yield relative(f"{part} of {name}", one, other, tolerance.UPDATE_64, scale)


def _production(precision: str):
    def law(case: Case, sides: Sides) -> Iterator[Measure]:
        """The fast update, from the learner's own gradients: weights and moments are float32."""
        learner = sides.subject.learner(case, precision)
        float(learner.step(case.update(0), 3e-3).loss)
        before = kept(learner.state())
        _, grads = learner.grads(case.update(1))
        mine = {name: np.array(grads[name]) for name in grads}
        expected, norm = oracle_step(case, before, mine, 7e-3)
        report = learner.step(case.update(1), 7e-3)
        yield relative("norm of the report", float(report.grad_norm), norm, tolerance.NORM_32)
        after = learner.state()
        for name in (name for name in grads if vanishing(case, name) is None):
            moved = rms(expected.params[name] - before.params[name]) or 1.0
            for part in ("params", "exp_avg", "exp_avg_sq"):
                one, other = getattr(after, part)[name], getattr(expected, part)[name]
                scale = moved if part == "params" else None
                yield relative(f"{part} of {name}", one, other, tolerance.UPDATE_32, scale)

    return law


def float32(case: Case, sides: Sides) -> Iterator[Measure]:
    """A hundred updates in float32 stay beside the same backend's float64."""
    got = train(sides.subject, case, LONG_STEPS, "float32")
    expected = train(sides.subject, case, LONG_STEPS)
    yield from near(case, got, expected)


def near(case: Case, got: Trajectory, expected: Trajectory) -> Iterator[Measure]:
    """Two runs that differ by float32's rounding."""
    yield absolute("loss of each update", got.losses, expected.losses, tolerance.TRAIN_32)
    apart = got.norms / expected.norms
    yield absolute("gradient norm of each update", apart, apart * 0 + 1, tolerance.NORM_32)
    names = [name for name in expected.state.params if vanishing(case, name) is None]
    flat = [np.concatenate([np.ravel(r.state.params[n]) for n in names]) for r in (got, expected)]
    yield _rms_apart("all weights", *flat, tolerance.WEIGHTS_32)


def recomputed(case: Case, sides: Sides) -> Iterator[Measure]:
    """Gradient checkpointing changes memory, and no number beyond rounding."""
    plain = train(sides.subject, case, SHORT)
    yield from compared(case, train(sides.subject, case, SHORT, grad_checkpoint=True), plain)


def recomputed_short(case: Case, sides: Sides) -> Iterator[Measure]:
    """The same of one update's gradients in float32."""
    loss, plain = sides.subject.grads(case, "float32")
    again_loss, again = sides.subject.grads(case, "float32", grad_checkpoint=True)
    yield relative("loss", again_loss, loss, tolerance.LOSS_32, max(1.0, abs(loss)))
    for name in plain:
        if vanishing(case, name) is None:
            what = f"gradient of {name}"
            yield relative(what, again[name], plain[name], tolerance.GRADIENT_32)


def repeated(case: Case, sides: Sides) -> Iterator[Measure]:
    """The same run twice, bit for bit."""
    first, second = (train(sides.subject, case, SHORT, "float32") for _ in range(2))
    yield identical("losses", second.losses, first.losses, EXACT)
    yield identical("norms", second.norms, first.norms, EXACT)
    for name, value in first.state.params.items():
        yield identical(name, second.state.params[name], value, EXACT)


def nonfinite(case: Case, sides: Sides) -> Iterator[Measure]:
    """An update whose loss or norm is no number changes no weight and no moment, and says so."""
    head, last = "lm_head.weight", "model.norm.weight"
    nan = case.params[head].copy()
    nan[0, 0] = np.nan
    yield from _unmoved(case, sides, {**case.params, head: nan}, "loss")
    # Logits as they were, while the square of the last norm's gradient is beyond float32.
    far = np.float32(1e25)
    moved = {head: case.params[head] * far, last: case.params[last] / far}
    yield from _unmoved(case, sides, {**case.params, **moved}, "norm")


def _unmoved(case: Case, sides: Sides, damaged, what: str) -> Iterator[Measure]:
    state = TrainState(damaged, {}, {}, 0)
    options = sides.subject.options("float32")
    learner = sides.subject.backend.learner(case.spec, state, case.recipe, options)
    report = learner.step(case.batch, 1e-2)
    finite = {"loss": np.isfinite(float(report.loss)), "norm": np.isfinite(float(report.grad_norm))}
    if what == "norm" and finite["norm"]:
        return  # a norm reckoned in a wider type, of which nothing is asked
    yield same(f"the {what} is finite", bool(finite[what]), False, EXACT)
    yield same("the loss is, too", bool(finite["loss"]), what == "norm", EXACT)
    after = learner.state()
    for key, value in damaged.items():
        yield identical(key, after.params[key], value, EXACT)
        yield identical(f"exp_avg of {key}", after.exp_avg[key], np.zeros_like(value), EXACT)
        yield identical(f"exp_avg_sq of {key}", after.exp_avg_sq[key], np.zeros_like(value), EXACT)


WARM = replace(RECIPE, schedule="cosine", warmup_steps=5, lr=3e-3, grad_clip=0.5, min_lr_ratio=0.05)


@cache
def cases(long: bool = False) -> tuple[Case, ...]:
    """Of L4: the runs of `train.`, which cross warm-up and clip, and tiny ones for the oracle."""
    dropping = fields()["every dropout"]
    gpt2 = model(
        AttentionSpec(4, bias="all", position_encoding=Learned()),
        FfnSpec(40, "gelu_tanh", bias=True),
        embeddings=EmbeddingsSpec(tie_weights=True),
    )
    other_rule = OptimizerRecipe(beta1=0.8, beta2=0.99, eps=1e-4, weight_decay=0.3)
    recipes = {
        "dropout": (dropping, WARM, {}),
        "gpt2": (gpt2, replace(WARM, schedule="wsd", decay_ratio=0.3), {}),
        "frozen": (model(num_layers=3), replace(WARM, freeze_layers=1), {}),
        "other rule": (model(), replace(WARM, optimizer=other_rule), {"packed": True}),
        "rarely clipped": (model(), replace(WARM, grad_clip=4.0, schedule="constant"), {}),
        "unclipped": (model(), replace(WARM, grad_clip=0.0, schedule="constant"), {}),
        "a tensor without gradient": (fields()["attention.mask=self"], WARM, {}),
        "blank": (model(), WARM, {"blank": True}),
        "lora": (model(), replace(WARM, lora=Lora(rank=3, dropout=0.1), lr=1e-3), {}),
        "preference": (
            model(),
            replace(WARM, objective="preference", preference=Preference(beta=0.3), lr=3e-3),
            {"B": 4},
        ),
        "crossed": (crossed()["crossed.003"], WARM, {}),
    }
    made = [
        Case(f"train.{name}/fresh", spec, fresh, recipe=recipe, **more)
        for name, (spec, recipe, more) in recipes.items()
    ]
    made += [Case("train.hot/hot", model(), hot, recipe=WARM)]
    # What a compiled loss can be asked for at once: documents, a cap, and then pairs besides.
    capped = model(num_layers=1, output=OutputSpec(softcap=5.0))
    made += [Case("compiled.packed/hot", capped, hot, packed=True, recipe=WARM)]
    made += [case for case in stored_cases() if case.name.startswith("run.")]
    if long:
        made.append(Case("train.long/fresh", dropping, fresh, recipe=WARM))
        pairs = recipes["preference"][1]
        made.append(Case("compiled.pairs/hot", capped, hot, B=4, packed=True, recipe=pairs))
        made.append(Case("compiled.dropout/hot", replace(dropping, num_layers=1), hot, recipe=WARM))
    return tuple(made)


def _law(name, says, check, bound, applies, needs="learner", precision="float64"):
    return Law("L4", name, says, bound, check, applies, needs, precision)


def _is(*prefixes):
    return lambda case: case.name.startswith(prefixes)


_run = _is("train.")

LAWS = (
    _law("trajectory", "whole runs agree", trajectory, tolerance.TRAIN_64, _run, "peer"),
    _law("oracle", "the oracle's own run agrees", by_oracle, tolerance.TRAIN_64, _is("run.")),
    _law("update", "an update is the oracle's rule", update, tolerance.UPDATE_64, _run),
    *(
        _law(
            f"update-{precision}",
            f"so is the fast one, in {precision}",
            _production(precision),
            tolerance.UPDATE_32,
            _is("train.hot", "train.lora", "train.frozen"),
            precision=precision,
        )
        for precision in ("float32", "bfloat16")
    ),
    _law(
        "checkpointing",
        "recomputing activations changes nothing",
        recomputed,
        tolerance.TRAIN_64,
        _is("train.dropout", "train.frozen", "train.lora"),
    ),
    _law(
        "checkpointing-float32",
        "nor of float32 gradients",
        recomputed_short,
        tolerance.GRADIENT_32,
        _is("train.dropout"),
        precision="float32",
    ),
    _law(
        "float32",
        "a hundred float32 updates stay beside float64",
        float32,
        tolerance.TRAIN_32,
        _is("train.dropout", "train.gpt2"),
        precision="float32",
    ),
    _law(
        "repeat",
        "the same run twice is the same to the bit",
        repeated,
        EXACT,
        _is("train.dropout", "train.gpt2", "train.preference"),
        precision="float32",
    ),
    _law(
        "non-finite",
        "an update whose loss or norm is no number is not made",
        nonfinite,
        EXACT,
        _is("train.hot"),
        precision="float32",
    ),
)
