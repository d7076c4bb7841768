"""Laws of L2 about the tokens that decoders made for a GPU choose, where the logits are.

Each choice is compared with the host's from the same logits, where no rounding can exchange it.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hermes.errors import Unsupported
from hermes.inference.filters import compute_probabilities, draw_candidate, filter_tokens
from hermes.inference.sampling import GREEDY, Sampling
from hermes.interface import ChoosesAhead, TokenChoice
from hermes_conformance.cases.case import Case
from hermes_conformance.laws.device_rows import build_device_model, make_decoder
from hermes_conformance.laws.generation import can_decode
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.compare import Measurement, compare_values
from hermes_conformance.measure.law import Check, Law
from hermes_conformance.measure.subject import Backends

SAMPLINGS = (
    GREEDY,
    Sampling(temperature=1.0),
    Sampling(temperature=0.8, top_k=3),
    Sampling(temperature=1.2, top_p=0.6),
    Sampling(temperature=1.0, min_p=0.3),
    Sampling(temperature=1.5, top_k=6, top_p=0.8, min_p=0.05),
)
UNIFORMS = (0.02, 0.37, 0.63, 0.98)
STEPS_AHEAD = 4
NEAR = tolerance.CHOICE_MARGIN.limit


def choices(case: Case, backends: Backends) -> Iterator[Measurement]:
    """A device chooses the tokens that the host chooses from the same logits."""
    length = case.T - 1
    told, chooser = (make_decoder(case, backends, 2) for _ in range(2))
    for decoder in (told, chooser):
        for row in range(2):
            decoder.open_row(row, case.T)
            decoder.advance([row], case.tokens[:1, : length - row], [length - row])
    last = np.array([case.tokens[0, length - row : length - row + 1] for row in range(2)])
    logits = told.advance([0, 1], last, [1, 1])
    vocab_size = case.spec.vocab_size
    for sampling in SAMPLINGS:
        choice = _describe(sampling)
        for uniform in UNIFORMS:
            expected = [_choose(row, sampling, uniform) for row in logits]
            for row in range(2):  # as far as they were before
                kept = length - row
                chooser.open_row(row, case.T, source=row, length=kept)
            if any(one is None for one in expected):
                continue
            got = chooser.choose(
                [0, 1], last, [1, 1], [choice] * 2, [uniform] * 2, vocab_size
            ).tolist()
            yield compare_values(f"{choice} at {uniform}", got, expected, tolerance.EXACT)


def choices_ahead(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Steps that are begun before the last tokens were read choose what the host chooses.

    A row leaves the batch and comes back with a token of the host's, as another text would.
    """
    told, ahead = (make_decoder(case, backends, 3) for _ in range(2))
    if not isinstance(ahead, ChoosesAhead):
        raise Unsupported(f"{backends.subject.name} begins no step before it has read the last")
    length, vocab_size = case.T - STEPS_AHEAD, case.spec.vocab_size
    for sampling in SAMPLINGS:
        choice = _describe(sampling)
        rows = [0, 2]
        for decoder in (told, ahead):
            for row in rows:
                decoder.open_row(row, case.T)
                decoder.advance([row], case.tokens[:1, : length - row], [length - row])
        tokens = {row: int(case.tokens[0, length - row]) for row in rows}
        given, reads, expected = dict(tokens), [], []
        for step in range(STEPS_AHEAD):
            at = rows[:1] if step == 1 else rows[::-1]
            uniforms = [UNIFORMS[(step + row) % len(UNIFORMS)] for row in at]
            logits = told.advance(at, np.array([[tokens[row]] for row in at]), [1] * len(at))
            found = [_choose(*one) for one in zip(logits, [sampling] * 2, uniforms, strict=False)]
            chosen = [one for one in found if one is not None]
            if len(chosen) < len(found):
                break  # nothing that follows is certain
            begun = np.array([given[row] for row in at], np.int32)
            reads.append(ahead.begin_choice(at, begun, [choice] * len(at), uniforms, vocab_size))
            expected.append(chosen)
            tokens |= dict(zip(at, chosen, strict=True))
            given |= dict.fromkeys(at, -1)
            for row in set(rows) - set(at):
                given[row] = tokens[row]
        got = [read().tolist() for read in reads]
        yield compare_values(f"{choice}, {len(got)} steps", got, expected, tolerance.EXACT)


def choices_apart(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Rows of one step choose each by its own rule, beside one whose logits are no numbers.

    Which row that is changes, so that each chooses again where another's end was no number.
    """
    bad = case.spec.vocab_size - 1
    weights = {name: np.array(value) for name, value in case.weights.items()}
    weights["model.embed_tokens.weight"][bad] = np.nan
    model = build_device_model(case, backends, weights)
    told, chooser = (model.make_device_row_decoder(3, case.T) for _ in range(2))
    text, rows = np.minimum(case.tokens[0], bad - 1), [0, 1, 2]
    lengths = [case.T - 1 - row for row in rows]
    for decoder in (told, chooser):
        for row, length in zip(rows, lengths, strict=True):
            decoder.open_row(row, case.T)
            decoder.advance([row], text[None, :length], [length])
    for number, sampling in enumerate(SAMPLINGS[1:] * 2):
        mine = [GREEDY, sampling, sampling]
        mine = mine[number % 3 :] + mine[: number % 3]
        uniforms = [UNIFORMS[(number + row) % len(UNIFORMS)] for row in rows]
        last = text[lengths][:, None].copy()
        last[number // 3 % 3] = bad
        for decoder in (told, chooser):
            for row, length in zip(rows, lengths, strict=True):  # as far as they were before
                decoder.open_row(row, case.T, source=row, length=length)
        logits = told.advance(rows, last, [1] * 3)
        expected = [_choose(*one) for one in zip(logits, mine, uniforms, strict=True)]
        settings = [_describe(one) for one in mine]
        got = chooser.choose(rows, last, [1] * 3, settings, uniforms, case.spec.vocab_size)
        for row, chosen in enumerate(expected):
            if chosen is not None:
                what = f"row {row} by {settings[row]} at {uniforms[row]}"
                yield compare_values(what, int(got[row]), chosen, tolerance.EXACT)


def writes_ahead(case: Case, backends: Backends) -> Iterator[Measurement]:
    """A text that is written ahead of what the host reads has as many tokens as asked, its own.

    No number is drawn for a token that nobody asked for.
    """
    model = build_device_model(case, backends)
    length, vocab_size = case.T - STEPS_AHEAD - 1, case.spec.vocab_size  # room for one too many
    for sampling in SAMPLINGS:
        told, ahead = (model.make_device_decoder(1, case.T) for _ in range(2))
        for decoder in (told, ahead):
            decoder.advance(case.tokens[:1, :length])
        first = token = int(case.tokens[0, length])
        expected: list[int] = []
        for uniform in UNIFORMS[:STEPS_AHEAD]:
            chosen = _choose(told.advance(np.array([[token]]))[0], sampling, uniform)
            if chosen is None:
                break  # nothing that follows is certain
            expected.append(token := chosen)
        if not expected:
            continue
        count, numbers = len(expected), UNIFORMS * 2
        uniforms, choice = iter(numbers), _describe(sampling)
        written = ahead.write_ahead(first, choice, uniforms, count, vocab_size)
        yield compare_values(f"text by {choice}", list(written), expected, tolerance.EXACT)
        left = len(numbers) - count
        yield compare_values("numbers that are left", len(list(uniforms)), left, tolerance.EXACT)


def _describe(sampling: Sampling) -> TokenChoice:
    return TokenChoice(sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p)


def _choose(logits: NDArray[np.floating], sampling: Sampling, uniform: float) -> int | None:
    """The host's choice, -1 for no token; None where another is too near to tell them apart."""
    wide = logits.astype(np.float64)
    if not np.isfinite(wide.max()):
        return -1
    if sampling.temperature == 0:
        first, second = np.sort(wide)[:-3:-1]
        # Those of a head of zeros are equal on any device, and the first of equals is chosen.
        is_certain = first - second > NEAR * abs(first) or not wide.any()
        return int(wide.argmax()) if is_certain else None
    sums = np.cumsum(compute_probabilities(logits, sampling))
    if np.abs(sums - uniform).min() < NEAR:
        return None
    return draw_candidate(filter_tokens(wide, sampling), uniform)


def _is_chosen(case: Case) -> bool:
    ordinary = ("default/hot", "decoding.", "choices.")
    windows = [one.window_size for one in case.spec.attentions]
    return (
        can_decode(case) and case.name.startswith(ordinary) and windows.count(None) == len(windows)
    )


def _make_law(name: str, statement: str, check: Check) -> Law:
    return Law("L2", name, statement, tolerance.EXACT, check, _is_chosen, precision="float32")


LAWS = (
    _make_law("choices", "a device chooses the tokens that the host chooses", choices),
    _make_law(
        "choices-apart",
        "a row's choice does not depend on the others' rules, nor on logits that are no numbers",
        choices_apart,
    ),
    _make_law(
        "choices-ahead",
        "a device that begins a step before the last was read chooses as the host",
        choices_ahead,
    ),
    _make_law(
        "written-ahead",
        "a text that is written before its tokens were read is the host's, and no longer",
        writes_ahead,
    ),
)
