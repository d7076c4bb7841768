"""Tasks while a model trains: on both backends, as `hermes eval` scores the checkpoints."""

import json
import re
from functools import cache

import pytest

import hermes
from hermes.training.events import Saved, Stopped, TaskScores, TasksFailed
from hermes.training.metrics_file import read_metrics
from tests.against_other_tools.task_files import ANSWER, CHOICE, CLOZE, COMMON, QUESTIONS
from tests.distributed.support import hermes as launch
from tests.training.support import SPEC, Runs, corpus_in

pytest.importorskip("lm_eval")

NAMES = ("little_choice", "little_cloze", "little_answer")
PLAIN = SPEC.replace("dropout: 0.1", "dropout: 0.0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tasks with their data."""
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "questions.jsonl"
    data.write_text("".join(json.dumps(one) + "\n" for one in QUESTIONS))
    for name, body in zip(NAMES, (CHOICE, CLOZE, ANSWER), strict=True):
        (folder / f"{name}.yaml").write_text(COMMON.format(name=name, data=data) + body)
    return folder


@pytest.fixture(scope="module", autouse=True)
def index():
    """The harness's table of tasks, which takes seconds to make, is made once for each folder."""
    import lm_eval.tasks

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm_eval.tasks, "TaskManager", cache(lm_eval.tasks.TaskManager))
        yield


@pytest.fixture
def go(folder, tmp_path, monkeypatch, corpus):
    """A run with the tasks; its events come with its result."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    runs = Runs(corpus, tmp_path)

    def train(name="run", **options):
        events = []
        given = {"spec": PLAIN, "max_steps": 5, "bos": True, "eval_tasks": ",".join(NAMES),
                 "eval_tasks_every": 2, "eval_tasks_path": folder, "save_every": 0}  # fmt: skip
        report = options.pop("report", lambda event: None)
        runs(name, **given | options, report=lambda one: (events.append(one), report(one)))
        return events

    return train


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return corpus_in(tmp_path_factory.mktemp("corpus"))


def scores(run):
    """By step."""
    return {
        line["step"]: {key: line[key] for key in line if key != "step"}
        for line in read_metrics(run)
        if any(key.startswith("task/") for key in line)
    }


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_scores_are_those_of_the_checkpoints(go, folder, tmp_path, backend):
    events = go(backend=backend, lr=1e-2, max_steps=4, track="tensorboard")
    found = scores(tmp_path / "run")
    assert list(found) == [2, 4]
    for step, values in found.items():
        expected = hermes.evaluate(
            tmp_path / "run" / f"step-{step:08}", tasks=NAMES, include_path=folder,
            backend=backend, batch_size=4,
        ).tasks  # fmt: skip
        assert values == {
            f"task/{one.task}/{one.metric}": pytest.approx(one.value, rel=1e-4) for one in expected
        }
        # A checkpoint is whole on disk before the evaluation that might fail.
        of_step = [one for one in events if one.step == step]
        kinds = [type(one) for one in of_step if isinstance(one, Saved | TaskScores)]
        assert kinds == [Saved, TaskScores]
    assert {name for values in found.values() for name in values} >= {
        "task/little_choice/acc", "task/little_cloze/perplexity", "task/little_answer/exact_match",
    }  # fmt: skip


def test_both_backends_have_the_same_scores_and_train_as_without(go, tmp_path):
    for backend in ("torch", "mlx"):
        go(backend, backend=backend, max_steps=2)
    theirs = scores(tmp_path / "mlx")
    for step, values in scores(tmp_path / "torch").items():
        assert values == pytest.approx(theirs[step], rel=1e-4)
    go("plain", max_steps=2, eval_tasks=(), eval_tasks_every=0, eval_tasks_path=None)
    plain, evaluated = (
        [line["loss"] for line in read_metrics(tmp_path / name) if "loss" in line]
        for name in ("plain", "torch")
    )
    assert plain == evaluated


def test_a_failure_is_said_once_and_does_not_end_the_run(go, folder, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    missing = tmp_path / "gone.jsonl"
    (own / "gone.yaml").write_text(COMMON.format(name="gone", data=missing) + CHOICE)
    events = go(eval_tasks=["gone"], eval_tasks_path=own)
    failed = [one for one in events if isinstance(one, TasksFailed)]
    assert [one.step for one in failed] == [2]
    assert "lm-evaluation-harness cannot evaluate gone: " in failed[0].what
    assert "\n" not in failed[0].what
    saved = [one.step for one in events if isinstance(one, Saved)]
    assert saved == [2, 4, 5]
    assert scores(tmp_path / "run") == {}


def test_a_run_that_was_stopped_at_its_tasks_resumes_with_them(go, tmp_path):
    """Asked to stop between two batches of questions."""
    whole = go("whole", max_steps=4)
    events = go(max_steps=4, stop_at=3)  # as the update of step 2 is reported
    assert [type(one) for one in events[-2:]] == [Saved, Stopped]
    assert scores(tmp_path / "run") == {}
    go(max_steps=4, resume=True)
    assert scores(tmp_path / "run") == scores(tmp_path / "whole")
    assert sum(isinstance(one, TaskScores) for one in whole) == 2
    # Nothing is left to do.
    assert go(max_steps=4, resume=True) == []


def test_what_is_asked_wrongly_is_refused_before_training(go, folder, tmp_path):
    wrong = {
        "eval_tasks: there is no task 'little_choise'": {"eval_tasks": "little_choise"},
        "eval_tasks_limit must be above 0, got 0": {"eval_tasks_limit": 0},
        "eval_tasks_fewshot must be at least 0, got -1": {"eval_tasks_fewshot": -1},
        "eval_tasks_every must be at least 0, got -1": {"eval_tasks_every": -1},
        "eval_tasks_path: nowhere is no folder": {"eval_tasks_path": "nowhere"},
    }
    for message, options in wrong.items():
        with pytest.raises(hermes.HermesError, match=re.escape(message)):
            go(**options)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("shard", ["full", "optimizer"])
def test_a_split_model_answers_as_one_process_does(folder, tmp_path, monkeypatch, corpus, shard):
    """Also where a task asks for a generated text."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    corpus[1].save(tmp_path / "tokenizer.json")
    (tmp_path / "little.mal").write_text(PLAIN)
    words = ["train", "--model", "little.mal", "--data", corpus[0], "--tokenizer", "tokenizer.json",
             "--seq-len", 16, "--lr", "1e-2", "--max-steps", 3, "--bos", "--device", "cpu",
             "--precision", "float64", "--backend", "torch", "--eval-tasks", ",".join(NAMES),
             "--eval-tasks-every", 2, "--eval-tasks-path", folder]  # fmt: skip
    launch(tmp_path, *words, "--output", "one", "--batch-size", 4)
    how = ("--num-processes", 2, "--shard", shard, "--batch-size", 2)
    launch(tmp_path, *words, *how, "--output", "two")
    found, expected = (scores(tmp_path / name) for name in ("two", "one"))
    assert list(found) == [2, 3]
    for step, values in found.items():
        assert values == pytest.approx(expected[step], rel=1e-9)
    assert any("little_answer" in name for name in found[2])
