"""Laws of L2 about decoders made for a GPU: their steps, and the tokens that they choose."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hermes.errors import Unsupported
from hermes.inference.filters import compute_probabilities, draw_candidate, filter_tokens
from hermes.inference.sampling import GREEDY, Sampling
from hermes.interface import ChoosesAhead, ChoosesTokens, DecodesOnDevice, TokenChoice
from hermes_conformance.cases.case import Case
from hermes_conformance.laws.generation import can_decode
from hermes_conformance.laws.rows import RowReader, compare_with_pass
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.compare import Measurement, compare_values
from hermes_conformance.measure.law import Law, match_names
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


def make_decoder(case: Case, backends: Backends, rows: int) -> ChoosesTokens:
    """The decoder, of a model that sums in any order, as production's. Raises Unsupported."""
    subject = backends.subject
    model = subject.build_model(case, "float32", deterministic=False)
    if not isinstance(model, DecodesOnDevice):
        raise Unsupported(f"{subject.name} has no decoders of its own for a GPU")
    return model.make_device_row_decoder(rows, case.T)


def device_rows(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Rows in the cache of a GPU's decoder err as float32 does in a full pass."""
    reader = RowReader(case, make_decoder(case, backends, 4))
    yield from compare_with_pass(case, backends, (*reader.read_all(), *reader.read_prefix()))


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
        choice = TokenChoice(sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p)
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
        choice = TokenChoice(sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p)
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


def _choose(logits: NDArray[np.floating], sampling: Sampling, uniform: float) -> int | None:
    """The host's choice; None where it is too near to another to be told from it."""
    wide = logits.astype(np.float64)
    if sampling.temperature == 0:
        first, second = np.sort(wide)[:-3:-1]
        return int(wide.argmax()) if first - second > NEAR * abs(first) else None
    sums = np.cumsum(compute_probabilities(logits, sampling))
    if np.abs(sums - uniform).min() < NEAR:
        return None
    return draw_candidate(filter_tokens(wide, sampling), uniform)


_KINDS = match_names("default/", "decoding.", "attention.", "edge.window")


def _is_hot(case: Case) -> bool:
    return can_decode(case) and case.name.endswith("/hot") and _KINDS(case)


def _is_chosen(case: Case) -> bool:
    return (
        _is_hot(case)
        and case.name.startswith(("default/", "decoding."))
        and all(one.window_size is None for one in case.spec.attentions)
    )


LAWS = (
    Law(
        "L2",
        "device-rows",
        "rows in the cache of a GPU's decoder err as float32 does",
        tolerance.TOKEN_32,
        device_rows,
        _is_hot,
        precision="float32",
    ),
    Law(
        "L2",
        "choices",
        "a device chooses the tokens that the host chooses",
        tolerance.EXACT,
        choices,
        _is_chosen,
        precision="float32",
    ),
    Law(
        "L2",
        "choices-ahead",
        "a device that begins a step before the last was read chooses as the host",
        tolerance.EXACT,
        choices_ahead,
        _is_chosen,
        precision="float32",
    ),
)
