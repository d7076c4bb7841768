"""The entry point of `hermes`: signals are handled before anything else is imported."""

from hermes_cli.launch.signals import Signals

__all__ = ["main"]


def main() -> None:
    """Run the command line of this process, and exit with its code."""
    with Signals() as signals:
        from hermes_cli.main import run_process

        run_process(signals)
