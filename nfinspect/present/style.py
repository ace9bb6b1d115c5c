"""How figures look: greys only, so that nothing depends on a hue; what differs has its own hatch, line or marker.

matplotlib is imported here, when a figure is drawn and not before. No pyplot: nothing global is changed.
"""

import textwrap
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nfinspect.text import visible
from nfinspect_store.errors import NotInstalled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 120
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "+++", "oo", "---", "|||", "**")
FILLS = ("0.25", "0.95", "0.75", "0.9", "0.6", "0.98", "0.8", "0.88", "0.7", "1.0")
PLAIN = {"facecolor": "1.0", "edgecolor": "black", "linewidth": 0.6}
"""The look of bars of normal neurons."""

LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
MOST_LINES = len(LINES) * len(MARKERS) // 2
"""Lines that can be told apart: after so many the pairs of line and marker repeat."""

MOST_TICKS = 16
"""Layers up to which each is named on an axis."""

LETTERS_AN_INCH = 11
"""Letters of a title; a few more would fit, as letters of 11 points are 0.08 inches wide on average."""

LONGEST_LINE = 1000
"""Characters of a line of the title, escapes included."""

LONGEST = 28
"""Characters of a label."""


def require_matplotlib() -> None:
    """Raises NotInstalled where figures cannot be drawn."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise NotInstalled(
            f"figures need matplotlib, which cannot be imported ({error}): pip install 'nfinspect[figures]'"
        ) from error


def blank(inches: tuple[float, float]) -> "Figure":
    """An empty figure without a window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: "Figure", path: Path) -> None:
    """Write a PNG: the same figure gives the same bytes."""
    figure.savefig(path, format="png", dpi=DPI, metadata={"Software": None})


def bars(i: int) -> dict[str, Any]:
    """The look of the i-th series of bars."""
    return {
        "facecolor": FILLS[i % len(FILLS)],
        "edgecolor": "black",
        "hatch": HATCHES[i % len(HATCHES)],
        "linewidth": 0.6,
    }


def line(i: int) -> dict[str, Any]:
    """The look of the i-th line."""
    return {
        "color": "0.1" if i % 2 == 0 else "0.45",
        "linestyle": LINES[i % len(LINES)],
        "marker": MARKERS[i % len(MARKERS)],
        "markersize": 6,
        "markerfacecolor": "white" if i % 2 else "0.1",
        "clip_on": False,  # markers on the edge of the axes are whole
        "zorder": 3,
        "linewidth": 1.5,
    }


def points(i: int, *, filled: bool = True) -> dict[str, Any]:
    """The look of the i-th kind of points of a scatter plot."""
    return {
        "marker": MARKERS[i % len(MARKERS)],
        "facecolors": "0.15" if filled else "none",
        "edgecolors": "0.15",
        "linewidths": 0.9,
    }


def threshold(axes: "Axes", at: float, name: str, *, upright: bool = False) -> None:
    """A thin line at a threshold, with its name in the legend."""
    draw = axes.axvline if upright else axes.axhline
    draw(at, color="0.4", linewidth=1, linestyle=(0, (1, 2)), label=name)


def titled(figure: "Figure", title: str, n: str) -> None:
    """The figure's title with what was counted below it, broken to the figure's width."""
    lines = [label(line, LONGEST_LINE) for text in (title, n) for line in _broken(text, figure)]
    figure.suptitle("\n".join(lines), fontsize=11)


def _broken(text: str, figure: "Figure") -> list[str]:
    return textwrap.wrap(visible(text), int(LETTERS_AN_INCH * figure.get_figwidth()), break_on_hyphens=False)


def layer_axis(axes: "Axes", layers: list[int], name: str = "layer") -> None:
    """Layers from left to right, on whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(name)
    if len(layers) <= MOST_TICKS:
        axes.set_xticks(layers)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=MOST_TICKS))
    if layers:
        axes.set_xlim(min(layers) - 0.6, max(layers) + 0.6)


def counted(axes: "Axes", name: str) -> None:
    """An axis of counts, from 0 to 1 or more, on whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.set_ylabel(name)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(0, max(1.0, axes.get_ylim()[1]))


def from_zero(axes: "Axes", name: str) -> None:
    """An axis of shares in %, from 0 to 1 or more."""
    axes.set_ylabel(name)
    axes.set_ylim(0, max(1.0, axes.get_ylim()[1]))


def label(text: str, longest: int = LONGEST) -> str:
    """Text as a figure can show it: on one line, not read as mathematics, in characters that the font has."""
    shown = "".join(c if c == " " or ord(c) in _glyphs() else _escape(c) for c in visible(text))
    if len(shown) > longest:
        shown = shown[: longest - 1] + "…"
    return shown.replace("$", r"\$")


def _escape(character: str) -> str:
    return f"\\u{ord(character):04x}"


@cache
def _glyphs() -> frozenset[int]:
    """What the font of the figures can draw."""
    from matplotlib import font_manager

    return frozenset(font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap())
