"""The entry point of `hermes`: signals are handled before anything else is imported."""

import os
import signal

__all__ = ["main"]


def main() -> None:
    """Run the command line of this process, and exit with its code."""
    # Until our handlers are there: Python's own would raise in the middle of an import.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    has_begun = False
    try:
        # Before anything opens a file: it would get the number of one that is closed.
        from hermes_cli.display.robust_stderr import open_standard_streams

        open_standard_streams()
        from hermes_cli.launch.signals import Signals

        with Signals() as signals:
            from hermes_cli.main import run_process

            has_begun = True
            run_process(signals)
    except (MemoryError, ImportError, RuntimeError, OSError) as error:
        if has_begun:  # a fault of the command, which Python shows with its place
            raise
        # Under a limit so low that not even the command line can be loaded.
        os.write(2, f"Error: hermes cannot start: {error or 'out of memory'}\n".encode())
        os._exit(1)
