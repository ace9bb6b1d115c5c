"""Every drawn character that is not plain ASCII comes from here, so that `--ascii` can replace all of
them at once.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Glyphs:
    """One set of drawing characters. `levels` and `shades` run from nothing to full."""

    levels: str
    shades: str
    eighths: str  # a horizontal bar's last cell, from one eighth to full
    crumb: str
    back: str  # there are columns to the left
    cursor: str
    cursor_away: str  # in a panel that does not have the keys
    mark: str
    more: str
    up: str
    down: str
    little: str  # more than nothing, but less than a filling or a bar can show
    none: str  # an undefined value
    dot: str
    opening: str  # around the token on which a neuron was read
    closing: str
    column: str

    @property
    def plain(self) -> bool:
        """Whether they are plain ASCII."""
        return self.crumb.isascii()


UNICODE = Glyphs(
    levels=" ▁▂▃▄▅▆▇█",
    shades=" ░▒▓█",
    eighths="▏▎▍▌▋▊▉█",
    crumb="›",
    back="‹",
    cursor="▌",
    cursor_away="▏",
    mark="●",
    more="…",
    up="▲",
    down="▼",
    little="·",
    none="–",
    dot="·",
    opening="⟦",
    closing="⟧",
    column="│",
)

ASCII = Glyphs(
    levels=" ._-=+*%#",
    shades=" :+*#",
    eighths="#",
    crumb=">",
    back="<",
    cursor=">",
    cursor_away=":",
    mark="*",
    more="~",
    up="^",
    down="v",
    little=".",
    none="-",
    dot=".",
    opening="[",
    closing="]",
    column="|",
)


def level(share: float, glyphs: Glyphs) -> str:
    """The block whose height shows `share` (0..1). Any share above 0 has at least the lowest block."""
    top = len(glyphs.levels) - 1
    if not share > 0:  # also NaN
        return glyphs.levels[0]
    return glyphs.levels[min(top, max(1, round(share * top)))]


def shade(share: float, glyphs: Glyphs) -> str:
    """The filling whose density is nearest to `share` (0..1); less than half of the lightest is a small mark."""
    top = len(glyphs.shades) - 1
    if not share > 0:
        return glyphs.shades[0]
    return glyphs.shades[min(top, round(share * top))] if share * top >= 0.5 else glyphs.little


def bar(share: float, width: int, glyphs: Glyphs) -> str:
    """A horizontal bar of at most `width` cells, exact to an eighth of a cell where the glyphs allow.

    A share above 0 that rounds to nothing is a small mark that does not look like a bar.
    """
    if not share > 0 or width <= 0:
        return ""
    parts = len(glyphs.eighths)
    filled = min(width * parts, math.floor(share * width * parts + 0.5))
    whole, rest = divmod(filled, parts)
    return glyphs.eighths[-1] * whole + (glyphs.eighths[rest - 1] if rest else "") or glyphs.little
