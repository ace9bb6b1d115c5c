"""The page of the dying ReLU example: what the monitor said, how the network ended in each way, two figures."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nfinspect.analysis.history import Reading
from nfinspect.present.style import blank, line, require_matplotlib, save

if TYPE_CHECKING:
    from nfinspect_samples.dying_relu import Example

PAGE, NETWORK, LAYERS = "README.md", "network.png", "layers.png"
COMMAND = "make dying-example"


def write_page(example: "Example", out: Path) -> Path:
    """Write the page with its figures to a directory; returns its path. Raises NotInstalled without matplotlib."""
    require_matplotlib()
    out.mkdir(parents=True, exist_ok=True)
    _draw_network(example, out / NETWORK)
    _draw_layers(example, out / LAYERS)
    page = out / PAGE
    page.write_text("\n".join([*_told(example), *_outcome(example)]) + "\n", encoding="utf-8")
    return page


def _told(example: "Example") -> list[str]:
    """How it was caught."""
    from nfinspect_samples.dying_relu import BATCH, EVERY, LOWER, SAMPLES, TOO_HIGH, WINDOW

    caught = example.caught
    named = [(name, neuron) for name, neurons in caught.named.items() for neuron in neurons]
    right = sum(neuron in caught.dead[name] for name, neuron in named)
    return [
        "# Dying ReLU neurons, caught and healed",
        "",
        f"Made by `{COMMAND}` with torch {torch.__version__.partition('+')[0]}; every figure here comes from that run. "
        "The code is [samples/dying_relu.py](../../samples/dying_relu.py).",
        "",
        f"A network of three hidden layers of 64 ReLU neurons learns which of three spiral arms a point lies on "
        f"({SAMPLES} points, batches of {BATCH}), with Adam at a learning rate of {TOO_HIGH}, {TOO_HIGH / LOWER:.0f} "
        f"times the usual one. A `FiringMonitor` reads its neurons every {EVERY} steps; their classes rest on the last "
        f"{WINDOW} readings.",
        "",
        "## The alert",
        "",
        f"At step {caught.step} the monitor says:",
        "",
        *(f"> {alert}" for alert in caught.alerts),
        "",
        f"Of the {len(named)} neurons named, {right} are 0 on all {SAMPLES} points. "
        "The analyzer's report on all points:",
        "",
        f"> {caught.report.summary}",
        "",
        "What it recommends:",
        "",
        *(f"- {text}" for text in caught.report.recommendations),
        "",
    ]


def _outcome(example: "Example") -> list[str]:
    """What became of the network."""
    from nfinspect_samples.dying_relu import HEALED, LEAKY

    caught = example.caught
    healed = next(course for course in example.courses if course.way.name == HEALED)
    left = example.courses[0]
    leaky = next(course for course in example.courses if course.way.name == LEAKY)
    return [
        "## What became of it",
        "",
        f"From the state at step {caught.step} the training continues to step {caught.step + example.steps}, each time "
        "with the same batches and a new Adam: once unchanged, and in three ways that apply what is recommended for "
        "dead ReLU neurons.",
        "",
        *_table(example),
        "",
        f"Left alone, {_percent(left.dead_share)} of the hidden neurons are dead in the end and "
        f"{_percent(left.accuracy)} of new points are classified correctly (by chance: {_percent(1 / 3)}). With "
        f"{healed.way.words} these are {_percent(healed.dead_share)} and {_percent(healed.accuracy)}. A lower "
        "learning rate alone does little for a neuron that is 0 on every input: no gradient reaches its weights, and "
        "only changes in earlier layers can revive it. With LeakyReLU the loss begins at "
        f"{leaky.readings[0].loss:.0f} nats: it lets through a hundredth of what the high rate had driven far below "
        "0, and the training has to undo that.",
        "",
        "ReLU neurons count as dead if they are 0 on every training point, LeakyReLU neurons if they never reach 0.01. "
        "In the figures each reading covers only its last few batches.",
        "",
        f"![Dead share and loss of the network over the steps, in each way]({NETWORK})",
        "",
        f"![Dead share of each layer over the steps, in each way]({LAYERS})",
    ]


def _table(example: "Example") -> list[str]:
    """The layers' dead neurons, at the alert and at the end of each way."""
    from nfinspect_samples.dying_relu import SAMPLES, dead_share

    caught = example.caught
    layers = caught.report.layer_analyses
    columns = [
        "",
        "learning rate",
        *(f"dead of {layer.layer_name}'s {layer.neurons}" for layer in layers),
        f"dead of all {sum(layer.neurons for layer in layers)}",
        "health",
        f"accuracy on {SAMPLES} new points",
    ]
    rows = [
        (f"at the alert, step {caught.step}", "", caught.report, dead_share(caught.report), ""),
        *(
            (c.way.words, f"{c.way.learning_rate:g}", c.report, c.dead_share, _percent(c.accuracy))
            for c in example.courses
        ),
    ]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for words, rate, report, dead, accuracy in rows:
        counts = [str(layer.dead_neurons) for layer in report.layer_analyses]
        cells = [words, rate, *counts, _percent(dead), f"{report.overall_health_score:.2f}", accuracy]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _draw_network(example: "Example", path: Path) -> None:
    figure = blank((8.0, 6.0))
    dead, loss = figure.subplots(2, 1, sharex=True)
    _lines(example, dead, lambda reading: reading.dead_share)
    neurons = sum(layer.neurons for layer in example.caught.report.layer_analyses)
    dead.set(ylabel=f"dead share of {neurons} neurons", ylim=(-0.02, 1.02))
    _lines(example, loss, lambda reading: reading.loss)
    loss.set(ylabel="loss of the batch (nats)", xlabel="step", yscale="log")
    _legend(figure, dead)
    save(figure, path)


def _draw_layers(example: "Example", path: Path) -> None:
    layers = example.caught.report.layer_analyses
    figure = blank((8.0, 6.0))
    panels = figure.subplots(len(layers), 1, sharex=True)
    for place, (axes, layer) in enumerate(zip(panels, layers, strict=True)):
        _lines(example, axes, partial(_dead_in, place))
        axes.set(ylabel=f"dead share of\n{layer.layer_name}'s {layer.neurons}", ylim=(-0.02, 1.02))
    panels[-1].set_xlabel("step")
    _legend(figure, panels[0])
    save(figure, path)


def _dead_in(place: int, reading: Reading) -> float | None:
    return reading.layers[place].dead_share


def _legend(figure: Any, axes: Any) -> None:
    """Above the panels, where it covers nothing."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=5, fontsize=8)


def _lines(example: "Example", axes: Any, of: Callable[[Reading], float | None]) -> None:
    """The training up to the alert, the alert, and each way after it."""
    caught = example.caught
    axes.plot(*_points(caught.readings, of), color="0.1", linewidth=1.5)
    axes.axvline(caught.step, color="0.4", linewidth=1, linestyle=(0, (1, 2)), label="alert")
    for i, course in enumerate(example.courses):
        steps, values = _points((caught.readings[-1], *course.readings), of)
        axes.plot(steps, values, **line(i), markevery=(4 + 2 * i, 12), label=course.way.name)


def _points(readings: Sequence[Reading], of: Callable[[Reading], float | None]) -> tuple[list[int], list[float]]:
    known = [(reading.step, value) for reading in readings if (value := of(reading)) is not None]
    return [step for step, _ in known], [value for _, value in known]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
