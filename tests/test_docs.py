"""The documentation and the workflows keep up with the code."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import yaml

import hermes as library
from hermes import errors


def load_page_links():
    """docs/page_links.py, which belongs to no package."""
    path = Path(__file__).resolve().parent.parent / "docs" / "page_links.py"
    spec = importlib.util.spec_from_file_location("page_links", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


page_links = load_page_links()
ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_the_reference_has_every_public_name():
    text = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^::: hermes\.(\w+)$", text, re.MULTILINE))
    assert shown == set(library.__all__) - {"__version__", "Result"}  # TrainResult by its old name


def test_every_specification_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for path in (ROOT / "specs").glob("*.md"):
        assert f": specs/{path.name}\n" in text


@pytest.mark.parametrize(
    "source", page_links.list_sources(), ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_every_link_of_a_page_leads_to_a_file_of_the_site(source):
    page_links.move_links(source.read_text("utf-8"), source, page_links.find_page(source))


@pytest.mark.parametrize("target", ["../assets/no-such.png", "../../Makefile", "no-such.md"])
def test_a_link_that_leads_to_no_page_ends_the_build(target):
    source = ROOT / "docs" / "guides" / "watching.md"
    with pytest.raises(ValueError, match="leads to no page of the site"):
        page_links.move_links(f"[it]({target})", source, "guides/watching.md")


def test_a_page_shows_a_picture_of_the_assets():
    source = ROOT / "docs" / "guides" / "watching.md"
    moved = page_links.move_links("![it](../assets/watch.png)", source, "guides/watching.md")
    assert moved == "![it](../assets/watch.png)"


@pytest.mark.parametrize("page", ["docs/reference/commands.md", "specs/reliability.md"])
def test_a_table_of_exit_codes_has_every_one(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    shown = {int(code) for code in re.findall(r"^\| (\d+) \| ", text, re.MULTILINE)}
    kinds = [errors.HermesError, *errors.HermesError.__subclasses__()]
    assert shown == {0, 2, 130} | {kind.exit_code for kind in kinds}


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
