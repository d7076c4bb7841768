"""CPU seconds to encode conversations with a chat template, by their number of rounds.

    python benchmarks/chat_templates.py [--template FILE] [--rounds 1,8,50,200] [--messages 4000]
        [--pairs]

Conversations of so many rounds, together about as many messages, are encoded as `hermes sft` does,
or with --pairs as `hermes dpo` does. Compared with rendering alone: each conversation once, by the
same template compiled in this process; and with a second start, which hashes the records and reads
the examples from the cache. Seconds are of processor time, that of the process which
renders included (on Linux, where /proc says it).
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

from hermes.chat_templates.encoder import ChatEncoder
from hermes.chat_templates.sandbox import make_environment
from hermes.chat_templates.template import Template
from hermes.data.conversations import parse_conversation
from hermes.data.encoded_pairs import encode_pairs
from hermes.data.example_cache import EncodedRecords, ExampleCache
from hermes.data.example_key import hash_records
from hermes.data.preferences import parse_pair
from hermes.data.records import Record
from hermes.tokenizer import CHAT_TEMPLATE, train_tokenizer

NAMES = {"bos_token": "<|begin_of_text|>", "eos_token": "<|im_end|>"}
SPECIAL = (
    *("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<start_of_turn>", "<end_of_turn>"),
)
TEXT = "the cat sat on the mat and the dog ran far away from the big red house of the old man"


def make_messages(rounds, number):
    """Make a dialogue of some words a message."""
    words = TEXT.split()
    turns = []
    for i in range(rounds):
        begin = (7 * number + i) % len(words)
        turns.append({"role": "user", "content": " ".join(words[begin:]) + f" {i}?"})
        turns.append({"role": "assistant", "content": " ".join(words[:begin]) + f" {number}"})
    return turns


def count_seconds():
    """Processor time of this process and of those that it started."""
    total = time.process_time()
    for task in Path("/proc/self/task").glob("*/children"):
        for child in task.read_text().split():
            used = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[11:13]
            total += sum(map(int, used)) / os.sysconf("SC_CLK_TCK")
    return total


def measure(run):
    """Call once to warm up, then once more. -> seconds, result"""
    run()
    start = count_seconds()
    result = run()
    return count_seconds() - start, result


def make_pair(turns, where):
    """Make a pair of two last answers to a dialogue."""
    answer = turns[-1]["content"]
    value = {"prompt": turns[:-1], "chosen": answer + " yes", "rejected": answer + " no"}
    return parse_pair(Record(value, where))


def measure_second_start(records, examples):
    """Read the examples of records from a cache that has them. -> bytes of records, seconds"""
    encoded = EncodedRecords(examples, [0] * len(examples))
    with tempfile.TemporaryDirectory() as folder:
        cache = ExampleCache(Path(folder))

        def start():
            key, size = hash_records(records)
            cache.open(key, size, [""], lambda: encoded)
            return size

        seconds, size = measure(start)
    return size, seconds


def main():
    """Print a line for each number of rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--template", type=Path)
    parser.add_argument("--rounds", default="1,2,8,25,50,100,200")
    parser.add_argument("--messages", type=int, default=4000)
    parser.add_argument("--pairs", action="store_true")
    options = parser.parse_args()
    tokenizer = train_tokenizer([TEXT] * 9, vocab_size=300, special_tokens=SPECIAL)
    source = options.template.read_text() if options.template else CHAT_TEMPLATE
    template = Template(source, names=NAMES)
    compiled = make_environment().from_string(source)
    print("rounds  conversations  MB     tokens      encoding s  rendering s  ratio  again s")
    for rounds in map(int, options.rounds.split(",")):
        count = max(1, options.messages // (2 * rounds))
        dialogues = [make_messages(rounds, i) for i in range(count)]
        encoder = ChatEncoder(tokenizer, template)

        def render(dialogues=dialogues):
            return [
                compiled.render(messages=each, add_generation_prompt=False, **NAMES)
                for each in dialogues
            ]

        if options.pairs:
            records = [make_pair(turns, f"pairs:{i}") for i, turns in enumerate(dialogues)]
        else:
            records = [
                parse_conversation(Record({"messages": turns}, f"chats:{i}"))
                for i, turns in enumerate(dialogues)
            ]

        def encode(records=records, encoder=encoder):
            if options.pairs:
                return [s for p in encode_pairs(records, encoder) for s in (p.chosen, p.rejected)]
            return [one for each in encoder.encode_many(records) for one in each]

        own, examples = measure(encode)
        rendered = measure(render)[0] * (1 + options.pairs)
        size, again = measure_second_start(records, examples)
        print(
            f"{rounds:6}  {count:13}  {size / 1e6:5.2f}  {sum(map(len, examples)):10,}"
            f"  {own:10.3f}  {rendered:11.3f}  {own / rendered:5.2f}  {again:7.3f}"
        )


if __name__ == "__main__":
    main()
