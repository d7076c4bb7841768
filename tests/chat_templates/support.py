"""A tokenizer with the tokens of many templates, and a conversation."""

from functools import cache

from hermes.chat_templates.encoder import ChatEncoder
from hermes.chat_templates.template import Template
from hermes.data.conversations import parse_conversation
from hermes.data.records import Record
from hermes.tokenizer import train_tokenizer

NAMES = {"bos_token": "<|bos|>", "eos_token": "<|eos|>"}


SPECIAL = (
    *("<|bos|>", "<|eos|>", "<|pad|>", "<|im_start|>", "<|im_end|>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>"),
    "<end_of_turn>",
)


TURNS = (
    {"role": "user", "content": "who are you?"},
    {"role": "assistant", "content": "a model"},
    {"role": "user", "content": "and then?"},
    {"role": "assistant", "content": "nothing\nmore"},
)


def encoder_of(tokenizer, source):
    return ChatEncoder(tokenizer, Template(source, names=NAMES))


def conversation(messages=TURNS, where="chat.jsonl:3"):
    return parse_conversation(Record({"messages": list(messages)}, where))


U, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


@cache
def chat_tokenizer():
    return train_tokenizer(["who are you? a model and then nothing more\n"] * 9, vocab_size=300,
                           special_tokens=SPECIAL)  # fmt: skip


def spans(tokenizer, example):
    """The text of each run of learnt tokens."""
    found, before = [], False
    for token, learnt in zip(example.ids, example.loss_mask, strict=True):
        if learnt:
            found += [[]] if not before else []
            found[-1].append(token)
        before = learnt
    return [tokenizer.decode(run, skip_special=False) for run in found]
