"""The entry point of `hermes`: signals are handled before anything else is imported."""

import os

from hermes_cli.launch.signals import Signals

__all__ = ["main"]


def main() -> None:
    """Run the command line of this process, and exit with its code."""
    try:
        with Signals() as signals:
            from hermes_cli.main import run_process

            run_process(signals)
    except (MemoryError, ImportError, RuntimeError, OSError) as error:
        # Under a limit so low that not even the command line can be loaded.
        os.write(2, f"Error: hermes cannot start: {error or 'out of memory'}\n".encode())
        os._exit(1)
