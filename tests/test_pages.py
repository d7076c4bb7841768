"""Pages name files, modules, classes, commands and options that exist."""

import ast
import importlib
import re
from importlib.metadata import entry_points
from pathlib import Path

import click
import pytest

from hermes_cli.main import hermes

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    *sorted(ROOT.glob("specs/*.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(ROOT.glob("examples/*/README.md")),
]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]

FOLDERS = ("hermes/", "backends/", "cli/", "conformance/", "specs/", "tests/", "benchmarks/",
           "docs/", "examples/")  # fmt: skip
NAME = re.compile(r"\bhermes(?:_[a-z]+)?(?:\.[A-Za-z_]\w*)+")
# An entry-point group, and the packages of a backend's author.
OTHER = re.compile(r"hermes\.(backends|trackers)$|hermes_(mine|jax|NAME)\b")
CLASS = re.compile(r"^([A-Z][a-z]+[A-Za-z]*)(?:\.(\w+))?(?:\(.*\))?$")
# Classes and settings of other programs.
FOREIGN = {
    *("AutoModelForCausalLM", "HermesForCausalLM", "KillWait", "Optional", "PeftModel"),
    "PreTrainedTokenizerFast",
}
# Their links lead to pages of the site, some of which its build makes; it fails for a broken one.
SITE = [page for page in PAGES if page.is_relative_to(ROOT / "docs")]
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")


def spans_of_code(text):
    """What stands in backticks and in fenced blocks."""
    fenced = re.findall(r"^```.*?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.M))
    return [*inline, *fenced]


def paths_in(text):
    """Paths of this repository that a page names in code."""
    for span in spans_of_code(text):
        for word in re.findall(r"[\w./*{}<>,-]+", span):
            path = word.rstrip(".,").removeprefix("./")
            if path.startswith(FOLDERS) and not re.search(r"[*{}<>]|NAME", path):
                yield path


def resolves(name):
    """Whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError as error:
            if not name.startswith(str(error.name)):
                pytest.skip(f"{error.name} is not installed")
            continue
        for part in parts[end:]:
            fields = getattr(value, "__dataclass_fields__", {})
            if not hasattr(value, part) and part not in fields:
                return False
            value = getattr(value, part, None)
        return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_path_on_a_page_exists(page):
    named = set(paths_in(page.read_text(encoding="utf-8")))
    missing = [
        path for path in named if not (ROOT / path).exists() and not (page.parent / path).exists()
    ]
    assert missing == []


@pytest.mark.parametrize("page", [page for page in PAGES if page not in SITE])
def test_every_link_of_a_page_leads_to_a_file(page):
    links = LINK.findall(page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_dotted_name_on_a_page_exists(page):
    code = "\n".join(spans_of_code(page.read_text(encoding="utf-8")))
    names = {name for name in NAME.findall(code) if not OTHER.match(name)}
    files = re.compile(r"\.(py|mal|md|yaml|toml|json|svg)$")
    assert [name for name in sorted(names) if not files.search(name) and not resolves(name)] == []


@pytest.fixture(scope="module")
def classes():
    """The names that the bodies of all our classes define, by class."""
    found = {}
    for folder in ("hermes", "backends", "cli", "conformance"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    found.setdefault(node.name, set()).update(members_of(node))
    return found


def members_of(node):
    """Methods and annotated fields of a class."""
    for child in node.body:
        if isinstance(child, ast.FunctionDef):
            yield child.name
        elif isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name):
            yield child.target.id


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_class_on_a_page_exists(page, classes):
    wrong = []
    for span in spans_of_code(page.read_text(encoding="utf-8")):
        match = CLASS.match(span)
        if match is None or match[1] in FOREIGN:
            continue
        if match[1] not in classes or (match[2] and match[2] not in classes[match[1]]):
            wrong.append(span)
    assert wrong == []


def commands_in(text):
    """The words of each command line of hermes in a page's code, up to a pipe or a comment."""
    for span in spans_of_code(text):
        for line in span.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|\|(?=\s)|#", line):
                words = re.sub(r"[\[\]]", " ", part).split()
                if words[:1] == ["hermes"] and len(words) > 1 and re.match(r"[a-z]", words[1]):
                    yield words[1:]


def unknown_words(words):
    """The command or options of a command line that hermes does not have."""
    command, rest, context = hermes, list(words), click.Context(hermes)
    while isinstance(command, click.Group) and rest and re.match(r"[a-z-]+$", rest[0]):
        try:
            found = command.get_command(context, rest[0])
        except click.UsageError:
            found = None
        if found is None:
            return [rest[0]]
        command = found
        rest.pop(0)
    known = {"--help"}.union(*(p.opts + p.secondary_opts for p in command.params))
    given = [re.match(r"--[a-z][a-z-]*", word) for word in rest]
    return [option[0] for option in given if option and option[0] not in known]


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_command_on_a_page_exists_with_its_options(page):
    lines = list(commands_in(page.read_text(encoding="utf-8")))
    wrong = {" ".join(words): unknown for words in lines if (unknown := unknown_words(words))}
    assert wrong == {}


def test_the_entry_point_group_that_pages_name_exists():
    assert {point.name for point in entry_points(group="hermes.backends")} >= {
        "numpy",
        "torch",
        "mlx",
    }


def test_the_reader_of_pages_finds_what_is_wrong():
    code = "hermes/mal/x.py\nhermes trian --x"
    text = f"`hermes/nothing.py` and `hermes.mal.nothing`\n```\n{code}\n```\n"
    assert sorted(paths_in(text)) == ["hermes/mal/x.py", "hermes/nothing.py"]
    assert not resolves("hermes.mal.nothing")
    assert resolves("hermes.mal.loads")
    assert resolves("hermes.interface.Options.precision")
    assert list(commands_in(text)) == [["trian", "--x"]]
    assert unknown_words(["trian", "--x"]) == ["trian"]
    assert unknown_words(["train", "--data", "d", "--lrr", "1"]) == ["--lrr"]
    assert unknown_words(["mal", "show", "nano"]) == []
