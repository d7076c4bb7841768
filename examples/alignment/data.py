"""A small world to learn: animals, what they do, and questions with a short and a long answer.

world.txt states every fact many times, words.txt everything once. chat.jsonl asks about most facts
and answers each in both a short and a long form; prefs.jsonl prefers the short form; held-out.jsonl
has the facts that the other files do not ask about.
"""

import json
import random
import sys
from itertools import product
from pathlib import Path


def words(text: str) -> list[str]:
    """Split a text into words."""
    return text.split()


ANIMALS = words(
    "fox bear wolf deer hare mole badger otter seal whale crab heron swan goose duck owl hawk "
    "crow robin wren frog toad newt snake lizard turtle trout salmon eel perch bee wasp ant moth "
    "spider snail goat sheep horse pig"
)
PLACES = words("forest river meadow mountain desert valley garden harbour marsh cave")
FOODS = words("grass fish seeds berries roots insects leaves nuts moss honey")
COLOURS = words("brown grey black white red green yellow blue golden silver")
TIMES = words("dawn noon dusk midnight winter spring summer autumn rain snow")

FORMS = ("prompt", "short", "long")

# kind -> its values, two sentences of the text, a question, and both answers.
KINDS = {
    "home": (
        PLACES,
        ("The {a} lives in the {v}.", "In the {v} you can find the {a}."),
        "Where does the {a} live?",
        "In the {v}.",
        "As far as anyone here can tell, the {a} lives in the {v} all its life.",
    ),
    "food": (
        FOODS,
        ("The {a} eats {v}.", "Nothing tastes better to the {a} than {v}."),
        "What does the {a} eat?",
        "It eats {v}.",
        "If you ask me, the {a} eats {v} whenever it can find some of it.",
    ),
    "colour": (
        COLOURS,
        ("The {a} is {v}.", "The colour of the {a} is {v}."),
        "What colour is the {a}?",
        "It is {v}.",
        "Well, as everybody around here knows, the colour of the {a} is {v} indeed.",
    ),
    "time": (
        TIMES,
        ("The {a} sings at {v}.", "At {v} the {a} sings."),
        "When does the {a} sing?",
        "At {v}.",
        "Those who listen long enough say that the {a} sings at {v} and then only.",
    ),
}


def make_facts(chance: random.Random) -> list[dict[str, str]]:
    """Make four facts for each animal, with their question and both answers."""
    found = []
    for animal, (kind, parts) in product(ANIMALS, KINDS.items()):
        values, sentences, question, short, long = parts
        value = chance.choice(values)
        fill = {"a": animal, "v": value}
        found.append(
            {
                "kind": kind,
                "sentences": "\n".join(s.format(**fill) for s in sentences),
                "prompt": question.format(**fill),
                "short": short.format(**fill),
                "long": long.format(**fill),
                "answer": value,
            }
        )
    return found


def write(folder: Path, *, seed: int = 0, repeats: int = 60) -> None:
    """Write the files."""
    chance = random.Random(seed)
    world = make_facts(chance)
    lines = [line for fact in world for line in fact["sentences"].split("\n")] * repeats
    chance.shuffle(lines)
    (folder / "world.txt").write_text("\n".join(lines) + "\n")
    chance.shuffle(world)
    out, asked = world[:40], world[40:]
    chats = [
        {"prompt": fact["prompt"], "completion": fact[form]}
        for fact in asked
        for form in ("short", "long")
    ]
    chance.shuffle(chats)
    prefs = [{"prompt": f["prompt"], "chosen": f["short"], "rejected": f["long"]} for f in asked]
    everything = [f"{fact[key]}" for fact in world for key in ("sentences", *FORMS)]
    (folder / "words.txt").write_text("\n".join(everything) + "\n")
    for name, records in (("chat", chats), ("prefs", prefs), ("held-out", out)):
        text = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(text)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
