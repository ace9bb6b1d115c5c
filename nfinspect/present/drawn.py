"""Parts of charts in matplotlib, which this module does not import: it gets the axes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nfinspect.present import style
from nfinspect.present.charts import Chart, Draw, Table
from nfinspect.present.plots import Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DEPTH = "depth (0 first layer, 1 last layer)"


def draw_points(axes: "Axes", layers: Sequence[int], series: Sequence[Series]) -> None:
    """The points of present.plots.LayerPoints, over the numbers of the layers."""
    for one in series:
        places = [layers[round(x)] + x - round(x) for x in one.across]
        axes.scatter(places, one.up, s=34, label=one.name, **style.points(one.kind, filled=one.filled))
    style.layer_axis(axes, list(layers))


def over_depth(column: str, name: str) -> Draw:
    """A line for each run over the depth of its network, of shares in %."""

    def draw(figure: "Figure", chart: Chart) -> None:
        overlay(figure.subplots(), chart.table, column, name, whole=False)
        common_legend(figure)

    return draw


def overlay(axes: "Axes", table: Table, column: str, name: str, *, whole: bool = True) -> None:
    """A line for each run of a table of RUN_COLUMNS. whole: the column holds counts, else shares in %."""
    for i, run in enumerate(dict.fromkeys(table.column("run"))):
        rows = table.where("run", run)
        axes.plot(rows.column("depth"), rows.column(column), label=style.label(run), **style.line(i))
    axes.set_xlabel(DEPTH)
    axes.set_xlim(-0.04, 1.04)
    if whole:
        style.counted(axes, name)
    else:
        style.from_zero(axes, name)
    if not any(table.column(column)):
        axes.text(0.5, 0.5, "none in any run", transform=axes.transAxes, ha="center")


def common_legend(figure: "Figure") -> None:
    """The first panel's legend, below all panels."""
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(4, len(names)), fontsize=9, handlelength=3.5)
