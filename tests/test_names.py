"""Names: functions are verbs, and one word, the field's own, stands for each thing."""

import ast
import re
import tokenize
from pathlib import Path

import pytest

from tests.packages import PACKAGES, ROOT

FILES = [path for folder in PACKAGES.values() for path in sorted(folder.rglob("*.py"))]
IDS = [str(path.relative_to(ROOT)) for path in FILES]

VERBS = set((Path(__file__).parent / "verbs.txt").read_text(encoding="utf-8").split())
PREDICATES = {"is", "has", "can", "needs", "should", "may", "are", "was", "uses", "wants"}
CONVERSIONS = {"from", "to", "as"}  # from_json, to_json
# Parts of speech that name no action: a participle, or a relation without its verb.
PARTICIPLE = re.compile(r"^(?!(?:seed|feed|need|speed|embed|shed|bleed|exceed|proceed)$)\w+ed$")
IRREGULAR = {
    *("built", "made", "told", "held", "kept", "said", "found", "given", "known", "left", "lost"),
    *("met", "seen", "sent", "shown", "taken", "taught", "thrown", "understood", "worn"),
    *("written", "begun", "broken", "chosen", "drawn", "driven", "fallen", "forgotten", "frozen"),
    *("gone", "grown", "hidden", "learnt", "meant", "paid", "ridden", "risen", "sought"),
    *("spoken", "spelt", "spent", "stolen", "sworn", "torn", "withdrawn", "withheld", "caught"),
}


def functions(path):
    """Every function of a module or class by name and line; properties are nouns, and so is a test.

    Functions inside functions are arguments of others, often named for what they stand in for.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    holders = [tree, *(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))]
    for holder in holders:
        for node in holder.body:
            if not isinstance(node, ast.FunctionDef) or node.name.startswith("__"):
                continue
            decorators = [ast.unparse(one) for one in node.decorator_list]
            # Properties and fixtures are nouns; a command has the name that the user types.
            nouns = ("property", "setter", "command", "group", "fixture")
            if not any(word in one for word in nouns for one in decorators):
                yield node.name, node.lineno


def first_word(name):
    """`_read_json` -> `read`."""
    return name.strip("_").split("_")[0]


def is_participle(name):
    """Whether a name says what was done to something (`agreed`) or whose it is (`settings_of`)."""
    word, bare = first_word(name), name.strip("_")
    named_so = bool(PARTICIPLE.match(word)) or word in IRREGULAR
    return named_so or bare.endswith("_of") or bare.startswith("of_")


# Mathematical functions have the names that papers give them.
MATHEMATICS = {
    *("hermes_numpy", "hermes_torch", "hermes_mlx"),
    *("laws", "faults", "oracle", "cases", "measure"),
    *("numerics",),
}


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_no_function_is_named_by_a_participle(path):
    assert [f"line {line}: {name}" for name, line in functions(path) if is_participle(name)] == []


# What others script against and backends implement: these names stand whatever they are.
STABLE = {
    *("sft", "dpo", "all_or_none", "all_reduce_sum", "all_reduce_max", "all_gather_text"),
    *("diagnostics", "ready", "busy_seconds", "history"),
    *("backend", "loads", "dumps", "logits", "logprobs", "row_logprobs", "loss", "preferences"),
    *(
        "decoder",
        "row_decoder",
        "invariant_row_decoder",
        "params",
        "grads",
        "step",
        "digests",
        "versions",
        "devices",
        "learner",
        "tokens",
    ),
}
# Names that others call: the sandbox's, pytest's, the entry point's, a notebook's, io's, a dict's,
# http.server's, uvicorn's.
IMPOSED = re.compile(
    r"^(pytest_|unsafe_undefined$|callback$|visit_|test_|main$|_repr_html_$|readable$|readinto$"
    r"|do_GET$|capture_signals$|(keys|items|values)$"
    # lm-evaluation-harness's model
    r"|tok_encode$|loglikelihood$|_loglikelihood_tokens$|loglikelihood_rolling$|chat_template$)"
)


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_functions_are_verbs(path):
    if MATHEMATICS & set(path.relative_to(ROOT).parts):
        pytest.skip("mathematical functions have their papers' names, laws those of what holds")
    known = VERBS | PREDICATES | CONVERSIONS
    wrong = [
        f"line {line}: {name}"
        for name, line in functions(path)
        if first_word(name) not in known and name not in STABLE and not IMPOSED.match(name)
    ]
    assert wrong == []


# Words that this project once had for what the field has a word for.
FIELDS_WORD = {
    "seam": "interface",
    "learnt": "trained, or loss mask",
    "sliced": "chunked",
    "meeting": "rendezvous",
    "realisation": "backend, or backend model",
    "waiver": "expected failure",
    "keeper": "recorder",
    "gone on": "resumed",
    "go on with": "resume",
    "goes on with": "resumes",
    "going on with": "resuming",
    "the update is made": "a step is done",
}
BANNED = re.compile(rf"(?<![a-z])({'|'.join(FIELDS_WORD)})s?(?![a-z])", re.IGNORECASE)
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(ROOT / "specs").glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "examples").rglob("*.md"),
]


def words(path):
    """The texts of a file, each with its line: names, docstrings, comments, messages."""
    if path.suffix == ".md":
        yield from enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        return
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type == tokenize.NAME:
                yield token.start[0], re.sub(r"([a-z])([A-Z])|_", r"\1 \2", token.string)
            elif token.type == tokenize.COMMENT or (
                token.type == tokenize.STRING and " " in token.string
            ):
                yield token.start[0], " ".join(token.string.split())


@pytest.mark.parametrize(
    "path", [*FILES, *PAGES], ids=[str(path.relative_to(ROOT)) for path in [*FILES, *PAGES]]
)
def test_one_word_the_fields_own_stands_for_each_thing(path):
    found = [
        f"line {line}: {match[1]!r}; the field says {FIELDS_WORD[match[1].lower()]!r}"
        for line, text in words(path)
        for match in BANNED.finditer(text)
    ]
    assert found == []
