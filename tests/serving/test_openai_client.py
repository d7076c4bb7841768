"""The server as OpenAI's own client sees it."""

import numpy as np
import openai
import pytest

import hermes
from hermes.inference.sampling import Sampling


@pytest.fixture(scope="module", params=["torch", "mlx"])
def served(make_server, request):
    return make_server(backend=request.param)


@pytest.fixture
def client(served):
    with openai.OpenAI(base_url=f"{served.address}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def model(checkpoint):
    return hermes.load(checkpoint, backend="torch")


def test_the_model_is_listed(client):
    assert [one.id for one in client.models.list()] == ["little"]
    assert client.models.retrieve("little").id == "little"
    with pytest.raises(openai.NotFoundError, match="there is no such model; it is 'little'"):
        client.models.retrieve("other")


def test_a_completion_is_what_generate_writes(client, model):
    found = client.completions.create(model="little", prompt="the cat", max_tokens=9, temperature=0)
    expected = model.complete("the cat", max_tokens=9, sampling=Sampling(temperature=0))
    assert found.choices[0].text == expected.text
    assert found.choices[0].finish_reason == "length"
    assert found.usage.prompt_tokens == len(model.encode("the cat"))
    assert found.usage.completion_tokens == 9


def test_a_stream_says_what_the_whole_answer_says(client):
    asked = {"model": "little", "prompt": "the cat", "max_tokens": 12, "seed": 5}
    whole = client.completions.create(**asked)
    parts = [*client.completions.create(**asked, stream=True,
                                        stream_options={"include_usage": True})]  # fmt: skip
    assert "".join(p.choices[0].text for p in parts if p.choices) == whole.choices[0].text
    assert parts[-1].usage == whole.usage
    ends = [part.choices[0].finish_reason for part in parts if part.choices]
    assert ends[-1] == whole.choices[0].finish_reason


def test_several_prompts_and_texts_keep_their_order(client, model):
    ids = model.encode("it ran")
    found = client.completions.create(
        model="little", prompt=["the cat", "it ran"], n=2, max_tokens=4, temperature=0
    )
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    texts = [choice.text for choice in found.choices]
    assert texts[0] == texts[1]
    assert texts[2] == texts[3]
    by_ids = client.completions.create(model="little", prompt=ids, max_tokens=4, temperature=0)
    assert by_ids.choices[0].text == texts[2]


def test_a_seed_gives_the_same_text_and_none_another(client):
    asked = {"model": "little", "prompt": "the", "max_tokens": 20}
    one, same = (client.completions.create(**asked, seed=3).choices[0].text for _ in range(2))
    assert one == same
    others = {client.completions.create(**asked).choices[0].text for _ in range(3)}
    assert len(others) > 1


def test_stop_strings_end_a_text_and_are_not_in_it(client):
    asked = {"model": "little", "prompt": "the cat", "max_tokens": 20, "temperature": 0}
    whole = client.completions.create(**asked).choices[0].text
    stop = whole[3:6]
    found = client.completions.create(**asked, stop=[stop]).choices[0]
    assert found.text == whole[: whole.index(stop)]
    assert found.finish_reason == "stop"


def test_the_prompt_is_scored_by_echo(client, model):
    found = client.completions.create(
        model="little", prompt="the cat", max_tokens=0, echo=True, logprobs=2
    ).choices[0]
    assert found.text == "the cat"
    ids = model.encode("the cat")
    logits = model.logits([ids])[0]
    assert found.logprobs.token_logprobs[0] is None
    for at, value in enumerate(found.logprobs.token_logprobs[1:]):
        row = logits[at].astype(float)
        expected = row[ids[at + 1]] - row.max() - np.log(np.exp(row - row.max()).sum())
        assert value == pytest.approx(expected, abs=1e-4)
    assert len(found.logprobs.top_logprobs[1]) == 2


def test_an_answer_is_what_chat_says(client, checkpoint):
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "the cat?"}]
    found = client.chat.completions.create(
        model="little", messages=messages, max_tokens=6, temperature=0
    )
    talk = hermes.chat(checkpoint, system="be brief", max_tokens=6, temperature=0, backend="torch")
    assert found.choices[0].message.content == "".join(talk.say("the cat?"))
    parts = client.chat.completions.create(
        model="little", messages=messages, max_tokens=6, temperature=0, stream=True
    )
    said = "".join(p.choices[0].delta.content or "" for p in parts)
    assert said == found.choices[0].message.content


def test_tokens_of_an_answer_come_with_their_bytes(client):
    found = client.chat.completions.create(
        model="little", messages=[{"role": "user", "content": "the"}], max_completion_tokens=3,
        logprobs=True, top_logprobs=2, seed=1,
    ).choices[0]  # fmt: skip
    assert len(found.logprobs.content) == 3
    for one in found.logprobs.content:
        assert bytes(one.bytes).decode(errors="replace") == one.token
        assert len(one.top_logprobs) == 2
        assert one.logprob <= one.top_logprobs[0].logprob + 1e-9


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"temperature": 3}, "temperature must be a number from 0 to 2; got 3"),
        ({"n": 0}, "n must be a whole number from 1 to 128; got 0"),
        ({"stop": [1]}, "stop must be a text or a list of texts"),
        ({"logit_bias": {"a": 1}}, "logit_bias must give numbers to ids of tokens"),
        ({"extra_body": {"colour": 1}}, "colour is not known to this server; leave it out"),
        ({"max_tokens": 5000, "prompt": ""}, None),
        ({"prompt": [1, 999999]}, "prompt must be texts, or ids of tokens below"),
        ({"suffix": "x"}, "suffix is not supported"),
        ({"prompt": "word " * 500}, "the prompt has"),
    ],
)
def test_a_wrong_field_is_refused_by_name(client, fields, why):
    asked = {"model": "little", "prompt": "the", "max_tokens": 2, **fields}
    if why is None:
        assert client.completions.create(**asked).choices[0].finish_reason in ("length", "stop")
        return
    with pytest.raises(openai.BadRequestError, match=why):
        client.completions.create(**asked)


def test_another_models_name_is_refused(client):
    asked = {"model": "other", "messages": [{"role": "user", "content": "the"}]}
    with pytest.raises(openai.NotFoundError, match="'other' is not served here; it is 'little'"):
        client.chat.completions.create(**asked)
