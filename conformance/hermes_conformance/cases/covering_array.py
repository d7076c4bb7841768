"""Covering arrays: few rows in which every two values of any two factors meet.

Most faults of software with many switches need one or two of them set (Kuhn, Wallace and Gallo
2004, "Software fault interactions"), so rows that cover all pairs find what the full product would
at a thousandth of the price.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

Row = dict[str, str]


def cover(
    factors: Mapping[str, Sequence[str]], allowed: Callable[[Row], bool] = lambda row: True
) -> list[Row]:
    """Rows in which every allowed pair of values meets; always the same rows, in the same order.

    allowed(row): whether a row, perhaps with some factors still open, can be completed. Greedy:
    each row starts from the first pair that is still missing and takes, factor by factor, the value
    that adds most missing pairs; ties go to the value used least.
    """
    names = list(factors)
    missing = {
        ((a, x), (b, y)): None
        for a, b in combinations(names, 2)
        for x in factors[a]
        for y in factors[b]
        if allowed({a: x, b: y})
    }
    used = {(name, value): 0 for name in names for value in factors[name]}
    rows = []
    while missing:
        row = dict(next(iter(missing)))
        for name in sorted(names, key=lambda name: (-len(factors[name]), names.index(name))):
            if name not in row:
                row[name] = _best(name, factors[name], row, missing, used, names, allowed)
        rows.append({name: row[name] for name in names})
        for pair in combinations(rows[-1].items(), 2):
            missing.pop(pair, None)
        for item in rows[-1].items():
            used[item] += 1
    return rows


def _best(name, values, row, missing, used, names, allowed):
    def gain(value):
        place = names.index(name)
        pairs = (
            ((name, value), item) if place < names.index(item[0]) else (item, (name, value))
            for item in row.items()
        )
        return sum(pair in missing for pair in pairs)

    open_values = [value for value in values if allowed({**row, name: value})]
    return max(open_values, key=lambda value: (gain(value), -used[name, value]))
