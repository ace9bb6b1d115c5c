"""The analyzer's report as a figure: scores, classes, activation rate and values by layer."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nfinspect.analysis.classes import FAULTS
from nfinspect.present.numbers import fixed
from nfinspect.present.style import require_matplotlib
from nfinspect.training.reports import NetworkFiringReport, NeuralLayerAnalysis
from nfinspect_store.atomic import replaced

COLOURS = {"dead": "#222222", "saturated": "#c0392b", "sporadic": "#8e44ad", "missing": "#e67e22", "weak": "#f1c40f"}
HATCHES = {"dead": "", "saturated": "///", "sporadic": "...", "missing": "\\\\\\", "weak": "xxx"}
"""The classes must be distinguishable without colour."""

NORMAL = "#7fb58a"
INCHES = (11.0, 7.5)
DOTS = 120  # per inch
TITLE_LETTERS = 130  # per line of the title, which is as wide as the figure


def draw_report(report: NetworkFiringReport, path: Path) -> Path:
    """Write the figure, which appears once it is complete. Raises NotInstalled without matplotlib, StorageFull."""
    require_matplotlib()
    from matplotlib.figure import Figure  # not pyplot, which would choose a backend for the whole process

    layers = report.layer_analyses
    places = range(len(layers))
    figure: Any = Figure(figsize=INCHES, dpi=DOTS, layout="constrained")
    (scores, classes), (rates, values) = figure.subplots(2, 2)
    title = f"Health {fixed(report.overall_health_score)}: {report.summary}"
    figure.suptitle(textwrap.fill(title, TITLE_LETTERS), fontsize=9)
    scores.bar(places, [layer.health_score for layer in layers], color=NORMAL)
    scores.set(title="Health score", ylim=(0, 1.02))
    _draw_classes(classes, layers)
    rates.bar(places, [layer.activation_rate for layer in layers], color="#4a7fb0")
    rates.set(title="Activation rate: share of (token, neuron) pairs that fire", ylim=(0, 1.02))
    _draw_values(values, layers)
    for axes in (scores, classes, rates, values):
        axes.set_xlabel("layer")
        axes.locator_params(axis="x", integer=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lstrip(".") or "png")
    return path


def _draw_classes(axes: Any, layers: Sequence[NeuralLayerAnalysis]) -> None:
    """Faulty neurons, stacked by class."""
    below = [0.0] * len(layers)
    for name in FAULTS:
        shares = [getattr(layer, f"{name}_neurons") / layer.neurons for layer in layers]
        look = {"color": COLOURS[name], "hatch": HATCHES[name], "edgecolor": "white", "linewidth": 0.3}
        axes.bar(range(len(layers)), shares, bottom=below, label=name, **look)
        below = [low + share for low, share in zip(below, shares, strict=True)]
    axes.set(title="Share of neurons by class", ylim=(0, max(0.05, *below) * 1.05))
    axes.legend(fontsize=7, ncols=3)


def _draw_values(axes: Any, layers: Sequence[NeuralLayerAnalysis]) -> None:
    """Percentiles of the values, layer by layer."""
    found = [(i, layer.activation_distribution["percentiles"]) for i, layer in enumerate(layers)]
    places = [i for i, _ in found]

    def line(percent: str) -> list[float]:
        return [percentiles[percent] for _, percentiles in found]

    for low, high, shade in (("1", "99", 0.15), ("5", "95", 0.25), ("25", "75", 0.4)):
        axes.fill_between(places, line(low), line(high), alpha=shade, color="#4a7fb0", label=f"{low}-{high} %", lw=0)
    axes.plot(places, line("50"), color="#1b3a57", label="median")
    axes.set(title="Values")
    axes.legend(fontsize=7)
