"""Sampling and beam search do what those of transformers do."""

from types import SimpleNamespace

import numpy as np
import pytest

from hermes.inference.beam_search import search_beams
from hermes.inference.filters import filter_tokens
from hermes.inference.sampling import Sampling
from hermes.inference.token_history import TokenHistory
from hermes.interface import Options, find_backend
from tests.against_other_tools.support import folder_of
from tests.interop.models import MODELS, hot_weights

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", reason="pip install 'hermes-llm[interop-test]'")

V, PROMPT = 211, 9

# What hermes calls each setting, and the name of a generation_config.json.
ONE_BY_ONE = [
    ({"temperature": 0.7}, {"temperature": 0.7}),
    ({"top_k": 17}, {"top_k": 17}),
    ({"top_p": 0.8}, {"top_p": 0.8}),
    ({"min_p": 0.05}, {"min_p": 0.05}),
    ({"typical_p": 0.6}, {"typical_p": 0.6}),
    ({"repetition_penalty": 1.7}, {"repetition_penalty": 1.7}),
    ({"no_repeat_ngram": 1}, {"no_repeat_ngram_size": 1}),
    ({"no_repeat_ngram": 3}, {"no_repeat_ngram_size": 3}),
    ({"banned": ((4,), (7, 8), (1, 2, 3))}, {"bad_words_ids": [[4], [7, 8], [1, 2, 3]]}),
    ({"logit_bias": {3: 2.5, 60: -7.0}}, {"sequence_bias": [[[3], 2.5], [[60], -7.0]]}),
    ({"min_tokens": 40}, {"min_new_tokens": 40}),
]
EVERYTHING = tuple(
    {key: value for one in ONE_BY_ONE for key, value in one[side].items()} for side in (0, 1)
)
PAIRS = [
    *ONE_BY_ONE,
    EVERYTHING,
    ({"top_k": 40, "top_p": 0.7}, {"top_k": 40, "top_p": 0.7}),
    ({"top_p": 0.9, "min_p": 0.1, "temperature": 1.6}, {"top_p": 0.9, "min_p": 0.1,
                                                        "temperature": 1.6}),
    ({"top_k": 60, "typical_p": 0.5}, {"top_k": 60, "typical_p": 0.5}),
    ({"min_p": 0.02, "typical_p": 0.9}, {"min_p": 0.02, "typical_p": 0.9}),
]  # fmt: skip
ENDING = 5


@pytest.mark.parametrize(("beams", "penalty"), [(2, 1.0), (4, 1.0), (4, 0.3), (6, 2.0)])
def test_beams_find_the_texts_of_transformers(tmp_path, beams, penalty):
    spec = MODELS["llama"][1]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder_of(spec, tmp_path))
    model = find_backend("torch").build(spec, hot_weights(spec), Options(device="cpu"))
    ended = 0
    for prompt in ([1, 4, 9], [7, 7, 2, 8], [3], [11, 2]):
        (free,) = search_beams(model, prompt, num_beams=1, max_tokens=3)
        ending = free.tokens[-1]
        found = search_beams(
            model, prompt, num_beams=beams, max_tokens=9, stop={ending}, length_penalty=penalty
        )
        made = theirs.generate(
            torch.tensor([prompt]), num_beams=beams, num_return_sequences=beams, max_new_tokens=9,
            do_sample=False, eos_token_id=ending, pad_token_id=ending, length_penalty=penalty,
            output_scores=True, return_dict_in_generate=True,
        )  # fmt: skip
        for beam, ids, score in zip(found, made.sequences, made.sequences_scores, strict=True):
            text = ids[len(prompt) :].tolist()
            text = text[: text.index(ending)] if ending in text else text
            assert list(beam.tokens) == text
            assert beam.score == pytest.approx(float(score), abs=1e-4)
            ended += beam.finish_reason == "stop"
    assert ended


def compute_with_transformers(config, ids, logits):
    """The probabilities that transformers samples from. -> (V,)"""
    from transformers import GenerationConfig, GenerationMixin

    # min_p and typical_p of 0 and 1 are made no processors; sampling is on, so that warpers are.
    settings = GenerationConfig(do_sample=True, **{"temperature": 1.0, "top_k": 0, **config})
    settings._eos_token_tensor = torch.tensor([ENDING])
    maker = GenerationMixin()
    maker.config = SimpleNamespace(is_encoder_decoder=False)
    processors = maker._get_logits_processor(
        settings, input_ids_seq_length=PROMPT, device="cpu", logits_processor=[]
    )
    scores = processors(torch.tensor([ids]), torch.tensor(logits[None], dtype=torch.float64))
    return torch.softmax(scores, -1)[0].numpy()


@pytest.mark.parametrize(("own", "theirs"), PAIRS, ids=lambda one: "-".join(one))
def test_tokens_and_probabilities_are_those_of_transformers(own, theirs):
    random = np.random.default_rng(3)
    sampling = Sampling(**{"temperature": 1.0, **own})
    for _ in range(20):
        # Few different ids, so that n-grams come back.
        ids = random.integers(1, 9, PROMPT + 25).tolist()
        logits = random.normal(size=V) * 3
        history = TokenHistory(sampling, ids[:PROMPT])
        for token in ids[PROMPT:]:
            history.append(token)
        x = logits.copy()
        history.adjust(x)
        if len(ids) - PROMPT < sampling.min_tokens:
            x[ENDING] = -np.inf
        kept = filter_tokens(x, sampling)
        got = np.zeros(V)
        got[kept.ids] = kept.p / kept.p.sum()
        expected = compute_with_transformers(theirs, ids, logits)
        assert np.flatnonzero(got).tolist() == np.flatnonzero(expected).tolist()
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-15)
