"""`--print-config`: every resolved option with its value, and what set it."""

from collections.abc import Iterator
from pathlib import Path

from hermes.options import OPTIONS
from hermes_cli.options.resolve import ResolvedOptions, collect_recipe_fields

__all__ = ["render_config"]

# Those that ask for this, or whose content stands in the others.
LEFT_OUT = ("print_config", "config", "set")
WIDTH = 36  # columns before the comments, where values are short


def render_config(options: ResolvedOptions) -> str:
    """Every option as YAML that --config reads, each with what set it: default, file:line, or flag.

    Raises HermesError for what cannot be set.
    """
    lines = []
    for name, value in options.values.items():
        if name in LEFT_OUT:
            continue
        source = options.sources[name]
        lines.append(_render_line(name, value, _find_place(source, name)))
    lines += _render_edits(options)
    return "\n".join(lines)


def _render_line(name: str, value: object, source: str) -> str:
    from hermes.training.run_yaml import format_scalar

    text = f"{name}: {format_scalar(value)}"
    default = OPTIONS[name].default_text if name in OPTIONS else ""
    more = f": {default}" if value is None and default else ""
    return f"{text.ljust(WIDTH)} # {source}{more}"


def _find_place(source: str, name: str) -> str:
    """Where a value stands: a file's line, or the source as it is."""
    if not Path(source).is_file():
        return source
    from hermes.storage.strict_yaml import read_key_lines

    lines = {key.replace("-", "_"): line for key, line in read_key_lines(Path(source)).items()}
    return f"{source}:{lines[name]}" if name in lines else source


def _render_edits(options: ResolvedOptions) -> Iterator[str]:
    """The fields of the recipe that have no option of their own."""
    from hermes.recipe import Recipe, flatten_recipe
    from hermes.training.run_yaml import EDITS, format_scalar

    given, fields = collect_recipe_fields(options), flatten_recipe(Recipe())
    yield "set:"
    for key in EDITS:
        # A resumed run takes its checkpoint's, which is not opened for this.
        source = "set" if key in given else "the run's" if options.is_resumed else "default"
        if key in given or not options.is_resumed:
            line = f"  {key}: {format_scalar(given.get(key, fields[key]))}"
            yield f"{line.ljust(WIDTH)} # {source}"
    for key, value in (options.earlier_edits | options.edits).items():
        if key not in EDITS:
            yield f"{f'  {key}: {value}'.ljust(WIDTH)} # set"
