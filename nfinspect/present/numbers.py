"""How numbers and tokens are written for people: the same in the app, the commands and the reports.

JSON and CSV hold the values themselves. signs: what is written for an undefined value, never 0.
"""

import math
import re
from dataclasses import dataclass
from typing import Protocol


class Signs(Protocol):
    @property
    def none(self) -> str: ...


@dataclass(frozen=True)
class Plain:
    none: str = "-"


PLAIN = Plain()


def number(value: float | None, signs: Signs = PLAIN, digits: int = 4, room: int = 99) -> str:
    """Whole numbers in full, others to significant digits: 1,172, 0.01235, 1.235e-5. room: characters of a narrow
    column, to which digits are cut.
    """
    if isinstance(value, int):
        return f"{value:,}"
    if value is None or not math.isfinite(value):
        return signs.none
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    power = int(exponent)
    plain = power >= -3 and abs(value) < 10**6
    text = f"{value:,.{max(0, digits - 1 - power)}f}" if plain else f"{mantissa}e{power}"
    return text if len(text) <= room or digits == 1 else number(value, signs, digits - 1, room)


def signed(value: float | None, signs: Signs = PLAIN, digits: int = 4) -> str:
    """A change: `number` with its sign, a + too."""
    return ("+" if value is not None and value > 0 else "") + number(value, signs, digits)


def fixed(value: float | None, signs: Signs = PLAIN, places: int = 3) -> str:
    """A figure on a scale of its own (a score, an index, a correlation), to so many decimal places."""
    return signs.none if value is None or not math.isfinite(value) else f"{value:,.{places}f}"


def percent(share: float | None, signs: Signs = PLAIN, places: int | None = None) -> str:
    """A share in 0..1 as a percentage of at most six characters; places: decimal ones, by default two below 10 %, else
    one.
    """
    if share is None or not math.isfinite(share):
        return signs.none
    scaled = 100 * share
    if places is None:
        if 0 < scaled < 0.01:
            return "<.01%"
        places = 2 if scaled < 10 else 1
    return f"{scaled:.{places}f}%"


def count(value: int | None, signs: Signs = PLAIN) -> str:
    """A whole number in at most six characters, for narrow columns: 1,811, 12.3k, 4.5M."""
    if value is None:
        return signs.none
    if value < 10_000:
        return f"{value:,}"
    for unit, size in (("k", 10**3), ("M", 10**6), ("G", 10**9), ("T", 10**12)):
        if value < 1000 * size:
            scaled = value / size
            return f"{scaled:.0f}{unit}" if scaled >= 100 else f"{scaled:.1f}{unit}"
    return f"{value:.1e}"


def quoted(text: str | None, signs: Signs = PLAIN) -> str:
    """A token in quotes, so that its spaces are seen; None: the tokenizer has no token for the id."""
    return signs.none if text is None else f'"{text}"'


def counted(number: int, what: str) -> str:
    """`1 prompt`, `1,172 prompts`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


_BARE = re.compile(r"(?P<steps>steps? \d+(?: and \d+)?)|(?<![\w.,:/-])(?P<number>\d{4,})(?![\w,/-]|\.\d)")


def grouped(text: str) -> str:
    """A text of a document (JSON), whose numbers have no separators, for people: 3072 neurons becomes 3,072 neurons.
    Neurons (N3072), names and steps of a training stay.
    """
    return _BARE.sub(lambda found: found[0] if found["number"] is None else f"{int(found[0]):,}", text)


def changed_values(count: int) -> str:
    """What edits did to values, in a line."""
    if not count:
        return "no value was changed: on all tokens read, the edited neurons had these values already"
    return f"{counted(count, 'value')} changed on the tokens read"


def size(count: int | None, signs: Signs = PLAIN) -> str:
    """Bytes in decimal units, at most eight characters."""
    if count is None:
        return signs.none
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        del units[0]
    return f"{value:.0f} {units[0]}" if units[0] == "B" or value >= 100 else f"{value:.1f} {units[0]}"


def duration(seconds: float | None, signs: Signs = PLAIN) -> str:
    """<1 s, 12 s, 3 min 20 s, 1 h 05 min."""
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return signs.none
    whole = round(seconds)
    if whole == 0 < seconds:
        return "<1 s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
