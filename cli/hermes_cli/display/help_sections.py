"""Definition lists under headings, as --help shows commands and options."""

from collections.abc import Mapping, Sequence

import click

__all__ = ["NO_BREAK", "WIDEST_HELP", "Row", "SectionedGroup", "strip_period", "write_sections"]

WIDEST_HELP = 100  # columns
WIDEST_TERM = 30
# Stands for a space at which a line must not be broken.
NO_BREAK = "\xa0"

# A term and its description.
Row = tuple[str, str]


def write_sections(formatter: click.HelpFormatter, sections: Mapping[str, Sequence[Row]]) -> None:
    """Write definition lists under headings, all descriptions in one column."""
    terms = [term for rows in sections.values() for term, _ in rows]
    column = max((len(term) for term in terms if len(term) <= WIDEST_TERM), default=0)
    for heading, rows in sections.items():
        with formatter.section(heading):
            # write_dl aligns one list; padded terms make it the same column in all of them.
            formatter.write_dl([(f"{term:<{column}}", text) for term, text in rows], col_max=column)
    formatter.buffer = [text.replace(NO_BREAK, " ") for text in formatter.buffer]


def strip_period(row: Row) -> Row:
    """The row without the period that click puts behind its own descriptions."""
    return row[0], row[1].rstrip(".")


class SectionedGroup(click.Group):
    """A group of commands whose --help shows the commands under headings."""

    def list_sections(self, ctx: click.Context) -> Mapping[str, Sequence[Row]]:
        """Each heading's commands with what they do."""
        found = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        rows = [(name, one.get_short_help_str()) for name, one in found.items() if one]
        return {"Commands": rows}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, then the options."""
        records = [param.get_help_record(ctx) for param in self.get_params(ctx)]
        options = [strip_period(record) for record in records if record]
        write_sections(formatter, {**self.list_sections(ctx), "Options": options})
