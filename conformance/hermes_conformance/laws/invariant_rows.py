"""Laws of L2 and L3 about rows whose bits do not depend on which others are read beside them."""

from collections.abc import Iterator

import numpy as np

from hermes.errors import Unsupported
from hermes.interface import DecodesInvariantRows, RowDecoder
from hermes_conformance.cases.case import Case
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.compare import Measurement, compare_bits
from hermes_conformance.measure.law import Check, Law, match_names
from hermes_conformance.measure.subject import Backends
from hermes_conformance.oracle.rounding_noise import (
    LogitNoise,
    compare_with_noise,
    estimate_logit_noise,
)

ROWS = (2, 0, 3, 1, 4)  # of the cache, for each of five texts
ALONE = ((0, 4), (3, 3), (4, 0))  # texts that are read again by themselves, and in which row


class _Reader:
    """Reads texts, which are rows of the case, through rows of one cache.

    read: of each text, how many tokens it had after each read, and the logits then.
    """

    def __init__(self, case: Case, decoder: RowDecoder, rows: dict[int, int]):
        self._case, self._decoder, self._rows = case, decoder, rows
        self.read: dict[int, list[tuple[int, np.ndarray]]] = {text: [] for text in rows}
        for row in rows.values():
            decoder.open_row(row, case.T)

    def count_read(self, text: int) -> int:
        """How many tokens of a text have been read."""
        return self.read[text][-1][0] if self.read[text] else 0

    def advance(self, ends: dict[int, int]) -> None:
        """Read on, in one pass, up to so many tokens of each of these texts."""
        before = [self.count_read(text) for text in ends]
        counts = [end - start for end, start in zip(ends.values(), before, strict=True)]
        tokens = np.zeros((len(ends), max(counts)), np.int32)
        for i, (text, end) in enumerate(ends.items()):
            tokens[i, : counts[i]] = self._case.tokens[text % self._case.B, before[i] : end]
        logits = self._decoder.advance([self._rows[text] for text in ends], tokens, counts)
        for i, (text, end) in enumerate(ends.items()):
            self.read[text].append((end, logits[i]))

    def read_in_company(self) -> None:
        """Read all texts: prompts of different lengths, then tokens, at each of which one waits."""
        T, step = self._case.T, 0
        self.advance({text: max(T // 2 + 2 - 2 * text, 1) for text in self._rows})
        while min(map(self.count_read, self._rows)) < T:
            step += 1
            going = [k for k in self._rows if self.count_read(k) < T and (step + k) % 5]
            if going:
                self.advance({text: self.count_read(text) + 1 for text in going})


def make_check(
    precision: str, token_bound: tolerance.Bound, element_bound: tolerance.Bound
) -> Check:
    """A check of invariant rows in a format, with the bounds of a full pass in it."""

    def check(case: Case, backends: Backends) -> Iterator[Measurement]:
        """Texts have the same bits in company and alone, in whichever row, and the right ones."""
        model = backends.subject.build_model(case, precision)
        if not isinstance(model, DecodesInvariantRows):
            raise Unsupported(f"{backends.subject.name} has no rows that are the same in company")
        noise = estimate_logit_noise(backends.oracle, case, precision)
        decoder = model.invariant_row_decoder(len(ROWS), case.T)
        company = _Reader(case, decoder, dict(enumerate(ROWS)))
        company.read_in_company()
        for text, reads in company.read.items():
            for end, got in reads:
                at = np.s_[text % case.B : text % case.B + 1, end - 1 : end]
                here = LogitNoise(noise.logits[at], noise.sigma[at], noise.kl, noise.unit)
                what = f"text {text}, logits after {end} tokens"
                yield from compare_with_noise(
                    what, got[None, None], here, token_bound, element_bound
                )
        for text, row in ALONE:
            alone = _Reader(case, model.invariant_row_decoder(len(ROWS), case.T), {text: row})
            for end, expected in company.read[text]:
                alone.advance({text: end})
                _, got = alone.read[text][-1]
                what = f"text {text} alone in row {row}, logits after {end} tokens"
                yield compare_bits(what, got, expected, tolerance.EXACT)

    return check


_CASES = match_names("decoding.company", "decoding.ring windows")

LAWS_32 = (
    Law(
        "L2",
        "invariant-rows",
        "rows have the same bits alone and in company",
        tolerance.EXACT,
        make_check("float32", tolerance.TOKEN_32, tolerance.ELEMENT_32),
        _CASES,
        precision="float32",
    ),
)
LAWS_16 = (
    Law(
        "L3",
        "invariant-rows",
        "rows have the same bits alone and in company, in bfloat16",
        tolerance.EXACT,
        make_check("bfloat16", tolerance.TOKEN_16, tolerance.ELEMENT_16),
        _CASES,
        precision="bfloat16",
    ),
)
