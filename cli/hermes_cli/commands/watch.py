"""`hermes watch`: a page that follows runs."""

import webbrowser

import click

from hermes_cli.options.declarations import declare_command


@declare_command("watch")
def watch(runs: tuple[str, ...], port: int, open: bool) -> None:
    """Follow runs on a page in the browser, on this machine alone.

    Curves, sample text and settings of running and finished runs, several over each other. A folder
    of runs is searched for new ones as long as the page is open.
    """
    from hermes.watching.server import WatchServer

    with WatchServer(runs, port) as server:
        click.echo(f"the page is at {server.url}; Ctrl-C ends it", err=True)
        if open:
            webbrowser.open(server.url)
        server.serve_forever()
