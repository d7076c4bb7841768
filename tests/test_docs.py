"""The documentation and the workflows keep up with the code."""

import json
import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

import hermes as library
from hermes_cli.main import hermes

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md")) + sorted((ROOT / "docs" / "guides").glob("*.md"))
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def read_commands(page):
    """The hermes commands in a page's code blocks and inline code, as lists of words."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^ *```bash[^\n]*\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    lines += re.findall(r"(?<!`)`(hermes [^`]+)`", text)  # inline
    lines += re.findall(r"^ {8}(hermes .*)$", text, re.MULTILINE)  # an indented block of a list
    return [shlex.split(line) for line in lines if line.strip().startswith("hermes ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_every_command_and_option_of_a_page_exists(page):
    for words in read_commands(page):
        command, context = hermes, click.Context(hermes, info_name="hermes")
        rest = words[1:]
        while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
            command = command.get_command(context, rest.pop(0))
        known = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
        known |= {"--help", "-h"}
        given = {word.split("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
        assert given <= known, f"{page.name}: {shlex.join(words)}"


def test_the_reference_has_every_public_name():
    text = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^::: hermes\.(\w+)$", text, re.MULTILINE))
    assert shown == set(library.__all__) - {"__version__", "Result"}  # TrainResult by its old name


def test_every_specification_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for path in (ROOT / "specs").glob("*.md"):
        assert f": specs/{path.name}\n" in text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path):
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_nothing_but_make_targets(path):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    for job in jobs.values():
        for step in job["steps"]:
            if "run" in step:
                words = step["run"].split()
                assert words[0] == "make"
                assert words[1] in targets or words[1] == "$TARGET"
        if "TARGET" in str(job["steps"]):
            matrix = job["strategy"]["matrix"]
            named = matrix["target"] + [entry["target"] for entry in matrix["include"]]
            assert {name.split()[0] for name in named} <= set(targets)
