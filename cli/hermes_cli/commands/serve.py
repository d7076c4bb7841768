"""`hermes serve`: a model behind the API that OpenAI's clients speak."""

import os
import webbrowser
from pathlib import Path
from typing import Any

import click

from hermes_cli.launch.signals import Signals
from hermes_cli.options.declarations import declare_command

KEY = "HERMES_API_KEY"


@declare_command("serve")
def serve(checkpoint: Path, api_key: str | None, open: bool, **options: Any) -> None:
    """Serve a model by OpenAI's API, and on a page to talk to it.

    Clients use the address that is printed, with /v1 behind it. Ctrl-C finishes the answers under
    way, and a second one ends at once. The key may also be in the variable HERMES_API_KEY, where
    other users of this machine do not see it.
    """
    import hermes

    signals: Signals = click.get_current_context().find_root().obj.signals

    def on_start(address: str) -> None:
        signals.grace, signals.words = None, "ending once the answers under way are done"
        click.echo(f"page: {address}/\nAPI:  {address}/v1   Ctrl-C ends it", err=True)
        if open:
            webbrowser.open(f"{address}/")

    hermes.serve(
        checkpoint,
        api_key=api_key or os.environ.get(KEY),
        on_start=on_start,
        stop=signals.has_come,
        **options,
    )
