"""Pictures by matplotlib (the extra `plot`): a figure without a window, and its file."""

import io
from pathlib import Path
from typing import Any

from hermes.errors import HermesError
from hermes.storage.durable import write_atomically

__all__ = ["make_figure", "write_figure"]

FORMATS = ("png", "svg", "pdf")


def make_figure(path: Path, size: tuple[float, float], dpi: int, what: str) -> Any:
    """Make an empty matplotlib Figure for a file of this name. size: inches, (width, height).

    what: needs matplotlib, in the error. Raises HermesError where it is not installed, and for an
    ending that is no picture's.
    """
    _find_format(path)
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise HermesError(
            f"{what} needs matplotlib, which is not installed ({error}); "
            "pip install 'hermes-llm[plot]'"
        ) from error
    figure = Figure(figsize=size, dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def write_figure(figure: Any, path: Path) -> None:
    """Write a figure in the format that the name's ending says, whole or not. Raises StorageError.

    Folders that are missing are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    image = io.BytesIO()
    figure.savefig(image, format=_find_format(path))
    write_atomically(path, image.getvalue())


def _find_format(path: Path) -> str:
    kind = path.suffix[1:].lower() or "png"
    if kind not in FORMATS:
        raise HermesError(f"{path}: a plot ends in .{', .'.join(FORMATS)}, not in {path.suffix}")
    return kind
