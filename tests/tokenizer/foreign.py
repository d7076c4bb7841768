"""Small tokenizers of the kinds that other models have, trained here with the others' own tools."""

import io
import json
from functools import cache

from tests.tokenizer.support import TEXT

WORDS = TEXT + "A model reads  tokens, not   words;\nwords are made of tokens.\n\ttabs\n" * 4
SPACE = "▁"


@cache
def train_sentencepiece_file(model_type, **settings):
    """The bytes of a tokenizer.model."""
    import sentencepiece

    written = io.BytesIO()
    own = {
        "vocab_size": 420,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "hard_vocab_limit": False,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(WORDS.split("\n")),
        model_writer=written,
        model_type=model_type,
        **own | settings,
    )
    return written.getvalue()


def make_metaspace_json(*, decoder=None, normalizer=None, pre_tokenizer=None, unigram=False):
    """tokenizer.json of SentencePiece's kind, its vocabulary trained by SentencePiece."""
    from hermes.tokenizer.sentencepiece_model import convert_sentencepiece

    data = train_sentencepiece_file("unigram" if unigram else "bpe")
    config = convert_sentencepiece(data, {}, "test")
    return config | {
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "decoder": decoder,
    }


def metaspace(scheme, split=False):
    return {
        "type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": split,
    }  # fmt: skip


REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
PREPEND = {"type": "Prepend", "prepend": SPACE}
GIVE_BACK = [
    {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
]
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}


def sequence(name, *stages):
    return {"type": "Sequence", name: list(stages)}


@cache
def make_kinds():
    """tokenizer.json by the models that have such a one."""
    stripping = sequence("decoders", *GIVE_BACK, STRIP)
    kinds = {
        "llama 2": make_metaspace_json(
            normalizer=sequence("normalizers", PREPEND, REPLACE), decoder=stripping
        ),
        "mistral 0.3": make_metaspace_json(pre_tokenizer=metaspace("first"), decoder=stripping),
        "gemma": make_metaspace_json(
            normalizer=REPLACE,
            pre_tokenizer={
                "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious",
                "invert": False,
            },
            decoder=sequence("decoders", *GIVE_BACK),
        ),
        "t5": make_metaspace_json(
            unigram=True,
            normalizer=sequence(
                "normalizers",
                {"type": "NFKC"},
                {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
            ),
            pre_tokenizer=metaspace("always", split=True),
            decoder=metaspace("always", split=True),
        ),
        "unigram with bytes": make_metaspace_json(
            unigram=True,
            pre_tokenizer=metaspace("always"),
            decoder=sequence("decoders", {"type": "ByteFallback"}, metaspace("always")),
        ),
        "xlnet": make_metaspace_json(
            unigram=True,
            normalizer={"type": "NFKD"},
            pre_tokenizer=sequence(
                "pretokenizers", {"type": "WhitespaceSplit"}, metaspace("always", split=True)
            ),
            decoder=metaspace("always", split=True),
        ),
    }  # fmt: skip
    for name in ("t5", "xlnet"):
        kinds[name]["model"]["byte_fallback"] = False
    return {name: json.dumps(config) for name, config in kinds.items()}
