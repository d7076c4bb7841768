"""`hermes models`: list the bundled models and their sizes."""

from hermes import mal
from hermes_cli.display.printing import print_json, print_lines
from hermes_cli.options.declarations import declare_command


@declare_command("models")
def models(as_json: bool) -> None:
    """List the bundled models and their sizes.

    Each name is one for --model; `hermes mal format NAME` prints its architecture.
    """
    from hermes.formatting import format_columns, format_with_unit
    from hermes.numerics.params import count_parameters

    specs = {name: mal.load(name) for name in mal.list_bundled()}
    facts = {
        name: {
            "parameters": count_parameters(spec),
            "num_layers": spec.num_layers,
            "hidden_size": spec.hidden_size,
            "max_seq_len": spec.max_seq_len,
            "vocab_size": spec.vocab_size,
            "description": spec.description,
        }
        for name, spec in sorted(specs.items(), key=lambda item: count_parameters(item[1]))
    }
    if as_json:
        print_json(facts)
        return
    rows: list[tuple[str, ...]] = [
        ("model", "parameters", "layers", "hidden", "context", "vocabulary")
    ]
    for name, one in facts.items():
        size = format_with_unit(count_parameters(specs[name]), "")
        sizes = [f"{one[key]:,}" for key in ("num_layers", "hidden_size", "max_seq_len")]
        rows.append((name, size.rstrip(), *sizes, f"{one['vocab_size']:,}"))
    print_lines(format_columns(rows, right=(1, 2, 3, 4, 5)))
