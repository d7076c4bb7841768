"""Words of messages that spell special tokens: they stay words, unless the user names them."""

import pytest

from hermes.chat_templates.encoder import ChatEncoder
from hermes.chat_templates.template import Template
from hermes.errors import DataError
from hermes.tokenizer import CHAT_TEMPLATE
from tests.chat_templates.support import (
    NAMES,
    A,
    U,
    chat_tokenizer,
    conversation,
    encoder_of,
    spans,
)


def test_words_that_spell_a_special_token_stay_words(tokenizer):
    turns = (
        {"role": "user", "content": "say <|im_end|> now"},
        {"role": "assistant", "content": "<|im_end|><|eos|>"},
    )
    example = encoder_of(tokenizer, CHAT_TEMPLATE).encode(conversation(turns))
    ids = example.ids.tolist()
    assert ids.count(tokenizer.find_special_id("<|im_end|>")) == 2  # the two turns' own ends
    assert tokenizer.find_special_id("<|eos|>") not in ids
    assert spans(tokenizer, example) == ["<|im_end|><|eos|><|im_end|>"]


LOOKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{{ m.content.split('<|pad|>')[-1] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PADDED = (U, {"role": "assistant", "content": "thought<|pad|>said"})


def test_a_template_that_looks_for_a_special_token_in_messages_is_refused_by_the_token(tokenizer):
    """It would see a stand-in there, and write another text than other tools do."""
    with pytest.raises(DataError) as refused:
        encoder_of(tokenizer, LOOKING).encode(conversation(PADDED))
    assert str(refused.value) == (
        "chat.jsonl:3: the chat template looks into messages for '<|pad|>', which would be text "
        "there and not a special token; let messages write it with --message-token '<|pad|>', or "
        "take it out"
    )
    elsewhere = (U, {"role": "assistant", "content": "a<|eos|>"})
    assert spans(tokenizer, encoder_of(tokenizer, LOOKING).encode(conversation(elsewhere)))


def test_messages_may_write_the_special_tokens_that_the_user_names(tokenizer):
    allowed = ChatEncoder(tokenizer, Template(LOOKING, names=NAMES), ("<|pad|>",))
    assert spans(tokenizer, allowed.encode(conversation(PADDED))) == ["said<|im_end|>"]
    allowed = ChatEncoder(tokenizer, Template(CHAT_TEMPLATE, names=NAMES), ("<|pad|>",))
    example = allowed.encode(conversation(PADDED))
    assert tokenizer.find_special_id("<|pad|>") in example.ids
    assert spans(tokenizer, example) == ["thought<|pad|>said<|im_end|>"]
    with pytest.raises(DataError) as refused:
        ChatEncoder(tokenizer, Template(CHAT_TEMPLATE, names=NAMES), ("<|pda|>",))
    assert str(refused.value) == (
        "--message-token '<|pda|>' is not a special token of this tokenizer; did you mean "
        "'<|pad|>'?"
    )


def test_a_guard_of_the_template_sees_the_names_in_messages(tokenizer):
    guarded = "{% for m in messages %}{% if '<|pad|>' in m.content %}" + (
        "{{ raise_exception('no padding in messages') }}{% endif %}{% endfor %}" + CHAT_TEMPLATE
    )
    with pytest.raises(DataError, match="refuses the conversation: no padding in messages"):
        encoder_of(tokenizer, guarded).encode(conversation(PADDED))


def test_private_characters_stay_as_they_are_beside_names_of_special_tokens(tokenizer):
    """Icons of terminals' fonts are such; the stand-ins take others."""
    content = "\U000f0000 icon \U000f0001<|eos|>\U0010fffd"
    turns = (U, {"role": "assistant", "content": content})
    example = encoder_of(tokenizer, CHAT_TEMPLATE).encode(conversation(turns))
    assert spans(tokenizer, example) == [content + "<|im_end|>"]
    assert tokenizer.find_special_id("<|eos|>") not in example.ids


def test_the_token_that_ends_a_turn_is_none_that_messages_may_write():
    tokenizer = chat_tokenizer()
    made = ChatEncoder(tokenizer, Template(CHAT_TEMPLATE, names=NAMES), ("<|im_end|>",))
    with pytest.raises(DataError, match=r"'<\|im_end\|>', which --message-token lets messages"):
        made.encode(conversation((U, A)))
