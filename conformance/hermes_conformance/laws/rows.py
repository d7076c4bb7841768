"""Laws of L1 to L3 about rows of different lengths in one KV cache."""

from collections.abc import Iterable, Iterator

import numpy as np

from hermes.errors import Unsupported
from hermes.interface import DecodesRows, RowDecoder
from hermes_conformance.cases.case import Case
from hermes_conformance.laws.generation import can_decode
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.compare import Measurement, compare_relative, compare_values
from hermes_conformance.measure.law import Check, Law, match_names
from hermes_conformance.measure.subject import Backends
from hermes_conformance.oracle.rounding_noise import (
    LogitNoise,
    compare_with_noise,
    estimate_logit_noise,
)

ROWS = (2, 0, 1)  # of the cache, for each of three texts; row 3 comes in later
FoundRow = tuple[str, int, int, np.ndarray]
Found = Iterator[FoundRow]
Measured = Iterator[Measurement]
BOUNDS_32 = (tolerance.TOKEN_32, tolerance.ELEMENT_32)


class RowReader:
    """Reads three texts, which are rows of the case, through the rows of one cache."""

    def __init__(self, case: Case, decoder: RowDecoder):
        self.case, self.decoder, self.T = case, decoder, case.T
        self.read = [0, 0, 0]

    def advance(self, what: str, texts: list[int], counts: list[int]) -> Found:
        """Read counts[i] more tokens of texts[i]; of each what, its row, its length, its logits."""
        tokens = np.zeros((len(texts), max(counts)), np.int64)
        for i, (text, count) in enumerate(zip(texts, counts, strict=True)):
            start = self.read[text]
            tokens[i, :count] = self.case.tokens[text % self.case.B, start : start + count]
            self.read[text] += count
        logits = self.decoder.advance([ROWS[text] for text in texts], tokens, counts)
        for i, text in enumerate(texts):
            yield what, text % self.case.B, self.read[text], logits[i]

    def read_all(self) -> Found:
        """Prefills of different lengths, then steps in which not every row takes part."""
        T = self.T
        for row in ROWS:
            self.decoder.open_row(row, T)
        first = [min(T // 2 + 1, T), max(T // 2 - 1, 1), 1]
        yield from self.advance("prefill", [0, 1, 2], first)
        step = 0
        while min(self.read) < T:
            texts = [k for k in range(3) if self.read[k] < T and (step + k) % 3 != 1]
            counts = [min(1 + (step % 4 == 3), T - self.read[k]) for k in texts]
            if texts:
                yield from self.advance("step", texts, counts)
            step += 1

    def read_prefix(self) -> Found:
        """A row that begins with another's tokens, and one that forgets its earlier text."""
        row = self.case.tokens[0]
        for what, target, source in (("copy", 3, ROWS[0]), ("reuse", ROWS[1], None)):
            wanted = self.T - 1 if source is not None else 0
            kept = self.decoder.open_row(target, self.T, source=source, length=wanted)
            rest = row[None, kept:]
            logits = self.decoder.advance([target], rest, [rest.shape[1]])
            yield f"{what} of {kept} tokens", 0, self.T, logits[0]


def read_rows(case: Case, backends: Backends, precision: str) -> Found:
    """All logits of a case that is read by rows. Raises Unsupported."""
    model = backends.subject.build_model(case, precision)
    if not isinstance(model, DecodesRows):
        raise Unsupported(f"{backends.subject.name} reads rows of different lengths one by one")
    reader = RowReader(case, model.row_decoder(4, case.T))
    yield from reader.read_all()
    yield from reader.read_prefix()


def keeps_all(case: Case) -> bool:
    """Whether no layer may drop tokens, so that any prefix can be copied."""
    return all(attention.window_size is None for attention in case.spec.attentions)


def rows(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Rows of different lengths in one cache have the logits of the reference's full pass."""
    reference = backends.reference
    whole = reference.compute_once(
        case, "unpacked", lambda: reference.build_model(case).logits(case.tokens)
    )
    for what, b, end, got in read_rows(case, backends, "float64"):
        name = f"{what}: row {b}, logits after {end} tokens"
        yield compare_relative(name, got, whole[b, end - 1], tolerance.LOGITS_64)
        if what.startswith("copy") and keeps_all(case):
            kept = f"copy of {case.T - 1} tokens"
            yield compare_values("what a row begins with", what, kept, tolerance.EXACT)


def compare_with_pass(
    case: Case,
    backends: Backends,
    found: Iterable[FoundRow],
    precision: str = "float32",
    bounds: tuple[tolerance.Bound, tolerance.Bound] = BOUNDS_32,
) -> Measured:
    """Compare logits of rows with the reference's full pass, as a format may err.

    bounds: of a token's logits and of one of them.
    """
    noise = estimate_logit_noise(backends.oracle, case, precision)
    for what, b, end, got in found:
        at = np.s_[b : b + 1, end - 1 : end]
        here = LogitNoise(noise.logits[at], noise.sigma[at], noise.kl, noise.unit)
        name = f"{what}: row {b}, logits after {end} tokens"
        yield from compare_with_noise(name, got[None, None], here, *bounds)


def _make_noise_check(precision: str, bounds: tuple[tolerance.Bound, tolerance.Bound]) -> Check:
    def check(case: Case, backends: Backends) -> Iterator[Measurement]:
        """Rows of different lengths err as the format does in a full pass."""
        found = read_rows(case, backends, precision)
        yield from compare_with_pass(case, backends, found, precision, bounds)

    return check


def _has_one_change(case: Case) -> bool:
    """Cases with hot weights of one field of MAL, one length or one objective."""
    return case.can_decode and case.name.endswith("/hot") and not case.name.startswith("crossed.")


_KINDS = match_names("default/", "decoding.", "attention.", "edge.window")


def _is_of_rows(case: Case) -> bool:
    return _has_one_change(case) and can_decode(case) and _KINDS(case)


LAWS_64 = (
    Law(
        "L1",
        "rows",
        "rows of different lengths in one KV cache do not see each other",
        tolerance.LOGITS_64,
        rows,
        lambda case: _has_one_change(case) and not case.name.startswith(("golden.", "lora.")),
    ),
)
LAWS_32 = (
    Law(
        "L2",
        "rows",
        "logits of rows of different lengths err as float32 does",
        tolerance.TOKEN_32,
        _make_noise_check("float32", BOUNDS_32),
        _is_of_rows,
        precision="float32",
    ),
)
LAWS_16 = (
    Law(
        "L3",
        "rows",
        "logits of rows of different lengths err as bfloat16 does",
        tolerance.TOKEN_16,
        _make_noise_check("bfloat16", (tolerance.TOKEN_16, tolerance.ELEMENT_16)),
        _is_of_rows,
        precision="bfloat16",
    ),
)
