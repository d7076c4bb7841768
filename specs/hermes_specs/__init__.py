"""The bundled models: one MAL file each in `models/`, named in kebab-case."""

from pathlib import Path

__all__ = ["list_models", "read_model"]

MODELS = Path(__file__).parent / "models"


def list_models() -> tuple[str, ...]:
    """The names of the bundled models, in alphabetical order."""
    return tuple(sorted(path.stem for path in MODELS.glob("*.mal")))


def read_model(name: str) -> bytes:
    """The bytes of a bundled model's file."""
    return (MODELS / f"{name}.mal").read_bytes()
