"""Covering arrays: few rows in which every two values of any two factors occur together.

Most faults of software with many switches need one or two of them set (Kuhn, Wallace and Gallo
2004, "Software fault interactions"), so rows that cover all pairs find what the full product would
at a thousandth of the price.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

Row = dict[str, str]
Predicate = Callable[[Row], bool]
Item = tuple[str, str]  # factor, value


def make_covering_array(
    factors: Mapping[str, Sequence[str]], is_allowed: Predicate = lambda row: True
) -> list[Row]:
    """Rows in which every allowed pair of values occurs; the same rows in the same order each time.

    is_allowed(row): whether a row, perhaps without some of its factors yet, can be completed.
    Greedy: each row starts from the first pair that is still missing and takes, factor by factor,
    the value that adds the most missing pairs; of equal ones, the value used least so far.
    """
    names = list(factors)
    missing = {
        ((a, x), (b, y)): None
        for a, b in combinations(names, 2)
        for x in factors[a]
        for y in factors[b]
        if is_allowed({a: x, b: y})
    }
    uses = {(name, value): 0 for name in names for value in factors[name]}

    def count_new_pairs(row: Row, item: Item) -> int:
        position = names.index(item[0])
        pairs = (
            (item, other) if position < names.index(other[0]) else (other, item)
            for other in row.items()
        )
        return sum(pair in missing for pair in pairs)

    rows = []
    while missing:
        row = dict(next(iter(missing)))
        for name in sorted(names, key=lambda name: (-len(factors[name]), names.index(name))):
            if name not in row:
                values = [value for value in factors[name] if is_allowed({**row, name: value})]
                gains = {v: (count_new_pairs(row, (name, v)), -uses[name, v]) for v in values}
                row[name] = max(values, key=gains.__getitem__)
        rows.append({name: row[name] for name in names})
        for pair in combinations(rows[-1].items(), 2):
            missing.pop(pair, None)
        for item in rows[-1].items():
            uses[item] += 1
    return rows
