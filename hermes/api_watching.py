"""The public functions that show how runs went, and how they go."""

import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path

from hermes.arguments import convert_arguments, name_own_arguments

__all__ = ["choose_picture", "plot", "watch"]


def choose_picture(runs: Sequence[str | Path], png: str | Path | None = None) -> Path:
    """The picture that a plot of these runs writes: `png`, else one inside the first."""
    if png:
        return Path(png)
    return Path(runs[0]) / "plots" / ("loss.png" if len(runs) == 1 else "compare.png")


@name_own_arguments
def plot(runs: Sequence[str | Path] | str | Path, *, png: str | Path | None = None) -> Path:
    """Draw losses, learning rates, gradient norms and throughput of runs. Returns the picture.

    png: the file to write, .png, .svg or .pdf; by default RUN/plots/loss.png, of several runs
    plots/compare.png in the first. Raises HermesError where a folder is no run, matplotlib is not
    installed, or nothing can be written.
    """
    from hermes.training.plot import draw_png, read_curves

    a = convert_arguments(plot, locals())
    folders = [runs] if isinstance(runs, str | Path) else a["runs"]
    path = choose_picture(folders, png)
    draw_png(read_curves(folders), path)
    return path


@name_own_arguments
def watch(
    runs: Sequence[str | Path] | str | Path,
    *,
    port: int = 8265,
    open: bool = False,  # the option's name, which is better known than the function's
    on_start: Callable[[str], object] = lambda address: None,
) -> None:
    """Follow runs, or the runs in folders, on a page for this machine until it is interrupted.

    port: 0 for any that is free. open: whether to open the page in the browser. on_start: called
    with the address once the server answers. Raises HermesError where there is no such folder or
    no such port.
    """
    from hermes.watching.server import WatchServer

    a = convert_arguments(watch, locals())
    folders = [runs] if isinstance(runs, str | Path) else a["runs"]
    with WatchServer(folders, a["port"]) as server:
        on_start(server.url)
        if open:
            webbrowser.open(server.url)
        server.serve_forever()
