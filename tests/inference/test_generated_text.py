"""Texts of a model with its tokenizer: ends, log-probabilities, scoring, pieces that are whole."""

import numpy as np
import pytest

import hermes
from hermes.errors import HermesError
from hermes.inference.batch_generation import run_requests
from hermes.inference.sampling import GREEDY, Sampling
from tests.finetuning.support import small_checkpoint

BACKENDS = ["torch", "mlx"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = small_checkpoint(tmp_path_factory.mktemp("texts"))
    return {name: hermes.load(folder, backend=name) for name in BACKENDS}


@pytest.fixture(params=BACKENDS)
def model(request, models):
    return models[request.param]


WILD = Sampling(temperature=1.5)


def test_a_stop_string_ends_the_text_before_it_wherever_it_begins(model):
    whole = model.complete("the cat", max_tokens=40, sampling=WILD).text
    for start in (3, 7, 12):
        stop = whole[start : start + 3]
        pieces = []
        done = model.complete(
            "the cat", max_tokens=40, sampling=WILD, stop=["never", stop], show=pieces.append
        )
        assert (done.text, done.finish_reason, done.stop) == (
            whole[: whole.find(stop)],
            "stop",
            stop,
        )
        assert "".join(pieces) == done.text


@pytest.mark.parametrize("prompt", [b"the cat", None, 7])
def test_a_prompt_that_is_neither_text_nor_ids_is_refused(model, prompt):
    """Bytes are a sequence of integers, which were taken for ids."""
    for write in (model.generate, model.complete, lambda one: list(model.tokens(one))):
        with pytest.raises(HermesError, match="a prompt must be a text or token ids, got "):
            write(prompt)


def test_a_stop_id_ends_the_text_and_min_tokens_puts_it_off(model):
    ids = list(model.tokens("the", max_tokens=6, sampling=GREEDY))
    done = model.complete("the", max_tokens=6, sampling=GREEDY, stop_ids=[ids[2]])
    assert (done.tokens, done.finish_reason) == (ids.index(ids[2]), "stop")
    longer = model.complete(
        "the", max_tokens=6, sampling=Sampling(temperature=0, min_tokens=5), stop_ids=[ids[2]]
    )
    assert longer.tokens >= 5


def test_pieces_never_cut_a_character(model):
    """Greek letters have two bytes each; the model is made to write them only."""
    ids = [i for i in range(model.spec.vocab_size) if model.tokenizer.get_token_bytes(i)[0] > 127]
    only = Sampling(temperature=1.0, logit_bias=dict.fromkeys(ids, 50.0))
    pieces = []
    done = model.complete("the", max_tokens=60, sampling=only, show=pieces.append)
    assert "".join(pieces) == done.text
    tokens = list(model.tokens("the", max_tokens=60, sampling=only))
    assert done.text == model.tokenizer.decode(tokens, continued=True)


def test_echo_with_no_token_scores_a_text(model):
    text = "the cat sat on the mat"
    done = model.complete(text, max_tokens=0, echo=True, logprobs=2)
    assert (done.text, done.tokens, done.finish_reason) == (text, 0, "length")
    ids = model.encode(text)
    logits = model.logits([ids])[0].astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert done.logprobs[0].logprob is None
    for place, one in enumerate(done.logprobs[1:], start=1):
        assert one.id == ids[place]
        assert one.logprob == pytest.approx(expected[place - 1, one.id], abs=1e-4)
        assert one.top[0][0] == int(expected[place - 1].argmax())
    plain = model.complete(text, max_tokens=0, echo=True, logprobs=0)
    scores = [one.logprob for one in plain.logprobs[1:]]
    assert scores == pytest.approx([one.logprob for one in done.logprobs[1:]], abs=1e-4)
    assert "".join(one.text for one in done.logprobs) == text


def test_a_text_with_echo_has_the_logprobs_of_both_parts(model):
    done = model.complete("the cat", max_tokens=5, echo=True, logprobs=0)
    assert done.text.startswith("the cat")
    assert len(done.logprobs) == len(model.encode("the cat")) + 5
    after = model.complete("the cat", max_tokens=5, logprobs=0)
    assert done.logprobs[-5:] == after.logprobs


def test_no_token_without_echo_is_refused(model):
    with pytest.raises(HermesError, match="max_tokens must be at least 1, got 0"):
        model.complete("the", max_tokens=0)


def test_texts_of_both_backends_are_the_same_with_every_setting(models):
    settings = {
        "top_k": 40, "top_p": 0.97, "min_p": 0.001, "typical_p": 0.97, "repetition_penalty": 1.2,
        "presence_penalty": 0.3, "frequency_penalty": 0.2, "no_repeat_ngram": 3,
        "dry_multiplier": 0.8, "xtc_probability": 0.3, "xtc_threshold": 0.05, "min_tokens": 3,
        "logit_bias": ["5=0.5"], "ban": ["cat"],
    }  # fmt: skip
    texts = set()
    for model in models.values():
        sampling = model.choose_sampling(1.4, others=settings)
        texts.add(model.complete("the dog", max_tokens=60, sampling=sampling, seed=3).text)
    (text,) = texts
    assert len(text) > 20
    assert "cat" not in text


def test_words_become_ids_with_and_without_a_space(model):
    banned = model.choose_sampling(others={"ban": ["cat"]}).banned
    assert {model.tokenizer.decode(list(one)) for one in banned} == {"cat", " cat"}
    plain = model.choose_sampling(others={"dry_multiplier": 1.0})
    newline = model.tokenizer.encode("\n")[-1]
    assert newline in plain.dry_breakers
    chosen = model.choose_sampling(others={"dry_multiplier": 1.0, "dry_breaker": ["at"]})
    texts = [model.tokenizer.get_token_bytes(i) for i in chosen.dry_breakers]
    assert texts
    assert all(b"at" in text for text in texts)


@pytest.mark.parametrize("text", ["50256", "a=1", "1=x"])
def test_a_bias_that_is_none_is_refused(model, text):
    with pytest.raises(HermesError, match="--logit-bias needs ID=NUMBER, such as 50256=-100, got"):
        model.choose_sampling(others={"logit_bias": [text]})


def test_a_context_that_slides_goes_on_to_the_last_token(model):
    done = model.complete(
        "the", max_tokens=200, sampling=Sampling(temperature=1.0, min_tokens=200),
        context_overflow="slide",
    )  # fmt: skip
    assert (done.tokens, done.finish_reason) == (200, "length")


def test_an_engine_has_the_texts_of_complete(model):
    prompts = ["the cat", "a", "the big red house of the old man", ""]
    requests = [
        model.make_request(p, max_tokens=15, sampling=WILD, seed=k, stop=["at"])
        for k, p in enumerate(prompts)
    ]
    found = run_requests(model.make_engine(rows=3), requests)
    alone = [
        model.complete(p, max_tokens=15, sampling=WILD, seed=k, stop=["at"])
        for k, p in enumerate(prompts)
    ]
    assert [model.describe_generation(one) for one in found] == alone
