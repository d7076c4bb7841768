"""`--print-config`: every resolved option with its value, and what set it."""

from collections.abc import Iterator
from pathlib import Path

from hermes.options import OPTIONS
from hermes_cli.options.resolve import RECIPE_FIELDS, ResolvedOptions, collect_recipe_fields

__all__ = ["render_config"]

# Those that ask for this, or whose content stands in the others.
LEFT_OUT = ("print_config", "config", "set")
WIDTH = 36  # columns before the comments, where values are short


def render_config(options: ResolvedOptions) -> str:
    """Every option as YAML that --config reads, each with what set it: default, file:line, or flag.

    Raises HermesError for what cannot be set.
    """
    lines, given, here = [], collect_recipe_fields(options), _find_values_here(options)
    edited = {RECIPE_FIELDS.get(key, key) for key in options.edits}
    for name, value in options.values.items():
        if name in LEFT_OUT:
            continue
        source = options.sources[name]
        if (field := RECIPE_FIELDS.get(name)) in edited:
            value, source = given[field], "set"
        lines.append(_render_line(name, value, _find_place(source, name), here.get(name)))
    lines += _render_edits(options)
    return "\n".join(lines)


def _find_values_here(options: ResolvedOptions) -> dict[str, object]:
    """What options that are left to hermes come to on this machine, as far as known beforehand.

    They stay as they are in the output, which another machine may read.
    """
    from hermes import mal
    from hermes.interface import detect_default_backend
    from hermes.interop.architecture import read_architecture
    from hermes.training.recording import choose_log_every
    from hermes.training.setup import choose_seq_len

    here: dict[str, object] = {}
    if options.values.get("backend") == "auto":
        here["backend"] = detect_default_backend()
    if options["max_steps"] and options["log_every"] is None:
        here["log_every"] = choose_log_every(options["max_steps"])
    model = options.values.get("model")
    known = options.is_resumed or options.values.get("cooldown_from")
    if model and not known and not options.values.get("checkpoint"):
        spec = mal.edit_all(read_architecture(model), options.list_model_edits())
        here["seq_len"] = choose_seq_len(spec)
    return here


def _render_line(name: str, value: object, source: str, here: object = None) -> str:
    from hermes.training.run_yaml import format_scalar

    text = f"{name}: {format_scalar(value)}"
    default = OPTIONS[name].default_text if name in OPTIONS else ""
    more = f": {default}" if value is None and default else ""
    own = "" if here is None or source != "default" else f"; here {here}"
    return f"{text.ljust(WIDTH)} # {source}{more}{own}"


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
    shown = {key for key in options.edits if RECIPE_FIELDS.get(key, key) in RECIPE_FIELDS.values()}
    for key, value in (options.earlier_edits | options.edits).items():
        if key not in EDITS and key not in shown:
            yield f"{f'  {key}: {value}'.ljust(WIDTH)} # set"
