"""Which tokens begin and end a text: the files' own word, then a list of names."""

import json

import pytest

from hermes.errors import DataError
from hermes.tokenizer import Tokenizer, build_tokenizer_config, train_tokenizer
from tests.tokenizer.support import TEXT

NAMES = ("<s>", "</s>", "<|endoftext|>", "<|eot_id|>", "<pad>")
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
}  # fmt: skip


@pytest.fixture(scope="module")
def text():
    return train_tokenizer([TEXT], vocab_size=300, special_tokens=NAMES).to_json()


def read(text, **files):
    """A tokenizer beside files named without their ending."""
    return Tokenizer.from_json(text, {f"{name}.json": value for name, value in files.items()})


def test_the_list_of_names_comes_last(text):
    assert read(text).eos_id == 1
    assert read(text, config={"eos_token_id": 2}).eos_id == 2
    assert read(text, special_tokens_map={"eos_token": "<|endoftext|>"}).eos_id == 2
    assert read(text, tokenizer_config={"eos_token": {"content": "<|endoftext|>"}}).eos_id == 2
    assert read(text, generation_config={"eos_token_id": 2}).eos_id == 2
    assert read(text, config={"text_config": {"eos_token_id": 2}}).eos_id == 2


def test_a_name_in_no_list_is_known_by_the_files():
    name = "<｜end▁of▁sentence｜>"
    made = train_tokenizer([TEXT], vocab_size=300, special_tokens=["<｜begin▁of▁sentence｜>", name])
    assert made.eos_id is None
    own = read(
        made.to_json(),
        tokenizer_config={"eos_token": {"content": name}, "bos_token": "<｜begin▁of▁sentence｜>"},
    )
    assert (own.bos_id, own.eos_id, own.stop_ids) == (0, 1, {1})
    assert own.decode(own.encode("the dog")) == "the dog"


def test_generation_config_comes_first_and_a_contradiction_is_named(text):
    own = read(
        text, generation_config={"eos_token_id": 1}, tokenizer_config={"eos_token": "<|endoftext|>"}
    )
    assert own.eos_id == 1
    assert own.roles.notes == (
        "generation_config.json says that '</s>' is eos, tokenizer_config.json says "
        "'<|endoftext|>'; the former counts (--eos changes it)",
    )


def test_of_several_ends_the_one_that_is_named_again_ends_a_text_and_all_stop(text):
    own = read(
        text,
        generation_config={"eos_token_id": [1, 2]},
        tokenizer_config={"eos_token": "<|endoftext|>"},
    )
    assert (own.eos_id, own.stop_ids, own.roles.notes) == (2, {1, 2, 3}, ())
    assert read(text, generation_config={"eos_token_id": [2, 1]}).eos_id == 2


def test_ids_that_the_vocabulary_lacks_say_nothing(text):
    own = read(text, generation_config={"eos_token_id": [400, None, True], "pad_token_id": -1})
    assert (own.eos_id, own.pad_id) == (1, 4)


def test_a_padding_token_that_ends_texts_is_none(text):
    own = read(text, tokenizer_config={"pad_token": "</s>"})
    assert own.pad_id == 4
    assert read(text, config={"pad_token_id": 4, "eos_token_id": 4}).pad_id is None


def test_a_chosen_end_counts(text):
    own = read(text, generation_config={"eos_token_id": 1}).replace_roles(eos="<|endoftext|>")
    assert (own.eos_id, own.stop_ids) == (2, {1, 2, 3})
    assert build_tokenizer_config(own)["eos_token"] == "<|endoftext|>"
    with pytest.raises(DataError) as error:
        own.replace_roles(eos="<end>")
    assert str(error.value) == (
        "the tokenizer has no token '<end>' to end a text with; name one that it has"
    )


@pytest.mark.parametrize(
    ("key", "template", "adds"),
    [
        (None, False, False),
        (None, True, True),
        (True, False, True),
        (False, False, False),
        (True, True, True),
        (False, True, False),
    ],
)
def test_a_text_begins_with_bos_by_the_key_or_else_by_the_template(text, key, template, adds):
    config = json.loads(text) | {"post_processor": TEMPLATE if template else None}
    settings = {} if key is None else {"add_bos_token": key}
    own = read(json.dumps(config), tokenizer_config=settings)
    assert own.adds_bos is adds
    assert own.beginning == ([0] if adds else [])
    assert bool(own.roles.notes) == (key is False and template)
    written = json.loads(own.to_json())["post_processor"]
    assert (written is not None) == adds
    assert Tokenizer.from_json(own.to_json()).adds_bos is adds
    assert build_tokenizer_config(own)["add_bos_token"] is adds


def test_the_template_names_bos(text):
    config = json.loads(text)
    single = [{"SpecialToken": {"id": "<|eot_id|>", "type_id": 0}}, *TEMPLATE["single"][1:]]
    special = {"<|eot_id|>": {"id": "<|eot_id|>", "ids": [3], "tokens": ["<|eot_id|>"]}}
    config["post_processor"] = {
        "type": "Sequence",
        "processors": [
            {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False,
             "use_regex": True},
            TEMPLATE | {"single": single, "special_tokens": special},
        ],
    }  # fmt: skip
    own = Tokenizer.from_json(json.dumps(config))
    assert (own.bos_id, own.adds_bos) == (3, True)
    without = own.replace_roles(bos=False)
    assert json.loads(without.to_json())["post_processor"]["type"] == "ByteLevel"
    assert without.fingerprint == own.fingerprint


def test_bos_is_asked_for_only_where_there_is_one():
    made = train_tokenizer([TEXT], vocab_size=300, special_tokens=["<end>"])
    assert made.replace_roles(bos=False).adds_bos is False
    with pytest.raises(DataError, match=r"^the tokenizer has no token that begins a text"):
        made.replace_roles(bos=True)


def test_the_files_beside_a_tokenizer_are_read(text, tmp_path):
    (tmp_path / "tokenizer.json").write_text(text)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 1]}')
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        assert Tokenizer.load(path).eos_id == 2
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(DataError, match=r"tokenizer_config.json: must hold an object$"):
        Tokenizer.load(tmp_path)
