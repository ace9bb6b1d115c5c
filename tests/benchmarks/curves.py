"""Curves of time above, of memory below, drawn for docs/benchmarks.md. Text stays text, which keeps the file small."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Column:
    """Two charts over one axis. over, under: by the line's name, a figure for each place in `at`."""

    axis: str
    at: Sequence[int]
    over: Mapping[str, Sequence[float]]
    under: Mapping[str, Sequence[float]]
    over_label: str = ""
    under_label: str = ""


def draw(columns: Sequence[Column], path: Path) -> None:
    """Draw them side by side as SVG, from zero. Several lines in a chart get a legend."""
    import matplotlib
    from matplotlib.ticker import EngFormatter, MaxNLocator

    from nfinspect.present.style import blank, line

    look = {"svg.fonttype": "none", "svg.hashsalt": "growth", "font.family": "DejaVu Sans", "font.size": 8}
    with matplotlib.rc_context(look):
        whole = blank((2.4 * len(columns), 4.4))
        grid = whole.subplots(2, len(columns), squeeze=False)
        for pair, column in zip(grid.T, columns, strict=True):
            for axes, lines, label in zip(
                pair, (column.over, column.under), (column.over_label, column.under_label), strict=True
            ):
                for number, (name, found) in enumerate(lines.items()):
                    axes.plot(column.at, found, label=name, **line(number))
                axes.set_xlim(0, 1.05 * column.at[-1])
                axes.set_ylim(0, 1.1 * max(max(found) for found in lines.values()))
                axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
                axes.xaxis.set_major_formatter(EngFormatter(sep=""))
                axes.yaxis.set_major_locator(MaxNLocator(5))
                axes.set_ylabel(label)
                if len(lines) > 1:
                    axes.legend(frameon=False)
            pair[1].set_xlabel(column.axis)
        whole.savefig(path, format="svg", metadata={"Date": None})
