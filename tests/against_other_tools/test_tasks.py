"""Scores of lm-evaluation-harness's tasks: the same on both backends as of its own model class."""

import json
import shutil

import pytest

import hermes
from hermes.tokenizer import train_tokenizer
from tests.against_other_tools.task_files import (
    ANSWER,
    CHOICE,
    CLOZE,
    COMMON,
    NAMES,
    QUESTIONS,
    ROLLING,
    ROLLING_TEXT,
)
from tests.training.support import SPEC, Runs, corpus_in

lm_eval = pytest.importorskip("lm_eval")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A trained model, the same as a Hugging Face folder, and tasks with their data."""
    folder = tmp_path_factory.mktemp("tasks")
    plain = SPEC.replace("dropout: 0.1", "dropout: 0.0")
    Runs(corpus_in(folder), folder)(spec=plain, max_steps=80, lr=1e-2, bos=True)
    hermes.convert(folder / "run", folder / "hf", to="hf", backend="numpy")
    data = folder / "questions.jsonl"
    data.write_text("".join(json.dumps(one) + "\n" for one in QUESTIONS))
    tasks = folder / "own"
    tasks.mkdir()
    bodies = (CHOICE, CLOZE, ROLLING_TEXT + ROLLING, ANSWER)
    for name, body in zip(NAMES, bodies, strict=True):
        (tasks / f"{name}.yaml").write_text(COMMON.format(name=name, data=data) + body)
    return folder


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def evaluate(folder, backend, names=NAMES, **options):
    found = hermes.evaluate(
        *(folder / "run", ()), tasks=names, include_path=folder / "own", backend=backend,
        batch_size=3, **options,
    )  # fmt: skip
    return {(one.task, one.metric): one for one in found.tasks}


def read_texts(model, contexts, settings):
    """What a harness model generates and how it scores, by its own methods."""
    from lm_eval.api.instance import Instance

    def ask(kind, *arguments):
        return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)

    texts = model.generate_until([ask("generate_until", one, dict(settings)) for one in contexts])
    pairs = [(one, " then it ran") for one in contexts] + [("", "the cat"), ("a  ", "mat")]
    pairs += zip(contexts, texts, strict=True)
    scored = model.loglikelihood([ask("loglikelihood", *pair) for pair in pairs])
    long = "and then it ran off to see what else there was " * 4
    rolled = model.loglikelihood_rolling([ask("loglikelihood_rolling", t) for t in ("a", long)])
    return texts, scored, rolled


def test_scores_are_the_same_on_both_backends(folder):
    scores = {name: evaluate(folder, name, num_fewshot=1) for name in ("torch", "mlx")}
    assert {task for task, _ in scores["torch"]} == set(NAMES)
    for key, ours in scores["torch"].items():
        theirs = scores["mlx"][key]
        assert ours.value == pytest.approx(theirs.value, rel=1e-4), key
        assert ours.samples == 5
    assert scores["torch"]["little_choice", "acc"].num_fewshot == 1


def test_answers_are_those_of_the_harness_with_transformers(folder):
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from lm_eval.models.huggingface import HFLM

    from hermes.tasks.harness_model import HarnessModel

    theirs = HFLM(pretrained=str(folder / "hf"), device="cpu", dtype="float32", batch_size=2)
    contexts = ["the cat", "and then it ran off", "off  "]
    settings = {"until": ["w"], "max_gen_toks": 7}
    expected = read_texts(theirs, contexts, settings)
    assert {greedy for _, greedy in expected[1]} == {False, True}
    assert len(set(expected[0])) > 1
    for backend in ("numpy", "torch", "mlx"):
        precision = "float64" if backend == "numpy" else "float32"
        own = HarnessModel(hermes.load(folder / "run", backend, None, precision), 2)
        texts, scored, rolled = read_texts(own, contexts, settings)
        assert texts == expected[0]
        assert [one[1] for one in scored] == [one[1] for one in expected[1]]
        assert [one[0] for one in scored] == pytest.approx([o[0] for o in expected[1]], abs=2e-4)
        assert rolled == pytest.approx(expected[2], abs=5e-4)
    # BOS stands before a text, once, and names of special tokens are these tokens.
    for text in ("the cat", "<|bos|>the cat", "the<|eos|> cat", ""):
        assert own.tok_encode(text) == theirs.tok_encode(text)
        assert own.tok_encode(text, False) == theirs.tok_encode(text, False)


def test_chats_are_written_as_the_harness_writes_them(folder, tmp_path):
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from lm_eval.models.huggingface import HFLM

    from hermes.api_evaluation import _open_template
    from hermes.tasks.harness_model import HarnessModel

    path = tmp_path / "chat"
    shutil.copytree(folder / "hf", path)
    (path / "chat_template.jinja").write_text(
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{% generation %}{{ m.content }}"
        "{% endgeneration %}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    theirs = HFLM(pretrained=str(path), device="cpu", dtype="float32")
    none = dict.fromkeys(("tokenizer", "config", "eos", "bos"))
    template = _open_template({"checkpoint": path, "ignore_fields": (), **none})
    own = HarnessModel(hermes.load(path, "torch"), template=template)
    chat = [{"role": "user", "content": "the cat "}, {"role": "assistant", "content": " sat on"}]
    for messages, asks in ((chat[:1], True), (chat, True), (chat, False)):
        text = theirs.apply_chat_template(messages, asks)
        assert own.apply_chat_template(messages, asks) == text
        assert own.tok_encode(text) == theirs.tok_encode(text)
    found = hermes.evaluate(path, tasks="little_choice", include_path=folder / "own", limit=2,
                            apply_chat_template=True)  # fmt: skip
    assert {one.samples for one in found.tasks} == {2}


def test_what_is_asked_wrongly_is_one_sentence(folder, tmp_path):
    with pytest.raises(hermes.HermesError, match="there is no task 'little_choise'"):
        evaluate(folder, "torch", ["little_choise"])
    text, _ = corpus_in(tmp_path)
    plain = train_tokenizer([text.read_text()], vocab_size=270, special_tokens=["<|eos|>"])
    Runs((text, plain), tmp_path)("plain", max_steps=1)
    with pytest.raises(hermes.HermesError, match="no chat template; leave"):
        hermes.evaluate(tmp_path / "plain", tasks="little_choice", apply_chat_template=True)
