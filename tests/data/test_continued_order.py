"""The order of a mixture after a run went back: shares at their steps, and no window lost."""

import numpy as np
import pytest

from hermes.data.continued_order import continue_order, shift_phases
from hermes.data.mixture_blocks import AS_DRAWN, AS_SHUFFLED, BLOCK, Phase
from hermes.data.mixture_order import NEVER, MixtureOrder

SIZES = (70, 300, 1000)
FIRST = (0.5, 0.3, 0.2)
PHASES = (Phase(0, FIRST), Phase(1000, (0.1, 0.6, 0.3)), Phase(2 * BLOCK + 1005, (0.0, 0.5, 0.5)))
# Jumps inside a phase's first block, near its end, over the beginning of another, and twice.
CASES = {
    "block": [(Phase(100, FIRST), Phase(1200, (0.0, 0.5, 0.5)))],
    "tail": [(Phase(950, FIRST), Phase(1400, (0.2, 0.2, 0.6)))],
    "over": [(Phase(1100, FIRST), Phase(1500, (0.1, 0.6, 0.3)), Phase(9000, (0.0, 0.5, 0.5)))],
    "twice": [
        (Phase(300, FIRST), Phase(6000, (0.1, 0.6, 0.3))),
        (Phase(310, FIRST), Phase(6010, (0.1, 0.6, 0.3))),
        (Phase(5500, FIRST), Phase(7000, (0.1, 0.6, 0.3))),
    ],
}
END = 3 * BLOCK


@pytest.fixture(params=[AS_DRAWN, AS_SHUFFLED])
def numbering(request):
    return request.param


@pytest.fixture(params=CASES)
def orders(request, numbering):
    """The order before each jump, and the last one."""
    whole = MixtureOrder(5, PHASES, SIZES, numbering)
    jumps = CASES[request.param]
    return [continue_order(whole, jumps[:n]) for n in range(len(jumps) + 1)], jumps


def test_what_was_before_stays_and_no_window_comes_twice(orders):
    made, jumps = orders
    positions = np.arange(END)
    source, number = made[-1].choose_sources(positions)
    for order, (first, *_) in zip(made, jumps, strict=False):
        before = order.choose_sources(positions[: first.start])
        assert (before[0] == source[: first.start]).all()
        assert (before[1] == number[: first.start]).all()
    for k in range(len(SIZES)):
        own = number[source == k]
        assert len(np.unique(own)) == len(own)
        # But for blocks that are not over, every number comes.
        assert np.setdiff1d(np.arange(own.max() + 1), own).size <= BLOCK
        assert made[-1].count_source_samples(END)[k] == len(own)


@pytest.mark.parametrize("numbering", [AS_DRAWN], indirect=True)
def test_a_source_gives_its_windows_in_order_across_jumps(orders, numbering):
    """So that it has given each of an epoch, but for those left out, before one of the next."""
    made, _ = orders
    source, number = made[-1].choose_sources(np.arange(END))
    for k in range(len(SIZES)):
        assert (np.diff(number[source == k]) > 0).all()


def test_shares_are_those_of_their_phases(orders):
    made, jumps = orders
    source, _ = made[-1].choose_sources(np.arange(END))
    phases = jumps[-1]
    ends = [*(phase.start for phase in phases[1:]), END]
    for phase, end in zip(phases, ends, strict=True):
        counts = np.bincount(source[phase.start : end], minlength=3)
        spread = 3 * np.sqrt(end - phase.start)
        assert np.abs(counts - np.array(phase.shares) * (end - phase.start)).max() < spread
        assert not any(counts[k] for k, share in enumerate(phase.shares) if not share)


def test_samples_are_found_by_their_numbers(orders):
    made, _ = orders
    order, positions = made[-1], np.arange(END)
    source, number = order.choose_sources(positions)
    for k in range(len(SIZES)):
        own = number[source == k]
        assert (order.find_positions(k, own) == positions[source == k]).all()
        missing = np.setdiff1d(np.arange(own.max() + 1), own)
        found = order.find_positions(k, missing)
        assert ((found == NEVER) | (found >= END)).all()
        for stretch in (range(90, 120), range(900, 1600), range(5000, 7000), range(END)):
            bounds = order.find_numbers(k, stretch)
            inside = number[stretch.start : stretch.stop][source[stretch.start : stretch.stop] == k]
            assert all(one in bounds for one in inside.tolist())


def test_phases_are_shifted_by_what_was_left_out():
    changes = [(0, FIRST), (10, (0.1, 0.6, 0.3)), (20, (0.0, 0.5, 0.5))]
    assert shift_phases(changes, 9, 50, 4) == (
        Phase(50, FIRST), Phase(54, (0.1, 0.6, 0.3)), Phase(94, (0.0, 0.5, 0.5)),
    )  # fmt: skip
    assert shift_phases(changes, 20, 99, 4) == (Phase(99, (0.0, 0.5, 0.5)),)
