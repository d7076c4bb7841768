"""`python -m hermes`: the command, for launchers that start modules."""

import signal
import sys

if __name__ == "__main__":
    # Until the command's handlers are there: Python's own would raise in the middle of an import.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from importlib.metadata import entry_points

    (command,) = entry_points(group="console_scripts", name="hermes")
    sys.exit(command.load()())
