"""lm-evaluation-harness's client of completion servers scores as `hermes eval --tasks` does."""

import pytest

import hermes
from hermes.api_serving import open_served_model
from tests.against_other_tools.task_files import NAMES, QUESTIONS
from tests.serving.conftest import Served

pytest.importorskip("lm_eval")
pytest.importorskip("tenacity", reason="pip install 'lm-eval[api]'")
pytest.importorskip("transformers")

# A module that skips itself can be imported once only, so this is behind what it skips for.
from tests.against_other_tools.test_tasks import evaluate, folder, offline
from tests.waiting import PATIENCE

__all__ = ["folder", "offline"]


@pytest.fixture(scope="module", params=["torch", "mlx"])
def served(folder, request):
    model = open_served_model(folder / "run", model_name="little", backend=request.param)
    server = Served(model)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def expected(folder):
    """Once: the harness reads thousands of files for it."""
    return evaluate(folder, "torch")


def ask_server(served, folder, **options):
    """Scores of the tasks by the harness's own client, by task and metric."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    arguments = {
        "model": "little",
        "base_url": f"{served.address}/v1/completions",
        "tokenizer_backend": "huggingface",
        "tokenizer": str(folder / "hf"),
        "max_length": 32,
        "add_bos_token": True,
        **options,
    }
    found = lm_eval.simple_evaluate(
        model="local-completions",
        model_args=arguments,
        tasks=list(NAMES),
        task_manager=TaskManager(include_path=str(folder / "own"), include_defaults=False),
        bootstrap_iters=0,
    )
    return {
        (task, key.split(",")[0]): value
        for task, values in found["results"].items()
        for key, value in values.items()
        if "," in key and "stderr" not in key and isinstance(value, int | float)
    }


@pytest.mark.parametrize("options", [{}, {"num_concurrent": 4, "batch_size": 3}])
def test_the_client_scores_as_hermes_eval_does(served, folder, expected, options):
    found = ask_server(served, folder, **options)
    for key, one in expected.items():
        assert found[key] == pytest.approx(one.value, rel=1e-4), key


def test_a_prompt_whose_next_token_ends_the_text_is_scored_whole(served, folder):
    """The client leaves out the last log-probability, which is that of the token after the text."""
    import httpx

    model = hermes.load(folder / "run", backend="torch")
    ids = model.encode(QUESTIONS[0]["question"])
    for stop in sorted(model.tokenizer.stop_ids):
        body = {"prompt": ids, "max_tokens": 1, "logprobs": 1, "echo": True, "temperature": 0,
                "logit_bias": {stop: 1000}}  # fmt: skip
        answer = httpx.post(f"{served.address}/v1/completions", json=body, timeout=PATIENCE).json()
        choice = answer["choices"][0]
        assert choice["finish_reason"] == "stop"
        assert len(choice["logprobs"]["token_logprobs"]) == len(ids) + 1
