"""The public functions that open a backend and read an architecture."""

from pathlib import Path

from hermes.arguments import convert_value, name_own_arguments
from hermes.interface import Backend, choose_backend
from hermes.interop.architecture import read_architecture
from hermes.spec import ModelSpec

__all__ = ["backend", "load_spec"]


@name_own_arguments
def load_spec(source: str | Path) -> ModelSpec:
    """An architecture: a bundled name, a MAL file or text, or that of a model or run.

    A model is a checkpoint, a Hugging Face folder or its config.json, a file of weights with its
    configuration beside it, or hf://OWNER/REPO. Raises MalError and HermesError.
    """
    return read_architecture(convert_value("source", source, str | Path))


def backend(name: str = "auto") -> Backend:
    """A backend by name; "auto" is mlx on Apple silicon, torch elsewhere, else the one installed.

    Raises MissingBackend, with what to install.
    """
    return choose_backend(name)
