"""What is said of tasks while training where none can be evaluated, and how ranks agree."""

import sys

import pytest

from hermes.errors import HermesError, Interrupted, PeerLost
from hermes.tasks.rounds import name_scores
from hermes.tasks.scores import TaskScore
from hermes.tracking.tracker import name_curves
from hermes.training.coordination import RankCoordinator
from hermes.training.events import TaskScores, TasksFailed, make_record
from hermes.training.task_rounds import TaskEvaluator, TaskRounds


def test_tasks_are_refused_where_the_harness_is_not_installed(go, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(HermesError, match=r"eval_tasks needs lm-evaluation-harness .*\[tasks\]"):
        go(eval_tasks="hellaswag")
    with pytest.raises(HermesError, match="eval_tasks_limit belongs to eval_tasks; name some"):
        go(eval_tasks_limit=3)
    assert not (tmp_path / "run").exists()


def test_scores_are_named_by_task_metric_and_filter():
    scores = [
        TaskScore("gsm8k", "exact_match", "strict-match", 0.5),
        TaskScore("arc", "acc", "none", 0.25),
        TaskScore("arc", "f1", "none", float("nan")),
    ]
    named = name_scores(scores)
    assert named == {"gsm8k/exact_match/strict-match": 0.5, "arc/acc": 0.25}
    record = make_record(TaskScores(4, {f"task/{name}": value for name, value in named.items()}))
    assert record == {"step": 4, "task/gsm8k/exact_match/strict-match": 0.5, "task/arc/acc": 0.25}
    assert set(name_curves(record)) == set(record) - {"step"}


class Others:
    """A process group in which the other ranks vote as told, one vote after another."""

    def __init__(self, *votes):
        self.votes, self.own = list(votes), []

    def all_reduce_max(self, number):
        self.own.append(number)
        vote = self.votes.pop(0)
        if vote is PeerLost:
            raise PeerLost("rank 1 is silent")
        return max(number, vote)

    def begin(self):
        """Nothing is timed here."""


def evaluate(group, score, stop=False):
    group.rank_info = None
    coordinator = RankCoordinator.__new__(RankCoordinator)
    coordinator._process_group, coordinator._stop = group, lambda: stop
    return TaskEvaluator(TaskRounds(2, score), None, 4, coordinator).evaluate(None, 6)


def two_batches(model, tokenizer, batch_size, go_on):
    for _ in range(2):
        go_on()
    return {"arc/acc": 0.5}


def broken(model, tokenizer, batch_size, go_on):
    go_on()
    raise ValueError("no such\n  question")


def interrupt(model, tokenizer, batch_size, go_on):
    raise Interrupted("twice")


def test_a_run_that_ended_early_is_evaluated_when_it_resumes(go, tmp_path, monkeypatch):
    """It was interrupted after the save of its last step, before its tasks."""
    found = []

    def train(score, **options):
        monkeypatch.setattr("hermes.api.choose_rounds", lambda call: TaskRounds(0, score))
        go(eval_every=1, patience=1, min_delta=100.0, save_every=0, report=found.append, **options)

    with pytest.raises(Interrupted):
        train(interrupt)
    assert max(one.step for one in found) == 2
    train(two_batches, resume=True)
    scores = [one for one in found if isinstance(one, TaskScores)]
    assert scores == [TaskScores(2, {"task/arc/acc": 0.5})]
    train(two_batches, resume=True)  # nothing is left to do
    assert max(one.step for one in found) == 2
    assert [one for one in found if isinstance(one, TaskScores)] == scores


def test_all_ranks_go_on_stop_and_fail_together():
    assert evaluate(Others(0, 0, 0), two_batches) == TaskScores(6, {"task/arc/acc": 0.5})
    assert evaluate(Others(0, 1), two_batches) is None
    assert evaluate(Others(0), two_batches, stop=True) is None
    # One failed while this one was at its second batch, or had done them all.
    for votes in ((0, 2), (0, 0, 2)):
        assert evaluate(Others(*votes), two_batches) == TasksFailed(6, "another process failed")
    failing = Others(0, 0)
    assert evaluate(failing, broken) == TasksFailed(6, "no such question")
    assert failing.own == [0, 2]
    with pytest.raises(PeerLost):
        evaluate(Others(PeerLost), two_batches)
