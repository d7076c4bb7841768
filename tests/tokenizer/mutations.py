"""Damages files tokenizer.json at random, and uses what is accepted: `python -m` this module.

Each mutation must be refused in one line or work: encode, decode, and be written and read again.
"""

import argparse
import copy
import faulthandler
import json
import random
import resource
import sys
import time
import traceback
from collections import Counter

from hermes.errors import HermesError
from hermes.tokenizer import Tokenizer, train_tokenizer
from tests.tokenizer.foreign import GIVE_BACK, PREPEND, REPLACE, make_metaspace_json, metaspace
from tests.tokenizer.support import TEXT

VALUES = (
    *(None, True, False, 0, 1, -1, 2**24, 2**31, 2**32, 2**63, 2**64, 10**30, 0.5, -0.0, 1e308),
    *("", "a", "##", "</w>", "<0x00>", "\u2581", "\x00", "\U0010ffff", "(", "(a+)+$", "a" * 9999),
    *([], {}, [[]], [None], [1, 2], ["a", "b"], {"a": 1}, {"type": "Sequence"}, {"type": 5}),
    *({"type": "Sequence", "decoders": 5}, {"Regex": "(?=(a*)*b)"}, {"String": ""}),
    *({"type": "WordPiece"}, {"type": "ByteLevel"}, {"type": "Prepend", "prepend": ""}),
)  # fmt: skip
KEYS = (
    *("continuing_subword_prefix", "end_of_word_suffix", "unk_token", "unk_id", "dropout", "type"),
    *("byte_fallback", "fuse_unk", "ignore_merges", "truncation", "padding", "post_processor"),
    *("max_input_chars_per_word", "prepend_scheme", "pretokenizers", "special_tokens", "pattern"),
)  # fmt: skip
TEXTS = ("", "a", " words of  text\n", "<|eos|>x", "\u2581a", "e\u0301<0x41>", "a" * 300)


def make_bases():
    """The contents of sound files, by kind."""
    trained = train_tokenizer([TEXT], vocab_size=300, special_tokens=("<|bos|>", "<|eos|>"))
    bases = {"byte-level": json.loads(trained.to_json())}
    options = {"decoder": {"type": "Sequence", "decoders": GIVE_BACK}}
    normalizer = {"type": "Sequence", "normalizers": [PREPEND, REPLACE]}
    bases["BPE"] = make_metaspace_json(**options, normalizer=normalizer)
    scheme = metaspace("always", split=True)
    bases["Unigram"] = make_metaspace_json(decoder=scheme, pre_tokenizer=scheme, unigram=True)
    return bases


def mutate(config, rng):
    """Damage a copy of the contents of a file in a few places. -> the text of the file"""
    changed = copy.deepcopy(config)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        node = changed
        while True:  # a walk down to a random place
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            key = rng.choice(keys) if keys else None
            below = node[key] if keys else None
            if isinstance(below, dict | list) and below and rng.random() < 0.8:
                node = below
                continue
            break
        alike = [one for one in VALUES if type(one) is type(below)]
        kind = rng.choice(("alike", "alike", "replace", "remove", "add", "copy", "move"))
        value = copy.deepcopy(rng.choice(VALUES))
        if kind == "alike" and alike:
            value = copy.deepcopy(rng.choice(alike))
        if kind == "add" and isinstance(node, dict):
            node[rng.choice(KEYS)] = value
        elif key is None:
            continue
        elif kind == "remove":
            del node[key]
        elif kind == "copy" and isinstance(node, list):
            node.append(copy.deepcopy(node[key]))
        elif kind == "move":
            node[key] = copy.deepcopy(rng.choice(list(changed.values()) or [value]))
        else:
            node[key] = value
    text = json.dumps(changed, ensure_ascii=rng.random() < 0.5)
    match rng.randrange(40):
        case 0:
            text = text.replace("1", "9" * 5000, 1)
        case 1:
            text = text.replace(":", ":" + "[" * 100_000, 1)
        case 2:
            text = text[: rng.randrange(len(text) + 1)]
        case 3:
            at = rng.randrange(len(text) + 1)
            text = text[:at] + rng.choice('{}[],:"0\\\n\x00') + text[at:]
    return text


def use(text):
    """Read a file and use it for all that a tokenizer does. Raises HermesError."""
    tokenizer = Tokenizer.from_json(text)
    for one in TEXTS:
        for special in (False, True):
            for continued in (False, True):
                ids = tokenizer.encode(one, special=special, continued=continued)
                tokenizer.decode(ids, skip_special=not special, continued=continued)
    tokenizer.encode_parts(["a", "b"], [False, True])
    tokenizer.byte_lengths, tokenizer.losses, tokenizer.fingerprint  # noqa: B018
    for bos in (False, True):
        chosen = tokenizer if tokenizer.bos_id is None else tokenizer.replace_roles(bos=bos)
        again = Tokenizer.from_json(chosen.to_json())
        assert again.fingerprint == tokenizer.fingerprint, "written as another tokenizer"


def try_mutations(count, seed, seconds=300):
    """Try so many mutations. -> counts of what happened; prints what may not happen"""
    rng = random.Random(seed)
    bases = make_bases()
    counts = Counter()
    for number in range(count):
        name = rng.choice(list(bases))
        text = mutate(bases[name], rng)
        faulthandler.dump_traceback_later(seconds, exit=True)  # one that hangs ends the process
        begin = time.monotonic()
        try:
            use(text)
            counts["works"] += 1
        except HermesError as error:
            counts["refused"] += 1
            if "\n" in str(error):
                counts["failed"] += 1
                print(f"{number}: {name}: several lines: {error!r:.300}")
        except BaseException as error:  # what Rust panics with is no Exception
            if isinstance(error, KeyboardInterrupt):
                raise
            counts["failed"] += 1
            where = traceback.extract_tb(error.__traceback__)[-1]
            print(f"{number}: {name}: {type(error).__name__} at {where.filename}:{where.lineno} "
                  f"{str(error)[:150]!r}")  # fmt: skip
        faulthandler.cancel_dump_traceback_later()
        if time.monotonic() - begin > 5:
            print(f"{number}: {name}: {time.monotonic() - begin:.0f} seconds")
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))  # the largest vocabulary fits
    found = try_mutations(arguments.count, arguments.seed)
    print(json.dumps(found))
    sys.exit(bool(found["failed"]))
