"""Write the pages that the site is built from: those of the repository, notebooks and commands.

Run by `make docs`, into build/pages. Pages link to files of the repository, so that they can be
read there too; here the links become links between pages. A cell that fails ends the build, and so
does an output of many lines.
"""

import base64
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import nbformat
from nbclient import NotebookClient
from page_links import ROOT, find_page, list_sources, move_links

from hermes_cli.main import hermes

DOCS = Path(__file__).resolve().parent
NOTEBOOKS = ROOT / "examples" / "notebooks"
PAGES = ROOT / "build" / "pages"
LONGEST = 60  # lines of one output; what is longer belongs behind a `| tail`


def separate_blocks(text: str) -> str:
    """A page with an empty line around each list, table and code block.

    GitHub's Markdown asks for none there, and the site's would take them for a paragraph.
    """
    lines: list[str] = []
    kind, in_code = "", False
    for line in text.splitlines():
        before = kind
        if line.startswith("```"):
            in_code = not in_code
            kind = "code" if in_code else "code end"
        elif in_code:
            kind = "code"
        elif re.match(r"([-*+]|\d+\.) ", line):
            kind = "list"
        elif line.startswith("|"):
            kind = "table"
        elif not line or (line.startswith(" ") and before == "list"):
            kind = before if line else ""
        else:
            kind = "text"
        # Code ends with its fence, and a list item may go on in a line that is not indented.
        joined = (before, kind) in {("code", "code end"), ("list", "text")}
        if before and kind and before != kind and not joined:
            lines.append("")
        lines.append(line)
    return "\n".join(lines) + "\n"


def copy_pages() -> None:
    """Write the pages that are Markdown in the repository, and the files beside them."""
    shutil.copytree(DOCS / "assets", PAGES / "assets")
    for source in list_sources():
        page = find_page(source)
        assert page is not None
        text = separate_blocks(source.read_text(encoding="utf-8"))
        if page == "reference/commands.md":
            text += write_commands()
        (PAGES / page).parent.mkdir(parents=True, exist_ok=True)
        (PAGES / page).write_text(move_links(text, source, page), encoding="utf-8")


def execute_notebook(source: Path, folder: Path) -> float:
    """Run a notebook and write it as Markdown with its outputs. Returns seconds."""
    notebook = nbformat.read(source, as_version=4)
    nbformat.validate(notebook)
    started = time.monotonic()
    # A folder of its own is the working directory, so that no cell can rely on the repository.
    work = folder / ".work"
    work.mkdir(parents=True, exist_ok=True)
    NotebookClient(
        notebook,
        timeout=600,
        resources={"metadata": {"path": str(work)}},
        # Sockets in the file system: no other user of the machine can listen.
        transport="ipc",
    ).execute()
    work.rmdir()
    seconds = time.monotonic() - started
    parts = []
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for output in join_streams(cell.outputs):
            parts.append(render_output(output, folder, f"{source.stem}-{number}"))
    parts.append(
        "---\n\n"
        f"This page is `examples/notebooks/{source.name}`, run in {seconds:.0f} seconds when the "
        "site was built. Open it in Jupyter to change it and run it again."
    )
    text = "\n\n".join(part for part in parts if part) + "\n"
    (folder / f"{source.stem}.md").write_text(text, encoding="utf-8")
    return seconds


def join_streams(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Neighbouring pieces of printed text as one, since a command's text comes in many."""
    joined: list[nbformat.NotebookNode] = []
    for output in outputs:
        if joined and joined[-1].output_type == output.output_type == "stream":
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def render_output(output: nbformat.NotebookNode, folder: Path, name: str) -> str:
    """One output as Markdown; a picture goes into a file beside the page."""
    if output.output_type == "stream":
        return fence_text(output.text)
    data = output.get("data", {})
    if "image/png" in data:
        picture = folder / f"{name}.png"
        picture.write_bytes(base64.b64decode(data["image/png"]))
        return f"![The output of the cell above]({picture.name})"
    return fence_text(data.get("text/plain", ""))


def fence_text(text: str) -> str:
    """A block of plain text. Raises ValueError where it is longer than a reader wants."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)  # a command in a cell has a terminal, and colours
    lines = [line.rstrip() for line in plain.strip("\n").splitlines()]
    if len(lines) > LONGEST:
        raise ValueError(f"an output of {len(lines)} lines; at most {LONGEST} fit on a page")
    return "\n".join(["``` { .text .output }", *lines, "```"]) if lines else ""


def walk_commands(
    command: click.Command, name: str, parent: click.Context | None = None
) -> Iterator[tuple[str, str]]:
    """Every command's path and help, a group before what is in it."""
    settings = {**command.context_settings, "terminal_width": 88, "max_content_width": 88}
    context = click.Context(command, info_name=name, parent=parent, **settings)
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found is not None and not found.hidden:
                yield from walk_commands(found, child, context)


def write_commands() -> str:
    """A heading and the help of every command."""
    parts = []
    for path, text in walk_commands(hermes, "hermes"):
        parts.append(f"\n{'#' * min(len(path.split()) + 1, 3)} {path}\n\n```text\n{text}\n```\n")
    return "".join(parts)


def prepare() -> None:
    """Write all pages that are computed, and print what each notebook took."""
    # `!hermes` in a cell must be the command that belongs to this interpreter.
    bin_folder = str(Path(sys.executable).parent)
    os.environ["PATH"] = bin_folder + os.pathsep + os.environ["PATH"]
    # Models this small gain nothing from more threads, and lose much where the CPU is shared.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    shutil.rmtree(PAGES, ignore_errors=True)
    copy_pages()
    folder = PAGES / "notebooks"
    folder.mkdir()
    for source in sorted(NOTEBOOKS.glob("*.ipynb")):
        print(f"{source.name}: {execute_notebook(source, folder):.0f} s", file=sys.stderr)


if __name__ == "__main__":
    prepare()
