"""The library's errors in the words of the command line: options instead of Python's arguments.

The other way is `hermes.arguments.name_arguments`.
"""

import re
from collections.abc import Mapping

from hermes.options import Option

__all__ = ["name_options"]

# A name after a file, as in `run.yaml: seed is 1`, after --set, a dot or a comma, before an equals
# sign or in quotes is a key.
NAME = re.compile(
    r"(?<![\w.,'\"`/-])(?<!: )(?<!--set )[a-z][a-z0-9_]*(?:\.[a-z_]+)?(?![\w.'\"`/(=-])"
)
SAID = re.compile(r" (must|is|are|has|needs|takes|belongs|does|cannot) ")


def name_options(message: str, options: Mapping[str, Option]) -> str:
    """The message with `--batch-size` in place of batch_size.

    A name of one word counts at the beginning alone, where something is said of it: elsewhere it is
    a word.
    """
    names = {option.parameter or name: option.name for name, option in options.items()}
    names |= {f"{name}s": option.name for name, option in options.items() if option.multiple}

    def name(match: re.Match[str]) -> str:
        found = names.get(match[0].replace(".", "_"))  # lora.rank, a part of a recipe's field
        begins = match.start() == 0 and SAID.match(message, match.end()) is not None
        if found is None or not (begins or "_" in match[0]):
            return match[0]
        return f"--{found.replace('_', '-')}"

    return NAME.sub(name, message)
