"""Faults of the optimizers beside AdamW, of groups of tensors, and of the average of weights."""

from collections.abc import Callable
from dataclasses import replace

from hermes.numerics import moment_format, update_rules
from hermes_conformance.faults.fault import Fault, Plant
from hermes_conformance.faults.patcher import Function, Patcher

UPDATE = "L4/update"
QUIET = "train.quiet muon/fresh"
MUON, ORIGINAL = "train.muon/fresh", "train.muon original/fresh"
NORMUON, LION = "train.normuon/fresh", "train.lion/fresh"
FLOAT8 = "train.muon float8/fresh"
CODED, SIZES = "L4/coded-moments", "moments.float8/fresh"
LARGE = "train.large muon float8/fresh"
RANDOM = "train.groups stochastic/fresh"
ADAFACTOR, GROUPS = "train.adafactor/fresh", "train.groups/fresh"


def _change(name: str, change: Function) -> Plant:
    """Compute a function of the backend's update_rules by change(original, *arguments)."""

    def plant(patcher: Patcher) -> None:
        patcher.wrap_function(
            getattr(patcher.load_module("update_rules"), name),
            lambda original: lambda *arguments: change(original, *arguments),
        )

    return plant


def _change_constant(name: str, value: object) -> Plant:
    """Replace a constant of the backend's update_rules."""
    return lambda patcher: patcher.replace(patcher.load_module("update_rules"), name, value)


def _change_recipe(**changes: object) -> Callable[..., object]:
    """Compute a step with other numbers in the rule's recipe."""

    def change(original, g, *kept_and_rule):
        *kept, rule = kept_and_rule
        return original(g, *kept, replace(rule, recipe=replace(rule.recipe, **changes)))

    return change


def _change_neutral(name: str, change: Function) -> Plant:
    """Compute a function of hermes.numerics.update_rules by change(original, *arguments)."""

    def plant(patcher: Patcher) -> None:
        patcher.wrap_function(
            getattr(update_rules, name),
            lambda original: lambda *arguments: change(original, *arguments),
        )

    return plant


def _change_rules(change: Callable[[str, update_rules.UpdateRule], update_rules.UpdateRule]):
    """Choose each tensor's rule by change(name, rule)."""
    return _change_neutral(
        "choose_update_rules",
        lambda original, *arguments: {
            name: change(name, rule) for name, rule in original(*arguments).items()
        },
    )


def _round_as_before(patcher: Patcher) -> None:
    """Moments in 8 bits are rounded by the keys of the step before."""
    patcher.wrap_function(
        moment_format.compute_rounding_keys,
        lambda original: lambda seed, step, tensors: original(seed, max(step - 1, 1), tensors),
    )


def _change_rounding(change: Function) -> Plant:
    """Round moments to bfloat16 at random by change(original, numbers, *key)."""
    return lambda patcher: patcher.wrap_function(
        patcher.load_module("moment_format").round_stochastically,
        lambda original: lambda *arguments: change(original, *arguments),
    )


def _change_encoding(change: Function) -> Plant:
    """Encode moments in 8 bits by change(original, numbers, format, *key)."""

    def plant(patcher: Patcher) -> None:
        patcher.wrap_function(
            patcher.load_module("moment_format").encode_moments,
            lambda original: lambda *arguments: change(original, *arguments),
        )

    return plant


def _split_every_rule(patcher: Patcher) -> None:
    """Rules that need a whole matrix are applied to some of its rows at a time, too."""

    def wrap(original):
        return lambda self, shape, rule: original(self, shape, replace(rule, algorithm="adamw"))

    patcher.wrap_method("optimizer", "Optimizer", "_split_rows", wrap)


def _sign_zeros(original, x, form, *rest):
    codes, exponents = original(x, form, *rest)
    return (codes + 128 * (codes == 0) if form.has_sign else codes), exponents


def _flush_least(original, x, *rest):
    """Numbers that a float32 holds with fewer bits are 0."""
    return original(x * (abs(x) >= 2.0**-126), *rest)


def _reverse_groups(original, spec, recipe):
    return original(spec, replace(recipe, groups=recipe.groups[::-1]))


def _scale_by_columns(original, shape, rule):
    return original(shape[::-1], rule)


def _swap_means(original, g, row, col, decay):
    u, new_row, new_col = original(g, row, col, decay)
    return u * 1.001, new_row, new_col


def _normalize_columns(original, g, m, v, rule):
    if g.shape[0] != g.shape[1]:
        return original(g, m, v, rule)
    u, m, v = original(g.T, m.T, v, rule)
    return u.T, m.T, v


def _decay_gradient(original, g, m, rule):
    u, _ = original(g, m, rule)
    return u, rule.recipe.beta1 * m + (1 - rule.recipe.beta1) * g


def _make_fault(name: str, case: str, plant: Plant) -> Fault:
    return Fault(name, "optimizer", UPDATE, case, plant)


FAULTS = (
    _make_fault("muon takes four Newton-Schulz steps", MUON, _change_constant(
        "NEWTON_SCHULZ_STEPS", 4
    )),
    _make_fault("muon's last coefficient is 2.0", MUON, _change_constant(
        "NEWTON_SCHULZ", (3.4445, -4.7750, 2.0)
    )),
    _make_fault("muon does not divide by the norm", MUON, _change_constant("LEAST_NORM", 1.0)),
    _make_fault("muon scales a quiet gradient up", QUIET, _change_constant("LEAST_NORM", 1e-8)),
    _make_fault("muon's momentum is 0.951", MUON, _change("muon", _change_recipe(momentum=0.951))),
    _make_fault("muon has no Nesterov", MUON, _change("muon", _change_recipe(nesterov=False))),
    _make_fault("muon has Nesterov unasked", ORIGINAL, _change(
        "muon", _change_recipe(nesterov=True)
    )),
    _make_fault("muon has the other scale", ORIGINAL, _change(
        "muon", _change_recipe(muon_scale="match_rms_adamw")
    )),
    _make_fault("muon's scale takes columns for rows", ORIGINAL, _change_neutral(
        "compute_muon_scale", _scale_by_columns
    )),
    _make_fault("muon trains the head too", MUON, _change_rules(
        lambda name, rule: replace(rule, algorithm="muon") if "lm_head" in name else rule
    )),
    _make_fault("muon's matrices do not decay", MUON, _change_rules(
        lambda name, rule: replace(rule, decay=rule.algorithm != "muon")
    )),
    _make_fault("normuon's beta2 is 0.951", NORMUON, _change(
        "normuon", _change_recipe(beta2=0.951)
    )),
    _make_fault("normuon divides columns", NORMUON, _change("normuon", _normalize_columns)),
    _make_fault("lion's betas are exchanged", LION, _change(
        "lion", _change_recipe(beta1=0.98, beta2=0.9)
    )),
    _make_fault("lion keeps its step's average", LION, _change("lion", _decay_gradient)),
    _make_fault("adafactor does not clip its step", ADAFACTOR, _change(
        "clip_rms", lambda original, u: u
    )),
    _make_fault("adafactor's step is off by a thousandth", ADAFACTOR, _change(
        "adafactor", _swap_means
    )),
    _make_fault("adafactor's decay is that of the step before", ADAFACTOR, _change_neutral(
        "compute_decay_of_squares", lambda original, step: original(max(step - 1, 1))
    )),
    _make_fault("moments in bfloat16 are not rounded", "train.groups short/fresh", _change_neutral(
        "is_short_slot", lambda original, slot, recipe: False
    )),
    _make_fault("moments in float8 are not rounded", FLOAT8, _change_neutral(
        "is_coded_slot", lambda original, slot, recipe: False
    )),
    _make_fault("moments rounded at random are rounded to nearest", RANDOM, _change_neutral(
        "is_keyed_slot", lambda original, slot, recipe: False
    )),
    _make_fault("moments are rounded at random as a step before", RANDOM, _round_as_before),
    _make_fault("moments rounded at random lose a little", RANDOM, _change_rounding(
        lambda original, x, *rest: original(x * (1 - 2.0**-10), *rest)
    )),
    _make_fault("moments in float8 are rounded as a step before", FLOAT8, _round_as_before),
    _make_fault("moments in float8 lose a little", FLOAT8, _change_encoding(
        lambda original, x, *rest: original(x * (1 - 2.0**-6), *rest)
    )),
    # torch takes eight times as many elements at a time, more than any case has.
    Fault(
        "rows of a large matrix are rounded as its first ones", "optimizer", UPDATE, LARGE,
        _change_encoding(lambda original, x, form, key, *first: original(x, form, key)), "mlx",
    ),
    Fault(
        "Muon's step of a large matrix is taken in pieces", "optimizer", UPDATE, LARGE,
        _split_every_rule, "mlx",
    ),
    Fault("moments in float8 have zeros below 0", "optimizer", CODED, SIZES, _change_encoding(
        _sign_zeros
    )),
    Fault("moments in float8 lose the least numbers", "optimizer", CODED, SIZES, _change_encoding(
        _flush_least
    )),
    _make_fault("the last matching group holds", GROUPS, _change_neutral(
        "choose_update_rules", _reverse_groups
    )),
    _make_fault("a group's rate is the run's", GROUPS, _change_rules(
        lambda name, rule: replace(rule, lr_scale=1.0)
    )),
    _make_fault("a group's decay is the run's", GROUPS, _change_rules(
        lambda name, rule: replace(rule, recipe=replace(rule.recipe, weight_decay=0.1))
    )),
    _make_fault("the average decays by 0.81", GROUPS, _change(
        "average_weights", lambda original, e, p, decay: original(e, p, decay + 0.01)
    )),
    _make_fault("the average forgets the past", MUON, _change(
        "average_weights", lambda original, e, p, decay: p
    )),
)  # fmt: skip
