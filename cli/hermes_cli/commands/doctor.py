"""`hermes doctor`: show what is installed and which devices are available."""

import json
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

from hermes_cli.options.declarations import declare_command

LIBRARIES = ("numpy", "safetensors", "tokenizers", "ml-dtypes", "rich", "matplotlib")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _backend(name: str) -> dict[str, object]:
    from hermes.errors import MissingBackend
    from hermes.interface import find_backend

    try:
        found = find_backend(name)
    except MissingBackend as error:
        return {"installed": False, "reason": str(error)}
    return {"installed": True, "versions": found.versions(), "devices": list(found.devices())}


@declare_command("doctor")
@click.pass_context
def doctor(context: click.Context, as_json: bool, distributed: bool, **_: Any) -> None:
    """Show what is installed and which devices are available.

    With --distributed, starts several processes, or is itself started by torchrun, srun or
    mlx.launch, and checks what they need of each other before a run depends on it.
    """
    if distributed:
        from hermes_cli.commands.doctor_distributed import examine

        examine(context)
        return
    from hermes.interface import detect_default_backend, list_backends

    found = {
        "hermes": version("hermes-llm"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "libraries": {name: _version(name) for name in LIBRARIES},
        "compiler": shutil.which("c++") or shutil.which("g++") or shutil.which("clang++"),
        "backends": {name: _backend(name) for name in list_backends()},
        "default_backend": detect_default_backend(),
    }
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(f"hermes {found['hermes']}, Python {found['python']}, {found['platform']}")
    held = {name: number or "not installed" for name, number in found["libraries"].items()}
    click.echo("libraries: " + ", ".join(f"{name} {number}" for name, number in held.items()))
    compiler = found["compiler"] or "none found; torch.compile will be left out on the CPU"
    click.echo(f"C++ compiler: {compiler}")
    for name, state in found["backends"].items():
        if state["installed"]:
            numbers = ", ".join(f"{key} {value}" for key, value in state["versions"].items())
            click.echo(f"backend {name}: {numbers}; devices {', '.join(state['devices'])}")
        else:
            click.echo(f"backend {name}: {state['reason']}")
    click.echo(f"--backend auto is {found['default_backend'] or 'none: install one of them'}")
