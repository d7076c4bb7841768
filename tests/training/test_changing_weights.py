"""A mixture whose weights change takes the same samples on each backend, however it is resumed."""

import pytest

from hermes.training.metrics_file import read_metrics
from tests.training.support import Runs, corpus_in

CHANGE, STEPS = 3, 6


@pytest.fixture(scope="module")
def go(tmp_path_factory):
    """Trains on a mixture: go(NAME, backend=...), of 4 rows a step. -> losses by step and name"""
    folder = tmp_path_factory.mktemp("changing")
    corpus = path, _ = corpus_in(folder)
    other = folder / "other.txt"
    other.write_text(path.read_text()[::-1], encoding="utf-8")
    data = {
        "plain": {"files": path, "weight": 0.75},
        "turned": {"files": other, "weight": 0.25},
        "schedule": {CHANGE: {"plain": 0, "turned": 1}},
    }
    runs = Runs(corpus, folder)

    def run(name, **options):
        options.setdefault("batch_size", 4)
        runs(name, data=data, max_steps=STEPS, document_mask=True, **options)
        kept = {}
        for line in read_metrics(folder / name):
            if "loss" in line:
                names = [one for one in line if one == "loss" or one.startswith("loss/")]
                kept[line["step"]] = {one: line[one] for one in names}
        return kept

    return run


@pytest.fixture(scope="module")
def unbroken(go):
    found = go("unbroken")
    before = set().union(*(found[step] for step in range(1, CHANGE + 1)))
    assert before == {"loss", "loss/plain", "loss/turned"}
    assert all(set(found[step]) == {"loss", "loss/turned"} for step in range(CHANGE + 1, STEPS + 1))
    return found


@pytest.mark.parametrize("at", [CHANGE - 1, CHANGE, CHANGE + 1])
def test_it_is_resumed_on_the_other_backend_before_and_after_the_change(go, unbroken, at):
    name = f"at-{at}"
    go(name, backend="torch", stop_at=at)
    found = go(name, backend="mlx", resume=True)
    assert found.keys() == unbroken.keys()
    for step, losses in unbroken.items():
        assert found[step] == pytest.approx(losses, abs=2e-5), step


def test_rows_of_a_step_may_come_in_micro_batches(go, unbroken):
    found = go("micro", backend="mlx", batch_size=1, grad_accum=4)
    for step, losses in unbroken.items():
        assert found[step] == pytest.approx(losses, abs=2e-5), step
