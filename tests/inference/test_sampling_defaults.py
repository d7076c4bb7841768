"""The sampling of generation_config.json: what it decides, and what the user does."""

import pytest

from hermes.errors import HermesError
from hermes.inference.sampling import Sampling
from hermes.inference.sampling_defaults import choose_sampling

NONE = dict.fromkeys(("temperature", "top_k", "top_p", "min_p"))
QWEN = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20, "eos_token_id": [1]}


def test_without_a_file_the_defaults_hold_and_nothing_is_said():
    assert choose_sampling({}, NONE) == (Sampling(), "")
    assert choose_sampling({"eos_token_id": 1, "temperature": None}, NONE) == (Sampling(), "")


def test_the_files_values_are_the_default_and_are_said():
    sampling, said = choose_sampling(QWEN, NONE)
    assert sampling == Sampling(0.6, 20, 0.95, 0.0)
    assert said == (
        "sampling with temperature 0.6, top_k 20, top_p 0.95 of the checkpoint's "
        "generation_config.json"
    )


def test_what_the_user_gives_wins():
    sampling, said = choose_sampling(QWEN, NONE | {"temperature": 1.0, "top_k": 0})
    assert sampling == Sampling(1.0, 0, 0.95, 0.0)
    assert said == "sampling with top_p 0.95 of the checkpoint's generation_config.json"
    assert choose_sampling(QWEN, NONE | {"temperature": 0.0}) == (Sampling(0.0), "")


def test_a_file_that_does_not_sample_is_greedy():
    sampling, _ = choose_sampling({"do_sample": False, "temperature": 0.7}, NONE)
    assert sampling.temperature == 0


def test_penalties_of_the_file_are_the_default_and_act_on_greedy_text_too():
    config = {
        "repetition_penalty": 1.05,
        "no_repeat_ngram_size": 3,
        "min_new_tokens": 2,
        "typical_p": 0.9,
    }
    penalties = {"repetition_penalty": 1.05, "no_repeat_ngram": 3, "min_tokens": 2}
    sampling, said = choose_sampling(config, NONE)
    assert sampling == Sampling(typical_p=0.9, **penalties)
    assert said == (
        "sampling with typical_p 0.9, repetition_penalty 1.05, no_repeat_ngram 3, min_tokens 2 of "
        "the checkpoint's generation_config.json"
    )
    assert choose_sampling(config, {"temperature": 0.0})[0] == Sampling(0.0, **penalties)
    own, _ = choose_sampling(config, {"repetition_penalty": 1.0, "no_repeat_ngram": 0})
    assert own == Sampling(typical_p=0.9, min_tokens=2)
    neutral = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
    assert choose_sampling(neutral, NONE) == (Sampling(), "")


def test_what_cannot_be_applied_is_named():
    _, said = choose_sampling({"penalty_alpha": 0.6, "num_beams": 1}, NONE)
    assert said == "generation_config.json asks for penalty_alpha 0.6, which is not applied"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"no_repeat_ngram_size": -1},
            "generation_config.json: no_repeat_ngram must be at least 0, got -1; give "
            "--no-repeat-ngram",
        ),
        ({"top_p": "high"}, "generation_config.json: top_p is 'high'; give --top-p"),
        (
            {"top_p": 7},
            "generation_config.json: top_p must be above 0 and at most 1, got 7; give --top-p",
        ),
    ],
)
def test_a_value_that_is_none_is_refused_with_the_option(config, message):
    with pytest.raises(HermesError) as refused:
        choose_sampling(config, NONE)
    assert str(refused.value) == message
    given = {"top_p": 0.5, "no_repeat_ngram": 2}
    assert choose_sampling(config, NONE | given)[0] == Sampling(**given)
