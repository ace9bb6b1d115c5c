"""Lines over steps by plotext, as plain lines of text. A line is told by its mark, never by colour.

Called in workers only, like `chart`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from nfinspect.tui.widgets.chart import FIGURE, TO_ASCII

MOST_LINES = 5
"""Lines in one chart: with more of them none can be followed."""


@dataclass(frozen=True)
class Line:
    """Values over steps; None where undefined. mark: one character."""

    name: str
    mark: str
    values: tuple[float | None, ...]


def line_chart(
    steps: Sequence[int], lines: Sequence[Line], title: str, width: int, height: int, plain: bool = False
) -> tuple[str, ...]:
    """Shares from 0 to 1 as `height` lines of at most `width` cells. The first of them is the title with the marks."""
    key = "  ".join(f"{line.mark} {line.name}" for line in lines)
    head = f"{title}   {key}"[:width]
    if width < 20 or height < 5:
        return (head, "too little room")
    chosen = _thinned(len(steps), 2 * width)
    import plotext

    with FIGURE:
        figure = plotext.figure
        figure.clear()
        figure.theme("colorless")
        figure.plot_size(width, height - 1)
        for line in lines:
            points = [(steps[i], value) for i in chosen if (value := line.values[i]) is not None]
            if points:
                figure.draw(figure.signal([x for x, _ in points], [y for _, y in points], marker=line.mark))
        low, high = steps[0], max(steps[-1], steps[0] + 1)
        figure.ruler("x").lim(low, high)
        marks = sorted({low, (low + high) // 2, high})
        figure.ruler("x").ticks(marks, [str(mark) for mark in marks])
        figure.ruler("y").lim(0, 1)
        figure.ruler("y").ticks([0, 0.5, 1], ["0", "0.5", "1"])
        text = figure.build().string(True)
        figure.clear()
    drawn = text.split("\n")[: height - 1]
    return (head, *(row.translate(TO_ASCII) if plain else row for row in drawn))


def _thinned(count: int, most: int) -> list[int]:
    """At most so many places of a list, evenly spread, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


def evenly(count: int) -> list[int]:
    """The layers that are drawn: all, or MOST_LINES of them from the first to the last."""
    return _thinned(count, MOST_LINES)
