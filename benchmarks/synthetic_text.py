"""Text for measurements: documents of words as frequent as those of a language, of any size."""

import json
import random

VOWELS, CONSONANTS = "aeiou", "bcdfghklmnprstvw"
WORDS, PARAGRAPHS = 30_000, 4_000


def make_paragraphs(seed=0):
    """Paragraphs of 60 to 200 words, which follow Zipf's law; 3.6 MB of them."""
    draw = random.Random(seed)
    words = [
        "".join(
            draw.choice(CONSONANTS) + draw.choice(VOWELS) for _ in range(draw.randint(1, 4))
        ) + draw.choice(["", "", "n", "s", "r"])
        for _ in range(WORDS)
    ]  # fmt: skip
    weights = [1 / (rank + 10) for rank in range(WORDS)]
    found = []
    for _ in range(PARAGRAPHS):
        chosen = draw.choices(words, weights, k=draw.randint(60, 200))
        for at in range(12, len(chosen), 15):
            chosen[at] += draw.choice([".", ",", ";"])
        found.append(" ".join(chosen).capitalize() + ".")
    return found


def write_documents(paragraphs, file, size, on_written=lambda count: None, seed=0):
    """Write documents of 20 paragraphs in another order each, as JSON lines of `size` bytes."""
    draw, written = random.Random(seed), 0
    while written < size:
        text = "\n\n".join(draw.choices(paragraphs, k=20))
        written += file.write(json.dumps({"text": text}) + "\n")
        on_written(written)
