"""Faults of the objectives: the next token, preferences, and adapters."""

from dataclasses import replace

from hermes.interface import IGNORE
from hermes.recipe import Lora
from hermes_conformance.faults.fault import Fault, Inside

LOSS = "L1/loss"
DEFAULT = "default/fresh"


def _target_logprobs(change):
    """change(original, logits, targets, *more) in the place of log-probabilities and the loss."""

    def plant(inside: Inside) -> None:
        loss = inside.module("loss")
        original = loss.target_logprobs

        def wrong(logits, targets, *more):
            return change(original, logits, targets, *more)

        inside.function(original, lambda _: wrong)
        inside.function(loss.next_token_loss, lambda _: lambda *given: -wrong(*given).sum())

    return plant


def _shifted(original, logits, targets, *more):
    return original(logits[:, :-1], targets[:, 1:], *more)


def _counts_ignored(original, logits, targets, *more):
    return original(logits, targets * (targets != IGNORE), *more)


def _no_maximum(inside: Inside) -> None:
    """log(sum(exp(z))), which overflows where z - max does not."""

    def change(original, logits, targets, *more):
        loss = inside.module("loss")
        if inside.name == "torch":
            exp, log, top = loss.torch.exp, loss.torch.log, logits.amax(-1)
        else:
            exp, log, top = inside.module("ops").exp, loss.mx.log, logits.max(-1)
        right = top + log(exp(logits - top[..., None]).sum(-1))
        naive = log(exp(logits).sum(-1))
        return original(logits, targets, *more) + (targets != IGNORE) * (right - naive)

    _target_logprobs(change)(inside)


def _padded(original, logits, targets, *more):
    """As if the vocabulary had one more row, of score 0."""
    found = original(logits, targets, *more)
    return found - (targets != IGNORE) * 1e-4


def _pairs(change):
    """change(original, sums, counts, reference, rule) in the place of the loss of pairs."""

    def plant(inside: Inside) -> None:
        inside.function(
            inside.module("loss").pair_losses,
            lambda original: lambda *given: change(original, *given),
        )

    return plant


def _swapped(original, sums, counts, reference, rule):
    P = sums.shape[0] // 2
    turn = [*range(P, 2 * P), *range(P)]
    return original(sums[turn], counts[turn], reference[turn], rule)


def _no_slope(inside: Inside) -> None:
    """The derivative of log sigma is 0 at 0, as that of MLX's minimum and abs is."""

    def make(original):
        def wrong(x):
            y = original(x)
            flat = inside.detached(y)
            return flat + (y - flat) * (x != 0)

        return wrong

    inside.wrap(inside.module("loss"), "log_sigmoid", make)


def _without_last(inside: Inside) -> None:
    def make(original):
        return lambda self, tokens, targets: original(self, tokens[:, :-1], targets[:, :-1])

    inside.method("inference", "Model", "row_logprobs", make)


def _lora(change):
    """Adapters built from change(lora)."""

    def plant(inside: Inside) -> None:
        def make(original):
            def wrong(self, base, lora, site):
                original(self, base, lora, site)
                self.lora = change(self.lora)

            return wrong

        inside.method("lora", "LoraLinear", "__init__", make)

    return plant


def _fault(name, law, case, plant, part="loss"):
    return Fault(name, part, law, case, plant)


PAIR = "preference.sigmoid/hot"

FAULTS = (
    _fault("targets are two ahead", LOSS, DEFAULT, _target_logprobs(_shifted)),
    _fault("targets that do not count, count", LOSS, DEFAULT, _target_logprobs(_counts_ignored)),
    _fault(
        "log-probabilities of no target are not zero",
        "L1/logprobs",
        DEFAULT,
        _target_logprobs(_counts_ignored),
    ),
    _fault("log-sum-exp without its maximum", LOSS, "edge.loud logits/hot", _no_maximum),
    _fault("probabilities sum to 0.9999", LOSS, DEFAULT, _target_logprobs(_padded)),
    _fault(
        "the reference is left out",
        LOSS,
        PAIR,
        _pairs(lambda original, s, n, r, rule: original(s, n, r * 0, rule)),
        "preference",
    ),
    _fault("chosen and rejected are swapped", LOSS, PAIR, _pairs(_swapped), "preference"),
    _fault(
        "beta is counted twice",
        LOSS,
        PAIR,
        _pairs(lambda original, s, n, r, rule: original(s, n, r, replace(rule, beta=rule.beta**2))),
        "preference",
    ),
    _fault(
        "means over tokens for sums",
        LOSS,
        PAIR,
        _pairs(lambda original, s, n, r, rule: original(s / n, n, r, rule)),
        "preference",
    ),
    _fault(
        "label smoothing is ignored",
        LOSS,
        "preference.sigmoid smoothed/hot",
        _pairs(
            lambda original, s, n, r, rule: original(s, n, r, replace(rule, label_smoothing=0.0))
        ),
        "preference",
    ),
    _fault(
        "simpo's margin is left out",
        LOSS,
        "preference.simpo/hot",
        _pairs(lambda original, s, n, r, rule: original(s, n, r, replace(rule, gamma=0.0))),
        "preference",
    ),
    _fault(
        "log sigma has no slope at 0",
        "L1/derivatives",
        "undecided.sigmoid/level",
        _no_slope,
        "preference",
    ),
    _fault(
        "the reference is scored without its last target",
        "L1/own-reference",
        PAIR,
        _without_last,
        "preference",
    ),
    _fault(
        "adapters are scaled by alpha alone",
        "L1/derivatives",
        "lora.every matrix/hot",
        _lora(lambda lora: Lora(1, lora.alpha, lora.dropout, lora.targets)),
        "adapters",
    ),
)
