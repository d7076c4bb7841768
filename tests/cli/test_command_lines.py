"""Every command's parameters are the pinned ones: flags, types, defaults, and their order.

A script that calls hermes, and a run.yaml that an earlier version wrote, depend on them. Where a
change is wanted, write the pin anew and look at its diff: python -m tests.cli.test_command_lines
"""

from pathlib import Path

import click

from hermes_cli.main import hermes

PIN = Path(__file__).with_name("command_lines.txt")


def iter_commands(command, path="hermes"):
    """Each command below a group with its path, groups left out."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command)
    for name in sorted(command.list_commands(context)):
        yield from iter_commands(command.get_command(context, name), f"{path} {name}")


def describe_parameter(command, parameter):
    """A line: what is typed, what it is read as, and what it is when it is left out."""
    default = parameter.get_default(click.Context(command), call=False)
    facts = [" / ".join(filter(None, map(", ".join, (parameter.opts, parameter.secondary_opts))))]
    facts += ["argument"] if isinstance(parameter, click.Argument) else []
    kind = parameter.type.name
    facts += [f"{kind} of {parameter.type.choices!r}" if kind == "choice" else kind]
    if isinstance(parameter, click.Option):
        facts += [word for word in ("is_flag", "multiple") if getattr(parameter, word)]
    facts += ["required"] if parameter.required else []
    facts += [] if parameter.nargs == 1 else [f"nargs {parameter.nargs}"]
    is_given = isinstance(default, bool | int | float | str)
    facts += [f"default {type(default).__name__} {default!r}"] if is_given else []
    return "; ".join(facts)


def describe_commands():
    lines = []
    for path, command in iter_commands(hermes):
        lines.append(path)
        lines += [f"    {describe_parameter(command, one)}" for one in command.params]
    return "\n".join(lines) + "\n"


def test_command_lines_are_as_pinned():
    assert describe_commands() == PIN.read_text(encoding="utf-8")


if __name__ == "__main__":
    PIN.write_text(describe_commands(), encoding="utf-8")
