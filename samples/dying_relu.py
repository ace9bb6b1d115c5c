"""ReLU neurons that die from too high a learning rate: caught by the monitor, healed by what the report recommends.

    python samples/dying_relu.py --out DIR [--steps N] [--store STORE]

A small classifier is trained with Adam at 0.3. At the first alert about a dying layer its state is saved, and from
there the training continues for N steps in several ways: unchanged, and with the recommendations applied. DIR gets a
page with figures (README.md). With --store the trainings can be watched from a second terminal:
`nfinspect watch dying-relu-left-alone --store STORE`.

All random numbers are seeded: the same version of torch on the same kind of processor gives the same page.
"""

import argparse
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

import nfinspect as nf
from nfinspect.analysis.history import Alert, Reading
from nfinspect_store.errors import NfinspectError

CLASSES, WIDTH, HIDDEN = 3, 64, 3
BATCH = 256
SAMPLES = 2048
TOO_HIGH, LOWER = 0.3, 0.001
"""Learning rates for Adam; 0.001 is the usual one."""

EVERY, WINDOW = 5, 4
"""Steps between readings, and readings that a class rests on: a dead neuron is 0 in four batches in a row."""

CAUGHT_WITHIN = 100
"""The most steps before the alert."""

STEPS = 380
"""Steps after the alert."""

State = Mapping[str, Tensor]
Neurons = Mapping[str, list[int]]
"""By layer."""


@dataclass(frozen=True)
class Data:
    """inputs: float32[samples, 16], classes: int64[samples]."""

    inputs: Tensor
    classes: Tensor


@dataclass(frozen=True)
class Way:
    """One way to continue after the alert. change: applied to the network first, given its dead neurons."""

    name: str
    words: str
    learning_rate: float
    change: Callable[[nn.Sequential, Neurons], nn.Sequential]


@dataclass(frozen=True)
class Course:
    """A training after the alert: its readings, and the report and the accuracy (0-1, on new samples) at its end."""

    way: Way
    readings: tuple[Reading, ...]
    report: nf.NetworkFiringReport
    accuracy: float

    @property
    def dead_share(self) -> float:
        """Share of hidden neurons that are dead at the end, over all training samples: 0-1."""
        return dead_share(self.report)


@dataclass(frozen=True)
class Caught:
    """The training up to the first alert about a dying layer, with the network's state and report at that step."""

    step: int
    alerts: tuple[Alert, ...]
    readings: tuple[Reading, ...]
    state: State
    report: nf.NetworkFiringReport

    @property
    def dead(self) -> Neurons:
        """The neurons that are 0 on every training sample."""
        return {layer.layer_name: layer.neurons_of("dead") for layer in self.report.layer_analyses}

    @property
    def named(self) -> Neurons:
        """The neurons that the alerts named, from the last four batches read."""
        return {alert.layer_name: list(alert.neurons) for alert in self.alerts if alert.layer_name is not None}


@dataclass(frozen=True)
class Example:
    """Everything that the page is made from. steps: after the alert."""

    caught: Caught
    steps: int
    courses: tuple[Course, ...]


def spirals(seed: int, count: int = SAMPLES) -> Data:
    """Points on three spiral arms, each coordinate encoded as sines and cosines of four frequencies."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(count) % CLASSES
    radius = torch.rand(count, generator=generator)
    angle = 2 * math.pi * classes / CLASSES + 4.5 * radius + 0.08 * torch.randn(count, generator=generator)
    points = 2 * (0.1 + 0.9 * radius)[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    waves = [wave(points * frequency) for frequency in (1, 2, 3, 4) for wave in (torch.sin, torch.cos)]
    return Data(torch.cat(waves, dim=1), classes)


def network(seed: int) -> nn.Sequential:
    """Three hidden layers of 64 ReLU neurons (`relu1` to `relu3`), with He initialisation."""
    generator = torch.Generator().manual_seed(seed)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    width = 16
    for number in range(1, HIDDEN + 1):
        layers[f"linear{number}"], layers[f"relu{number}"] = nn.Linear(width, WIDTH), nn.ReLU()
        width = WIDTH
    layers["head"] = nn.Linear(width, CLASSES)
    for layer in layers.values():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(layers)


def unchanged(model: nn.Sequential, dead: Neurons) -> nn.Sequential:
    return model


def initialised_anew(model: nn.Sequential, dead: Neurons) -> nn.Sequential:
    """He initialisation of the dead neurons' incoming weights, 0 for their outgoing ones (Sokar et al. 2023, ReDo).

    Their output was always 0, so what the network computes does not change.
    """
    generator = torch.Generator().manual_seed(1)
    modules = list(model.named_children())
    with torch.no_grad():
        for (_, before), (name, _), (_, after) in zip(modules, modules[1:], modules[2:], strict=False):
            if neurons := dead.get(name):
                assert isinstance(before, nn.Linear)
                assert isinstance(after, nn.Linear)
                drawn = torch.empty_like(before.weight)
                nn.init.kaiming_normal_(drawn, nonlinearity="relu", generator=generator)
                before.weight[neurons], before.bias[neurons] = drawn[neurons], 0.0
                after.weight[:, neurons] = 0.0
    return model


def leaky(model: nn.Sequential, dead: Neurons) -> nn.Sequential:
    """LeakyReLU instead of ReLU, under the same names."""
    return nn.Sequential(
        OrderedDict((n, nn.LeakyReLU() if isinstance(m, nn.ReLU) else m) for n, m in model.named_children())
    )


WAYS = (
    Way("left alone", "as it was", TOO_HIGH, unchanged),
    Way("lower rate", "a lower learning rate", LOWER, unchanged),
    Way("lower rate, leaky", "a lower learning rate and a leaky activation (LeakyReLU)", LOWER, leaky),
    Way(
        "lower rate, He",
        "a lower learning rate, and He initialisation of the dead neurons",
        LOWER,
        initialised_anew,
    ),
)
"""The first is what happens if nothing is done; the others are what the report recommends for dead ReLU neurons."""

LEAKY, HEALED = WAYS[2].name, WAYS[3].name


def train(
    model: nn.Sequential, learning_rate: float, steps: range, data: Data, monitor: nf.FiringMonitor
) -> Iterator[tuple[int, tuple[Alert, ...]]]:
    """A plain training loop: yields, after each step, its number and the alerts that it raised."""
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    for step in steps:
        generator = torch.Generator().manual_seed(step)  # so that every way sees the same batches
        chosen = torch.randint(len(data.inputs), (BATCH,), generator=generator)
        loss = functional.cross_entropy(model(data.inputs[chosen]), data.classes[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield step, monitor.step(step, loss=loss)


def catch(data: Data) -> Caught:
    """Train with the high learning rate until the monitor says that a layer is dying. Raises NfinspectError."""
    model = network(0)
    with nf.FiringMonitor(model, every=EVERY, window=WINDOW, write=False) as monitor:
        for step, alerts in train(model, TOO_HIGH, range(1, CAUGHT_WITHIN + 1), data, monitor):
            dying = tuple(alert for alert in alerts if alert.kind == "dying")
            if dying:
                report = nf.NeuralFiringAnalyzer().analyze_pytorch_model(model, data.inputs)
                state = {name: value.clone() for name, value in model.state_dict().items()}
                return Caught(step, dying, tuple(monitor.history), state, report)
    raise NfinspectError(f"expected a layer to die within {CAUGHT_WITHIN} steps, found none: raise the learning rate")


def go_on(way: Way, caught: Caught, data: Data, unseen: Data, steps: int, store: Path | None) -> Course:
    """Continue from the state at the alert."""
    model = network(0)
    model.load_state_dict(caught.state)
    model = way.change(model, caught.dead)
    name = "dying-relu-" + way.name.replace(",", "").replace(" ", "-")
    monitor = nf.FiringMonitor(every=EVERY, window=WINDOW, run=name, store=store, write=store is not None)
    monitor.start(model, step=caught.step)
    try:
        for _ in train(model, way.learning_rate, range(caught.step + 1, caught.step + steps + 1), data, monitor):
            pass
    finally:
        monitor.finish()
    report = nf.NeuralFiringAnalyzer().analyze_pytorch_model(model, data.inputs)
    with torch.no_grad():
        right = model(unseen.inputs).argmax(dim=1) == unseen.classes
    return Course(way, tuple(monitor.history), report, float(right.double().mean()))


def dead_share(report: nf.NetworkFiringReport) -> float:
    layers = report.layer_analyses
    return sum(layer.dead_neurons for layer in layers) / sum(layer.neurons for layer in layers)


def run_example(steps: int = STEPS, store: Path | None = None) -> Example:
    """Train, catch, and continue for `steps` in every way. Raises NfinspectError."""
    data, unseen = spirals(0), spirals(1)
    with one_thread():
        caught = catch(data)
        return Example(caught, steps, tuple(go_on(way, caught, data, unseen, steps, store) for way in WAYS))


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread, so that sums have the same order on every machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write the page and figures")
    parser.add_argument("--steps", type=int, default=STEPS, metavar="N", help=f"after the alert (default {STEPS})")
    parser.add_argument("--store", type=Path, help="where to write histories for nfinspect watch (default: none)")
    given = parser.parse_args()
    if given.steps < EVERY:
        parser.error(f"expected {EVERY} steps or more, found {given.steps}")
    from nfinspect_samples.dying_relu_page import write_page

    try:
        print(write_page(run_example(given.steps, given.store), given.out))
    except (NfinspectError, OSError) as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
