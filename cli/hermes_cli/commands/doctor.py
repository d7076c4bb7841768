"""`hermes doctor`: show what is installed, what this machine has, and what is wrong with it."""

import dataclasses
import json
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

from hermes_cli.options.declarations import declare_command

LIBRARIES = ("numpy", "safetensors", "tokenizers", "ml-dtypes", "rich", "matplotlib")


def _get_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _examine_backend(name: str) -> dict[str, Any]:
    from hermes.errors import MissingBackend
    from hermes.interface import find_backend

    try:
        found = find_backend(name)
    except MissingBackend as error:
        return {"installed": False, "reason": str(error)}
    described = {"installed": True, "versions": found.versions(), "devices": list(found.devices())}
    if describe := getattr(found, "describe_blas", None):
        described["blas"] = describe()
    return described


@declare_command("doctor")
@click.pass_context
def doctor(context: click.Context, /, as_json: bool, distributed: bool, **_: Any) -> None:
    """Show what is installed, what this machine has, and what is wrong.

    With --distributed, starts several processes, or is itself started by torchrun, srun or
    mlx.launch, and checks what they need of each other before a run depends on it.
    """
    if distributed:
        from hermes_cli.commands.doctor_distributed import examine

        examine(context)
        return
    from hermes.interface import detect_default_backend, list_backends
    from hermes.model_info.machine import examine_machine, format_machine, list_problems

    backends = {name: _examine_backend(name) for name in list_backends()}
    machine = examine_machine({n: one["blas"] for n, one in backends.items() if "blas" in one})
    found: dict[str, Any] = {
        "hermes": version("hermes-llm"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "libraries": {name: _get_version(name) for name in LIBRARIES},
        "compiler": machine.compiler,
        "backends": backends,
        "default_backend": detect_default_backend(),
        "machine": dataclasses.asdict(machine),
        "problems": list_problems(machine),
    }
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for line in (*_format_lines(found), *format_machine(machine)):
        click.echo(line)
    for problem in found["problems"] or ["no problem was found"]:
        click.echo(f"-> {problem}")


def _format_lines(found: dict[str, Any]) -> Iterator[str]:
    yield f"hermes {found['hermes']}, Python {found['python']}, {found['platform']}"
    libraries = (
        f"{name} {number or 'not installed'}" for name, number in found["libraries"].items()
    )
    yield f"libraries: {', '.join(libraries)}"
    compiler = found["compiler"]
    known = found["machine"]["compiler_version"]
    yield f"C++ compiler: {compiler or 'none'}{f', {known}' if known else ''}"
    for name, state in found["backends"].items():
        if state["installed"]:
            numbers = ", ".join(f"{key} {value}" for key, value in state["versions"].items())
            yield f"backend {name}: {numbers}; devices {', '.join(state['devices'])}"
        else:
            yield f"backend {name}: {state['reason']}"
    yield f"--backend auto is {found['default_backend'] or 'none: install one of them'}"
