"""What a column of a table holds: how often each value occurs, and its figures. For workers, on rows in memory."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from nfinspect.tui.glyphs import Glyphs
    from nfinspect.tui.widgets.paged_table import Column

FEW = 24
"""So many different numbers are listed each; more are put into BINS bins of equal width [own]."""

BINS = 20
UNITS = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
"""Of a count in a narrow column."""

WHOLE = 1000
"""Cells in which a column of a table is read."""

MOST = 1000
"""Different words that are listed, the most frequent first; the others are one line."""


@dataclass(frozen=True)
class Sheet:
    """The table of a pane, for the sheets. columns: key and title of each; rows: called in a worker; value: of a row in
    a column, None where undefined; here: the column that the rows are sorted by; choose: shows the rows that pass a
    filter, where the table has filters.
    """

    of: str
    columns: Sequence[tuple[str, str]]
    rows: Callable[[], Sequence[Any]]
    value: Callable[[Any, str], Any]
    here: str = ""
    choose: Callable[[str], None] | None = None


@dataclass(frozen=True)
class Share:
    """One value of a column, or a bin from `low` to `high` (high belongs to the next bin, but in the last one).

    value: the number that `label` writes. condition: the filter that these rows pass; empty for what is undefined, and
    for the words that are not listed.
    """

    label: str
    count: int
    share: float
    condition: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Described:
    """The figures of a column. std: with n in the denominator. commonest: the most frequent value, and how often it
    occurs. Figures are None for words; value: the number that `commonest` writes.
    """

    column: str
    rows: int
    undefined: int
    different: int
    commonest: str
    times: int
    mean: float | None = None
    std: float | None = None
    quantiles: tuple[float, ...] | None = None  # minimum, 25 %, median, 75 %, maximum
    value: float | None = None


def values_of(rows: Sequence[Any], key: str, value: Callable[[Any, str], Any]) -> tuple[list[Any], int]:
    """The defined values of a column, and how many are not."""
    found = [value(row, key) for row in rows]
    known = [x for x in found if not (x is None or (isinstance(x, float) and math.isnan(x)))]
    return [x if isinstance(x, Hashable) else repr(x) for x in known], len(found) - len(known)


def numbers(values: Sequence[Any]) -> NDArray[np.float64] | None:
    """Values as numbers; None if one is none, or yes or no, or infinite."""
    if not values or any(isinstance(x, bool | np.bool_) or not isinstance(x, int | float | np.number) for x in values):
        return None
    found = np.asarray(values, dtype=np.float64)
    return found if np.isfinite(found).all() else None


def frequencies(rows: Sequence[Any], key: str, value: Callable[[Any, str], Any]) -> tuple[Share, ...]:
    """How often each value of a column occurs. Few numbers and bins are in order, words by how often they occur."""
    known, undefined = values_of(rows, key, value)
    total = len(known) + undefined
    column = numbers(known)
    shares: list[Share] = []
    if column is not None and len(np.unique(column)) > FEW:
        counts, edges = np.histogram(column, bins=BINS)
        for place, count in enumerate(counts.tolist()):
            low, high = float(edges[place]), float(edges[place + 1])
            sign = "<=" if place == BINS - 1 else "<"
            shares.append(Share("", count, count / total, f"{key}>={low!r} and {key}{sign}{high!r}", None, low, high))
    else:
        counted = Counter(known)
        in_turn = sorted(counted.items()) if column is not None else counted.most_common()
        for word, count in in_turn[:MOST]:
            told = None if column is None else float(word)
            shares.append(Share(_word(word), count, count / total, f"{key}={_word(word)}", told))
        if rest := sum(count for _, count in in_turn[MOST:]):
            shares.append(Share(f"{len(in_turn) - MOST:,} others", rest, rest / total))
    if undefined:
        shares.append(Share("undefined", undefined, undefined / total))
    return tuple(shares)


def described(rows: Sequence[Any], key: str, title: str, value: Callable[[Any, str], Any]) -> Described:
    """The figures of one column."""
    known, undefined = values_of(rows, key, value)
    counted = Counter(known)
    commonest, times = counted.most_common(1)[0] if counted else ("", 0)
    column = numbers(known)
    about = (title, len(known) + undefined, undefined, len(counted), _word(commonest), times)
    if column is None:
        return Described(*about)
    quantiles = tuple(float(x) for x in np.quantile(column, (0, 0.25, 0.5, 0.75, 1)))
    std = float(column.std()) if quantiles[0] < quantiles[-1] else 0.0  # rounding would leave 1e-19 of one value
    return Described(*about, float(column.mean()), std, quantiles, float(commonest))


def titled(columns: Sequence[Column]) -> list[tuple[str, str]]:
    """Key and title of the columns that have a key. A column of addresses is one of layers: by them it is sorted."""
    return [(one.key, "layer" if one.key == "layer" else one.title) for one in columns if one.key]


def drawn(of: str, columns: Sequence[Column], rows: Sequence[Any], g: Glyphs) -> Sheet | None:
    """The sheet of a table as it is drawn: its texts, and numbers where they are some, with the digits that are shown.
    None without a column.
    """
    named = {column.title: column for column in columns if column.title}

    def value(row: Any, title: str) -> Any:
        text = named[title].cell(row, WHOLE).text.strip()
        number = text.replace(",", "").removesuffix("%").strip()
        if not text or text == g.none:
            return None
        if text == g.dot:
            return 0
        times = UNITS.get(number[-1:], 1)
        try:
            return float(number.rstrip("kMGT")) * times if times > 1 or set(number) & {".", "e"} else int(number)
        except ValueError:
            return text

    return Sheet(of, [(title, title) for title in named], lambda: rows, value) if named else None


def people(value: float) -> str:
    """A number of a column for people: 1,811, 0.5, 0.01435671."""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 10**15 else f"{value:.7g}"


def _word(value: object) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return repr(float(value)) if float(value) % 1 else str(int(value))
    return str(value)
