"""What the shell may complete a word of a command line to, when it asks (`hermes_cli.main`)."""

import os
import re
from collections.abc import Iterable

from click.shell_completion import BashComplete, CompletionItem

from hermes import mal
from hermes.options import Argument, Option

__all__ = ["BashWithPaths", "complete_argument", "complete_option"]

# A name that no shell would have to quote: a script for completion hands it on as it is.
PLAIN_NAME = re.compile(r"[\w+@%.-]+")


def complete_option(entry: Option, begun: str) -> list[CompletionItem]:
    """The values of an option that begin so: choices, bundled models, backends, or paths."""
    choices = list(entry.choices) or _list_names(entry.name)
    if entry.name == "model":
        choices += mal.list_bundled()
    is_path = entry.is_path or _needs_path(entry)
    return _complete(choices, begun, is_path=is_path, is_folder=entry.metavar == "DIR")


def complete_argument(entry: Argument, begun: str) -> list[CompletionItem]:
    """The values of an argument that begin so: bundled models or paths."""
    names = mal.list_bundled() if entry.is_model else ()
    is_path = entry.is_model or _needs_path(entry)
    return _complete(names, begun, is_path=is_path, is_folder=entry.metavar == "DIR")


def _needs_path(entry: Option | Argument) -> bool:
    return entry.type not in (int, float, bool) and (
        entry.type is not str or entry.metavar == "DIR" or "FILE" in entry.metavar.split(":")[0]
    )


def _list_names(option: str) -> list[str]:
    """The values that an option takes besides others that only a program can tell."""
    if option in {"backend", "against"}:
        from hermes.interface import list_backends

        return list_backends()
    if option == "track":
        from hermes.tracking.registry import list_trackers

        return list_trackers()
    return []


def _complete(
    names: Iterable[str], begun: str, *, is_path: bool, is_folder: bool
) -> list[CompletionItem]:
    found = [CompletionItem(name) for name in names if name.startswith(begun)]
    kind = "dir" if is_folder else "file"
    return [*found, CompletionItem(begun, type=kind)] if is_path else found


class BashWithPaths(BashComplete):
    """Bash, whose script offers the paths that it finds itself or what it is told, not both.

    Where a word may be a name or a path, it is told the names in the working folder.
    """

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        """What the word may be completed to."""
        found = super().get_completions(args, incomplete)
        plain = [item for item in found if item.type == "plain"]
        if not plain or len(plain) == len(found):
            return found
        return [*plain, *map(CompletionItem, _list_here(incomplete))]


def _list_here(begun: str) -> list[str]:
    """What the working folder has that begins so, hidden files only if a dot is typed."""
    try:
        with os.scandir() as entries:
            names = sorted(
                f"{entry.name}/" if entry.is_dir() else entry.name
                for entry in entries
                if entry.name.startswith(begun) and PLAIN_NAME.fullmatch(entry.name)
            )
    except OSError:
        return []
    return [name for name in names if begun or not name.startswith(".")]
