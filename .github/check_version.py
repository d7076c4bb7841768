"""Check that a tag, pyproject.toml and CHANGELOG.md agree on the version to release."""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def check_version(tag: str) -> str:
    """The sentence to end with where they disagree, or nothing."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    version = project["version"]
    if tag != f"v{version}":
        return f"Error: the tag is {tag!r}, but pyproject.toml has version {version!r}"
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(rf"^## {re.escape(version)} - \d{{4}}-\d\d-\d\d$", changes, re.MULTILINE):
        return f"Error: CHANGELOG.md has no heading '## {version} - YYYY-MM-DD'"
    return ""


if __name__ == "__main__":
    sys.exit(check_version(sys.argv[1] if len(sys.argv) > 1 else "") or None)
