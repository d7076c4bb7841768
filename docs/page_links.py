"""Where the files of the repository stand on the site, and the links between them.

Imports nothing but the standard library, so that tests can follow every link without the site.
"""

import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT_PAGES = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")


def list_sources() -> list[Path]:
    """The Markdown files of the repository that become pages."""
    sources = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "specs").glob("*.md")]
    return [*sources, *(ROOT / name for name in PROJECT_PAGES)]


def find_page(source: Path) -> str | None:
    """The page or picture of the site that a file of the repository becomes; None for no other."""
    path = source.relative_to(ROOT).as_posix()
    if path in PROJECT_PAGES:
        return path.lower()
    match source.suffix, path.split("/"):
        case ".md", ["docs", *rest]:
            return "/".join(rest)
        case _, ["docs", "assets", *_]:
            return path.removeprefix("docs/")
        case ".md", ["specs", _]:
            return path
        case ".ipynb", ["examples", "notebooks", _]:
            return f"notebooks/{source.stem}.md"
    return None


def move_links(text: str, source: Path, page: str) -> str:
    """The text with links between files of the repository made links between pages."""

    def move(match: re.Match[str]) -> str:
        file = (source.parent / match[1]).resolve()
        target = find_page(file) if file.is_file() else None
        if target is None:
            raise ValueError(f"{source}: the link to {match[1]} leads to no page of the site")
        return f"]({posixpath.relpath(target, posixpath.dirname(page))}{match[2]})"

    return re.sub(r"\]\((?![a-z]+:|#)([^)#\s]+)((?:#[^)\s]*)?)\)", move, text)
