"""`hermes watch`: a page that follows runs."""

import click

from hermes_cli.options.declarations import declare_command


@declare_command("watch")
def watch(runs: tuple[str, ...], port: int, open: bool) -> None:
    """Follow runs on a page in the browser: curves, samples, settings.

    Running and finished runs are drawn over each other. The page is for this machine alone; a
    folder of runs is searched for new ones as long as it is open.
    """
    from hermes.api_watching import watch

    def tell(address: str) -> None:
        click.echo(f"the page is at {address}; Ctrl-C ends it", err=True)

    watch(runs, port=port, open=open, on_start=tell)
