"""Faults of the objectives: the next token, and preferences."""

from collections.abc import Callable
from dataclasses import replace

from hermes.interface import IGNORE
from hermes.recipe import Preference
from hermes_conformance.faults.fault import Fault, Plant
from hermes_conformance.faults.patcher import FAST_TABLES, TABLES, Function, Patcher

LOSS = "L1/loss"
DEFAULT = "default/fresh"
WEIGHTED = "weighted.packed/hot"
WEIGHTED_PAIRS = "preference.weighted/hot"


def _change_target_logprobs(change: Function) -> Plant:
    """Compute log-probabilities and the loss by change(original, logits, targets, *args)."""

    def plant(patcher: Patcher) -> None:
        loss = patcher.load_module("loss")
        original = loss.target_logprobs

        def faulty(logits, targets, *args):
            return change(original, logits, targets, *args)

        patcher.wrap_function(original, lambda _: faulty)
        patcher.wrap_function(loss.next_token_loss, lambda _: lambda *args: -faulty(*args).sum())

    return plant


def _shift_targets(original, logits, targets, *args):
    return original(logits[:, :-1], targets[:, 1:], *args)


def _count_every_target(original, logits, targets, *args):
    return original(logits, targets * (targets != IGNORE), *args)


def _skip_maximum(patcher: Patcher) -> None:
    """log(sum(exp(z))) without the maximum subtracted, which overflows for large z."""

    def change(original, logits, targets, *args):
        loss = patcher.load_module("loss")
        if patcher.name == "torch":
            exp, log, top = loss.torch.exp, loss.torch.log, logits.amax(-1)
        else:
            exp, log, top = patcher.load_module("ops").exp, loss.mx.log, logits.max(-1)
        right = top + log(exp(logits - top[..., None]).sum(-1))
        naive = log(exp(logits).sum(-1))
        return original(logits, targets, *args) + (targets != IGNORE) * (right - naive)

    _change_target_logprobs(change)(patcher)


def _add_vocabulary_row(original, logits, targets, *args):
    """Log-probabilities are lower, as if the vocabulary had one more token."""
    result = original(logits, targets, *args)
    return result - (targets != IGNORE) * 1e-4


def _ignore_weights(tables: tuple[str, ...]) -> Plant:
    """Every target counts alike in the loss of these tables."""

    def plant(patcher: Patcher) -> None:
        patcher.wrap_table(
            "next_token",
            lambda original: (
                lambda module, x, targets, at, weights, *more: original(
                    module, x, targets, at, None, *more
                )
            ),
            tables,
        )

    return plant


def _ignore_pair_weights(tables: tuple[str, ...]) -> Plant:
    """Every pair counts alike in the loss of these tables."""

    def plant(patcher: Patcher) -> None:
        patcher.wrap_table(
            "preference",
            lambda original: (
                lambda module, x, targets, layout, reference, rule, weights=None, *factor: original(
                    module, x, targets, layout, reference, rule, None, *factor
                )
            ),
            tables,
        )

    return plant


def _change_z_loss(name: str, change: Function) -> Plant:
    """Compute z_loss of the exact loss, or score_z of the chunked one, by change(original, ...)."""

    def plant(patcher: Patcher) -> None:
        patcher.wrap_function(
            getattr(patcher.load_module("loss" if name == "z_loss" else "chunked_loss"), name),
            lambda original: lambda *arguments: change(original, *arguments),
        )

    return plant


def _halve_slope(original, *arguments):
    z, slope = original(*arguments)
    return z, slope / 2


def _change_pair_losses(change: Function) -> Plant:
    """Compute the losses of pairs by change(original, sums, counts, reference, rule)."""

    def plant(patcher: Patcher) -> None:
        patcher.wrap_function(
            patcher.load_module("loss").pair_losses,
            lambda original: lambda *args: change(original, *args),
        )

    return plant


def _change_rule(change: Callable[[Preference], Preference]) -> Plant:
    """Compute the losses of pairs by change(rule)."""
    return _change_pair_losses(
        lambda original, sums, counts, reference, rule: original(
            sums, counts, reference, change(rule)
        )
    )


def _swap_rows(original, sums, counts, reference, rule):
    P = sums.shape[0] // 2
    turn = [*range(P, 2 * P), *range(P)]
    return original(sums[turn], counts[turn], reference[turn], rule)


def _count_empty_rows(patcher: Patcher) -> None:
    """orpo's log(1 - exp(m)) is taken of rows without a target too, for which m is 0."""
    patcher.wrap_function(
        patcher.load_module("loss").log_one_minus_exp,
        lambda original: lambda m, counts: original(m, counts + 1),
    )


def _halve_single_targets(patcher: Patcher) -> None:
    """A step whose loss has a single term is divided by two."""

    def wrap(original):
        def faulty(self, batch):
            loss, grads = original(self, batch)
            if batch.counts.terms != 1:
                return loss, grads
            return loss / 2, {name: grads[name] / 2 for name in grads}

        return faulty

    patcher.wrap_method("learner", "Learner", "grads", wrap)


def _flatten_log_sigmoid(patcher: Patcher) -> None:
    """The derivative of log sigma is 0 at 0, as it is if written with MLX's minimum or abs."""

    def wrap(original):
        def faulty(x):
            y = original(x)
            flat = patcher.detach(y)
            return flat + (y - flat) * (x != 0)

        return faulty

    patcher.wrap(patcher.load_module("loss"), "log_sigmoid", wrap)


def _skip_last_target(patcher: Patcher) -> None:
    def wrap(original):
        return lambda self, tokens, targets: original(self, tokens[:, :-1], targets[:, :-1])

    patcher.wrap_method("inference", "Model", "row_logprobs", wrap)


def _make_fault(
    name: str, law: str, case: str, plant: Plant, part: str = "loss", only: str | None = None
) -> Fault:
    return Fault(name, part, law, case, plant, only)


PAIR = "preference.sigmoid/hot"

FAULTS = (
    _make_fault("targets are two ahead", LOSS, DEFAULT, _change_target_logprobs(_shift_targets)),
    _make_fault(
        "targets that do not count, count",
        LOSS,
        DEFAULT,
        _change_target_logprobs(_count_every_target),
    ),
    _make_fault(
        "log-probabilities of no target are not zero",
        "L1/logprobs",
        DEFAULT,
        _change_target_logprobs(_count_every_target),
    ),
    _make_fault(
        "targets' weights are ignored", "L1/derivatives", WEIGHTED, _ignore_weights(TABLES)
    ),
    _make_fault(
        "the chunks' weights are ignored", "L2/gradients", WEIGHTED, _ignore_weights(FAST_TABLES)
    ),
    _make_fault(
        "pairs' weights are ignored",
        "L1/derivatives",
        WEIGHTED_PAIRS,
        _ignore_pair_weights(TABLES),
    ),
    _make_fault(
        "the chunks' weights of pairs are ignored",
        "L2/gradients",
        WEIGHTED_PAIRS,
        _ignore_pair_weights(FAST_TABLES),
    ),
    _make_fault(
        "the z-loss forgets weights",
        "L1/derivatives",
        "z_loss.capped/hot",
        _change_z_loss("z_loss", lambda original, *more: original(*more[:-1])),
    ),
    _make_fault(
        "the z-loss is off by a thousandth",
        "L1/derivatives",
        "z_loss.targets/hot",
        _change_z_loss("z_loss", lambda original, *more: original(*more) * 1.001),
    ),
    _make_fault(
        "the chunks' z-loss has half its slope",
        "L2/gradients",
        "z_loss.capped/hot",
        _change_z_loss("score_z", _halve_slope),
    ),
    _make_fault(
        "the chunks' z-loss has half its slope, compiled",
        "L2/compiled-gradients",
        "slices.weighted/hot",
        _change_z_loss("score_z", _halve_slope),
    ),
    _make_fault("log-sum-exp without its maximum", LOSS, "edge.loud logits/hot", _skip_maximum),
    _make_fault(
        "probabilities sum to 0.9999", LOSS, DEFAULT, _change_target_logprobs(_add_vocabulary_row)
    ),
    _make_fault(
        "the reference is left out",
        LOSS,
        PAIR,
        _change_pair_losses(lambda original, s, n, r, rule: original(s, n, r * 0, rule)),
        "preference",
    ),
    _make_fault(
        "chosen and rejected are swapped", LOSS, PAIR, _change_pair_losses(_swap_rows), "preference"
    ),
    _make_fault(
        "beta is counted twice",
        LOSS,
        PAIR,
        _change_rule(lambda rule: replace(rule, beta=rule.beta**2)),
        "preference",
    ),
    _make_fault(
        "means over tokens for sums",
        LOSS,
        PAIR,
        _change_pair_losses(lambda original, s, n, r, rule: original(s / n, n, r, rule)),
        "preference",
    ),
    *(
        _make_fault(
            f"the mean of a single token is halved, {rule}",
            LOSS,
            f"preference.one token {rule}/hot",
            _change_pair_losses(lambda original, s, n, r, rule: original(s, n + (n == 1), r, rule)),
            "preference",
        )
        for rule in ("simpo", "orpo", "sigmoid smoothed")
    ),
    *(
        _make_fault(
            f"a loss of one term is halved, {what}", "L1/derivatives", case, _halve_single_targets
        )
        for what, case in (
            ("a target", "edge.one target/hot"),
            ("a pair", "preference.one pair/hot"),
        )
    ),
    _make_fault(
        "orpo's slope of a row without a target is infinite",
        "L1/derivatives",
        "preference.no target orpo/hot",
        _count_empty_rows,
        "preference",
        "mlx",  # torch's cross-entropy gives a target that does not count no slope, whatever comes
    ),
    _make_fault(
        "label smoothing is ignored",
        LOSS,
        "preference.sigmoid smoothed/hot",
        _change_rule(lambda rule: replace(rule, label_smoothing=0.0)),
        "preference",
    ),
    _make_fault(
        "simpo's margin is left out",
        LOSS,
        "preference.simpo/hot",
        _change_rule(lambda rule: replace(rule, gamma=0.0)),
        "preference",
    ),
    _make_fault(
        "ipo aims at half the margin",
        LOSS,
        "preference.ipo/hot",
        _change_rule(lambda rule: replace(rule, beta=2 * rule.beta)),
        "preference",
    ),
    _make_fault(
        "hinge is the logistic loss",
        LOSS,
        "preference.hinge/hot",
        _change_rule(lambda rule: replace(rule, loss="sigmoid")),
        "preference",
    ),
    _make_fault(
        "the weight of the chosen text is left out",
        LOSS,
        "preference.sigmoid smoothed/hot",
        _change_rule(lambda rule: replace(rule, sft_weight=0.0)),
        "preference",
    ),
    _make_fault(
        "log sigma has no slope at 0",
        "L1/derivatives",
        "undecided.sigmoid/level",
        _flatten_log_sigmoid,
        "preference",
    ),
    _make_fault(
        "the reference is scored without its last target",
        "L1/own-reference",
        PAIR,
        _skip_last_target,
        "preference",
    ),
)
