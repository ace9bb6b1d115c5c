"""Simulated layers and networks whose neurons' classes are known by construction [own]."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from numbers import Integral

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfinspect.analysis.classes import BOUNDED, FAULTS, SPORADIC_STRENGTH
from nfinspect.analysis.planted_forms import FEWEST_TOKENS, FORMS, Form
from nfinspect_store.errors import RequestError
from nfinspect_store.types import CLASSES, Layer

ACTIVATIONS = ("relu", "gelu", "silu", "tanh", "sigmoid")

SHARES: Mapping[str, float] = {"dead": 0.04, "missing": 0.02, "weak": 0.04, "saturated": 0.02, "sporadic": 0.02}
"""Faults of the first layer, as shares of its neurons."""

ODD_NORMAL = 30
"""One healthy neuron in so many resembles a faulty one: it is strong but not rare, or near an extreme but not at it."""

GATE_OPEN = 0.4
"""Share of tokens on which the gate of a gated MLP's neuron is open."""

WEAK_MARGIN = 0.12
"""E|a| that a healthy neuron must reach, in layer scales: below 0.1 it is weak."""

MOST_VALUES = 2**28
MOST_LAYER_VALUES = 2**26
"""Limits, as values are held in memory: `simulate` took 2.0 GB for one layer of that size."""

MOST_LAYERS = 1000
MOST_DEGRADATION = 100.0
MOST_SEED = 2**63 - 1
"""The largest seed that a run file can store."""


@dataclass(frozen=True)
class PlantedLayer:
    """A layer whose truth is known. classes: each neuron's true class; fired: bool[tokens, neurons], None unless the
    layer fires by its gate.
    """

    layer: Layer
    values: NDArray[np.float32]  # [tokens, neurons]
    fired: NDArray[np.bool_] | None
    classes: tuple[str, ...]


@dataclass(frozen=True)
class NetworkPlan:
    """A simulated network. shares: of each fault in the first layer, 0-1 (none given: none planted).

    degradation: by how much the shares grow up to the last layer (2: to three times as much), linearly with depth. A
    fault that an activation cannot have is not planted (a sigmoid near its floor is saturated, never weak). Raises
    RequestError for a plan that cannot be carried out.
    """

    layers: int = 12
    neurons: int = 768
    tokens: int = 512
    activation: str = "relu"
    degradation: float = 2.0
    seed: int = 0
    shares: Mapping[str, float] = field(default_factory=lambda: dict(SHARES))

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise RequestError(f"expected an activation of {', '.join(ACTIVATIONS)}; found {self.activation!r}")
        counts = (self.layers, self.neurons, self.tokens, self.seed)
        if not all(isinstance(count, Integral) and not isinstance(count, bool) for count in counts):
            raise RequestError(f"expected layers, neurons, tokens and seed as whole numbers, found {counts}")
        if not 1 <= self.layers <= MOST_LAYERS or self.neurons < 1:
            raise RequestError(
                f"expected 1 to {MOST_LAYERS} layers of a neuron or more, found {self.layers} x {self.neurons:,}"
            )
        if self.tokens < FEWEST_TOKENS:
            raise RequestError(
                f"expected {FEWEST_TOKENS} tokens or more, found {self.tokens:,}: fewer hold no rare event"
            )
        if self.layers * self.neurons * self.tokens > MOST_VALUES or self.neurons * self.tokens > MOST_LAYER_VALUES:
            raise RequestError(
                f"expected {MOST_VALUES:,} values at most and {MOST_LAYER_VALUES:,} in a layer (they are held in "
                f"memory), found {self.layers} layers x {self.neurons:,} neurons x {self.tokens:,} tokens"
            )
        unknown = [name for name in self.shares if name not in FAULTS]
        if unknown or not all(0 <= share <= 1 for share in self.shares.values()):
            raise RequestError(f"expected shares from 0 to 1 of {', '.join(FAULTS)}; found {dict(self.shares)}")
        if not 0 <= self.degradation <= MOST_DEGRADATION:
            raise RequestError(f"expected a degradation from 0 to {MOST_DEGRADATION:g}, found {self.degradation:g}")
        if not 0 <= self.seed <= MOST_SEED:
            raise RequestError(f"expected a seed from 0 to {MOST_SEED}, found {self.seed}")
        for layer in range(self.layers):
            if sum(self.counts(layer).values()) >= self.neurons:
                raise RequestError(
                    f"expected a healthy neuron in every layer, found {self.neurons:,} neurons for "
                    f"{sum(self.counts(layer).values()):,} faults in layer {layer}: more neurons, smaller shares or a "
                    "smaller degradation"
                )

    def counts(self, layer: int) -> dict[str, int]:
        """How many neurons of a layer get each fault: at least one for a fault with a share above 0."""
        depth = layer / (self.layers - 1) if self.layers > 1 else 0.0
        grown = {name: share * (1.0 + self.degradation * depth) for name, share in self.shares.items()}
        possible = possible_faults(self.activation)
        return {name: max(1, round(grown[name] * self.neurons)) for name in possible if grown.get(name)}


def possible_faults(activation: str) -> tuple[str, ...]:
    """The faults that neurons of an activation can have."""
    return tuple(name for name in FAULTS if name in FORMS[activation])


def planted_network(plan: NetworkPlan) -> Iterator[PlantedLayer]:
    """The layers of a simulated network, in order. Raises RequestError where a layer cannot hold its faults."""
    rng = np.random.default_rng(plan.seed)
    for layer in range(plan.layers):
        yield planted_layer(plan.activation, layer, layer, rng, plan.neurons, plan.tokens, plan.counts(layer))


def planted_layer(
    kind: str,
    layer_id: int,
    layer: int,
    rng: np.random.Generator,
    neurons: int,
    tokens: int,
    faults: Mapping[str, int],
) -> PlantedLayer:
    """A layer of a kind (planted_forms.FORMS) with so many neurons of each fault, in random order, the others healthy.

    Raises RequestError where the layer scale leaves no room for the classes: ten layer scales, which a sporadic neuron
    must reach, lie beyond a bounded activation's ceiling, or healthy neurons would be weak.
    """
    counts = {**faults, "normal": neurons - sum(faults.values())}
    names = [name for name in CLASSES for _ in range(counts.get(name, 0))]
    forms = [form for name in CLASSES for form in _forms(kind, name, counts.get(name, 0))]
    columns = np.stack([form.draw(rng, tokens) for form in forms], axis=1)  # [tokens, neurons]
    in_scales = np.array([form.in_scales for form in forms])
    columns[:, in_scales] *= _scale(columns, in_scales)
    _check_scale(kind, faults, np.abs(columns).mean(axis=0), np.array(names) == "normal")
    order = rng.permutation(neurons)
    values = columns[:, order].astype(np.float32)
    fires = {"resid": "scale", "silu": "gate"}.get(kind, "positive")
    site = "resid" if kind == "resid" else "mlp"
    described = Layer(
        layer_id, site, layer, f"simulated.{layer}.{site}", neurons, "" if kind == "resid" else kind, fires
    )
    fired = rng.random(values.shape) < GATE_OPEN if fires == "gate" else None
    return PlantedLayer(described, values, fired, tuple(names[i] for i in order))


def truth_table(layers: "list[PlantedLayer]") -> pa.Table:
    """The table `planted`: site, layer, neuron and class of every neuron."""
    return pa.table(
        {
            "site": pa.array([p.layer.site for p in layers for _ in p.classes], pa.string()),
            "layer": pa.array([p.layer.layer for p in layers for _ in p.classes], pa.int32()),
            "neuron": pa.array([i for p in layers for i in range(len(p.classes))], pa.int32()),
            "class": pa.array([name for p in layers for name in p.classes], pa.string()),
        }
    )


def _forms(kind: str, name: str, count: int) -> list[Form]:
    """The forms of so many neurons of a class: each in turn; of healthy ones, one in ODD_NORMAL is not the first."""
    if not count:
        return []
    first, *others = FORMS[kind][name]
    if name != "normal":
        return [(first, *others)[i % (1 + len(others))] for i in range(count)]
    odd = (
        {i: others[(i // ODD_NORMAL) % len(others)] for i in range(ODD_NORMAL - 1, count, ODD_NORMAL)} if others else {}
    )
    return [odd.get(i, first) for i in range(count)]


def _scale(columns: NDArray[np.float64], in_scales: NDArray[np.bool_]) -> float:
    """The layer scale s that results when the columns given in layer scales are multiplied by s.

    s is the mean over all neurons of E|a|, so neurons · s = Σ E|a| of the other columns + s · Σ E|a| of these.
    """
    strength = np.abs(columns).mean(axis=0)
    return float(strength[~in_scales].sum() / (len(strength) - strength[in_scales].sum()))


def _check_scale(
    kind: str, faults: Mapping[str, int], strength: NDArray[np.float64], normal: NDArray[np.bool_]
) -> None:
    """Raises RequestError where the layer scale leaves no room for the classes. strength: E|a| of each neuron."""
    scale = float(strength.mean())
    if kind in BOUNDED and faults.get("sporadic") and SPORADIC_STRENGTH * scale > 0.95 * BOUNDED[kind][1]:
        raise RequestError(
            f"expected fewer saturated neurons with sporadic ones, found a layer scale of {scale:.3f}: ten times "
            f"that is beyond what {kind} can give; use a smaller degradation or more neurons"
        )
    if strength[normal].min() < WEAK_MARGIN * scale:
        raise RequestError(
            f"expected fewer saturated neurons, found a layer scale of {scale:.3f}, by which healthy {kind} "
            "neurons are weak; use a smaller share of them or a smaller degradation"
        )
