"""`python -m hermes`: the command, for launchers that start modules."""

import sys
from importlib.metadata import entry_points

if __name__ == "__main__":
    (command,) = entry_points(group="console_scripts", name="hermes")
    sys.exit(command.load()())
