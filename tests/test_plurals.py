"""A message says 1 row and 2 rows: counts are put before their nouns by `format_count`."""

import ast
import re

from tests.packages import PACKAGES, ROOT

FILES = [path for folder in PACKAGES.values() for path in sorted(folder.rglob("*.py"))]
# Names of checks stand in certificates and are compared by them.
FILES = [path for path in FILES if "laws" not in path.parts]

# Of all these there may be one. (Of parameters and tokens of a vocabulary there are always more.)
NOUNS = {
    *("cases", "checkpoints", "checks", "conversations", "documents", "epochs"),
    *("examples", "fields", "files", "generations", "heads", "layers", "lines", "machines"),
    *("matrices", "messages", "nodes", "numbers", "ones", "pairs", "processes", "prompts"),
    *("records", "requests", "rows", "runs", "samples", "sequences", "shards", "sources"),
    *("steps", "tensors", "texts", "times", "turns", "warnings"),
}
NOUN = re.compile(
    r" (?:(?!has |starts |changes |multiplies )[a-z-]+ )?([a-z]*-?[a-z]+s)\b(?![/'(])"
)

# The code around these sees to it that there are several.
SEVERAL = {
    ("hermes/data/prepared/verifying.py", "len(each)"),
    ("hermes/distributed/beat_channel.py", "size"),
    ("hermes/finetuning/dpo.py", "size"),
    ("hermes/model_info/run_plan.py", "plan.processes"),
    ("hermes/serving/body.py", "len(texts)"),
    ("hermes/tokenizer/growth.py", "times"),
    ("hermes/training/batch_split.py", "now"),
    ("hermes/training/batch_split.py", "world_size"),
    ("hermes/training/nonfinite.py", "in_row"),
    ("hermes/training/rollback.py", "self.in_row"),
    ("hermes/training/schedule.py", "math.ceil(taken / size)"),
    ("hermes/training/setup.py", "total"),
    ("cli/hermes_cli/display/run_summary.py", "size"),
    ("cli/hermes_cli/display/run_summary.py", "total"),
    ("cli/hermes_cli/launch/launcher.py", "rank_info.world_size"),
    ("backends/hermes_torch/sharding.py", "size"),
}


def find_counts(text):
    """The numbers of f-strings that stand before a plural, as (line, expression, noun)."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.JoinedStr):
            continue
        for value, after in zip(node.values, node.values[1:], strict=False):
            if not (isinstance(value, ast.FormattedValue) and isinstance(after, ast.Constant)):
                continue
            found = NOUN.match(after.value)
            shown = "" if value.format_spec is None else ast.unparse(value.format_spec)[2:-1]
            name = ast.unparse(value.value)
            is_count = value.conversion == -1 and shown in ("", ",") and not name.isupper()
            if found and found[1].rpartition("-")[2] in NOUNS and is_count:
                yield value.lineno, name, found[1]


def test_a_plural_after_a_number_is_found():
    assert [*find_counts("f'{len(x)} new-found rows'")] == [(1, "len(x)", "rows")]
    several = "(f'{n:,} '\nf'rows')", "f'{n} bad records'", "f'{self.heads} heads of {size}'"
    assert [len([*find_counts(text)]) for text in several] == [1, 1, 1]
    other = "f'{x:.2f} epochs'", "f'{LIMIT} rows'", "f'{name!r} files'", "f'{n} rows/s'"
    assert [[*find_counts(text)] for text in (*other, "f'{n} of 3 rows'")] == [[]] * 5


def test_a_count_is_put_before_its_noun_by_format_count():
    for path in FILES:
        file, text = str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
        for line, name, noun in find_counts(text):
            right = (file, name) in SEVERAL or "format_count" in name
            assert right, f"{file}:{line}: write format_count({name}, {noun!r})"


def test_where_there_are_several_is_still_there():
    counts = {
        (file, name) for file, _ in SEVERAL for _, name, _ in find_counts((ROOT / file).read_text())
    }
    assert SEVERAL - counts == set()
