"""Where in a statement DuckDB says that an error is."""

import re
import unicodedata

_POINTED = re.compile(r"^LINE (\d+): (.*)\n( *)\^", re.MULTILINE)
CUT = "..."


def place_of(statement: str, told: str) -> int | None:
    """The character of `statement` that DuckDB's message points to; None if it points to none.

    DuckDB repeats the line, cut at its ends if it is long, and points to it by cells of a terminal.
    """
    pointed = _POINTED.search(told)
    if pointed is None:
        return None
    number, shown = int(pointed[1]), pointed[2]
    cells, at = len(pointed[3]) - len(f"LINE {number}: "), 0
    while at < len(shown) and cells > 0:
        cells -= _cells(shown[at])
        at += 1
    while at < len(shown) and not _cells(shown[at]):  # a mark on the letter before
        at += 1
    lines = statement.split("\n")
    if not 1 <= number <= len(lines):
        return None
    before = 0
    if shown.startswith(CUT):
        shown, at = shown[len(CUT) :], at - len(CUT)
        before = lines[number - 1].find(shown.removesuffix(CUT))
    if before < 0 or not lines[number - 1].startswith(shown.removesuffix(CUT), before):
        return None
    return sum(len(line) + 1 for line in lines[: number - 1]) + before + max(0, at)


def _cells(character: str) -> int:
    """Cells of a terminal that a character takes."""
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1
