"""Finds the MAL that a name, path or text refers to, and the model in it."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import hermes_specs
from hermes.errors import HermesError, MalError, StorageError, explain_os_error, suggest_nearest
from hermes.mal.meaning import read_tree
from hermes.mal.mistakes import list_mistakes
from hermes.mal.syntax import parse
from hermes.mal.tokens import MAX_BYTES, Source
from hermes.mal.tree import Tree, quote
from hermes.spec import ModelSpec
from hermes.storage.path_kinds import describe_kind

__all__ = ["MalFile", "list_bundled", "load", "loads", "open_mal", "read_mal"]


@dataclass(frozen=True)
class MalFile:
    """A parsed file: its models by name, its source and its tree.

    path: of the file; None for a text or a bundled model.
    """

    models: Mapping[str, ModelSpec]
    source: Source
    tree: Tree
    path: str | None = None

    def get_model(self, name: str | None = None) -> ModelSpec:
        """Get a model by name, or the only one. Raises MalError if there are several."""
        if name is None and len(self.models) == 1:
            return next(iter(self.models.values()))
        if name is not None and name in self.models:
            return self.models[name]
        file, names = self.source.file, ", ".join(self.models)
        if name is None:
            second = [d for d in self.tree.definitions if d.kind == "model"][1]
            sentence = (
                f"this file has several models, {names}; name one, as in {file}:{second.name}"
            )
            raise self.source.make_error(second.name_at, sentence)
        raise HermesError(f"{file} has no model {quote(name)}; it has {names}")

    def list_code_lines(self) -> list[str]:
        """List the lines of code: without comments, trailing space and blank lines."""
        text = self.source.text
        for at in reversed(self.tree.comments):
            end = text.find("\n", at)
            text = text[:at] + (text[end:] if end >= 0 else "")
        return [line.rstrip() for line in text.split("\n") if line.strip()]


def loads(text: str | bytes, *, file: str = "<text>", model: str | None = None) -> ModelSpec:
    """Read a model from a text; model: its name, where the text has several. Raises MalError.

    file: the name of the text in errors.
    """
    return read_mal(text, file).get_model(model)


def load(source: str | os.PathLike[str]) -> ModelSpec:
    """Read a model by bundled name, file, folder with a model.mal, or text.

    Examples: "nano", "my.mal", "my.mal:small" (one of several), "run/step-00000200",
    "model m { ... }". A bundled name wins over a file of that name; "./nano" and any Path are
    files. Raises MalError, and HermesError or StorageError if there is nothing to read.
    """
    file, model = open_mal(source)
    return file.get_model(model)


def list_bundled() -> tuple[str, ...]:
    """List the names of the models that come with hermes."""
    names: tuple[str, ...] = hermes_specs.list_models()
    return names


def read_mal(
    data: str | bytes, file: str = "<text>", *, mistakes: list[MalError] | None = None
) -> MalFile:
    """Read all models of a text. Raises MalError, and nothing else whatever the bytes.

    mistakes: gets all mistakes of the file, in its order, before the first is raised.
    """
    source = Source.from_data(data, file)
    try:
        tree = parse(source)
        return MalFile(read_tree(source, tree), source, tree)
    except MalError:
        if mistakes is not None:
            mistakes += list_mistakes(source)
        raise


def open_mal(
    source: str | os.PathLike[str], *, mistakes: list[MalError] | None = None
) -> tuple[MalFile, str | None]:
    """Open what `load` would read, and return the name of the model asked for, if any.

    mistakes: as for `read_mal`.
    """
    if isinstance(source, str):
        if "{" in source:
            return read_mal(source, mistakes=mistakes), None
        name = source.removeprefix("well-known/").removesuffix(".mal").replace("_", "-")
        if name in list_bundled():
            return read_mal(hermes_specs.read_model(name), f"{name}.mal"), None
    path, model = _split(os.fspath(source))
    return replace(read_mal(_read(path), path, mistakes=mistakes), path=path), model


def _split(path: str) -> tuple[str, str | None]:
    """Split FILE:MODEL into an existing path and the model's name. Raises HermesError."""
    if os.path.isdir(path):
        inside = os.path.join(path, "model.mal")
        if not os.path.isfile(inside):
            kind = describe_kind(Path(path)) or "a folder"
            raise HermesError(f"{path} is {kind} with no model.mal in it; name a checkpoint")
        return inside, None
    if os.path.exists(path):
        return path, None
    file, _, model = path.rpartition(":")
    if re.fullmatch(r"[\w-]+", model) and os.path.isfile(file):
        return file, model
    hint = suggest_nearest(path.removesuffix(".mal").replace("_", "-"), list_bundled())
    if os.path.dirname(path) or path.endswith(".mal"):
        raise HermesError(f"there is no file {quote(path)}{hint}")
    known = hint or f"; bundled are {', '.join(list_bundled())}"
    raise HermesError(f"there is no model or file {quote(path)}{known}")


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = explain_os_error(error)
        raise StorageError(f"cannot read {path}: {reason}") from error
    if data.startswith(b"GGUF"):
        raise HermesError(f"{path} is a GGUF file; name a .mal file, or a model's config.json")
    return data
