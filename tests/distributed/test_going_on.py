"""A run is resumed by more processes, by fewer, and with another share for each."""

import pytest

from tests.distributed.support import MLX, TORCH, lines, train

# Processes, batch size and accumulation until a step: four sequences each time.
SPLITS = ((1, 1, 4, 2), (2, 1, 2, 4), (1, 2, 2, 6), (2, 2, 1, 8))


@pytest.mark.long
@pytest.mark.parametrize("how", [MLX, TORCH], ids=lambda how: how[1])
def test_a_run_goes_on_on_any_number_of_processes(corpus, tmp_path, how):
    alone, run = tmp_path / "alone", tmp_path / "run"
    quiet = ["--val-fraction", 0]
    train(corpus, "--output", alone, "--grad-accum", 4, "--max-steps", 8, *quiet, *how[:2])
    for size, batch, accum, until in SPLITS:
        where = how if size == 2 else how[:2]
        split = ["--batch-size", batch, "--grad-accum", accum, "--max-steps", until]
        train(corpus, "--output", run, "--auto-resume", *split, *quiet, *where)
    assert len(lines(run)) == 8
    for one, other in zip(lines(alone), lines(run), strict=True):
        assert one == pytest.approx(other, rel=1e-11)

    more = ["--resume", "--grad-accum", 4, "--batch-size", 1, "--max-steps", 10, *quiet, *how]
    said = train(corpus, "--output", run, *more, code=1)
    there = "--batch-size 2 x --grad-accum 1 x 2 processes"
    assert f"({there}) and 8 here (1 x 4 x 2 processes)" in said
    said = train(corpus, "--output", run, "--allow-batch-change", *more)
    assert "from step 9 on a step takes 8 sequences instead of 4" in said
    assert [line["tokens"] // 16 for line in lines(run)][-3:] == [32, 40, 48]
