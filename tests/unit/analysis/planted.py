"""Layers whose neurons' classes are known by construction, and methods §2 once more as plain loops."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfinspect_store.types import Layer

PROMPTS, LENGTH = 40, 30
TOKENS = PROMPTS * LENGTH
RARE = 6  # of TOKENS: 0.5 %
HEALTHY = 90


@dataclass(frozen=True)
class Planted:
    layer: Layer
    values: NDArray[np.float32]  # [tokens, neurons]
    fired: NDArray[np.bool_] | None
    expected: list[str]


def planted_layer(kind: str, layer_id: int, layer: int, rng: np.random.Generator) -> Planted:
    """kind: relu | gelu_new | silu (gated) | tanh | sigmoid | resid. Neurons in random order."""
    columns = {"relu": _relu, "tanh": _tanh, "sigmoid": _sigmoid}.get(kind, _smooth)(rng)
    order = rng.permutation(len(columns))
    values = np.stack([columns[i][1] for i in order], axis=1).astype(np.float32)
    site = "resid" if kind == "resid" else "mlp"
    fires = {"resid": "scale", "silu": "gate"}.get(kind, "positive")
    fired = rng.random(values.shape) < 0.4 if fires == "gate" else None
    activation = "" if kind == "resid" else kind
    described = Layer(layer_id, site, layer, f"h.{layer}.{site}", values.shape[1], activation, fires)
    return Planted(described, values, fired, [columns[i][0] for i in order])


def _rare(rng: np.random.Generator, count: int, low: float, high: float) -> NDArray[np.float64]:
    column = np.zeros(TOKENS)
    column[rng.choice(TOKENS, count, replace=False)] = rng.uniform(low, high, count)
    return column


def _relu(rng: np.random.Generator) -> list[tuple[str, NDArray[np.float64]]]:
    def rectified(gain: float) -> NDArray[np.float64]:
        return np.maximum(rng.normal(size=TOKENS), 0) * gain

    once = np.zeros(TOKENS)
    once[rng.integers(TOKENS)] = 1e-6  # fired once, hardly: not dead
    return [
        *[("normal", rectified(2.5)) for _ in range(HEALTHY)],
        *[("dead", np.zeros(TOKENS)) for _ in range(3)],
        *[("saturated", rng.uniform(1.99, 2.01, TOKENS)) for _ in range(2)],
        *[("sporadic", _rare(rng, RARE, 15, 25)) for _ in range(3)],
        *[("missing", rectified(0.005)) for _ in range(3)],
        *[("weak", rectified(0.1)) for _ in range(3)],
        ("missing", once),
        ("weak", _rare(rng, RARE, 4, 5)),  # rare, but not ten scales strong
        ("normal", _rare(rng, 24, 15, 25)),  # strong, but on 2 % of the tokens
    ]


def _smooth(rng: np.random.Generator) -> list[tuple[str, NDArray[np.float64]]]:
    def noise(gain: float) -> NDArray[np.float64]:
        return rng.normal(size=TOKENS) * gain

    hardly = noise(0.0005)
    hardly[rng.integers(TOKENS)] = 0.5
    return [
        *[("normal", noise(1.2)) for _ in range(HEALTHY)],
        *[("dead", noise(0.0005)) for _ in range(3)],
        *[("saturated", -rng.uniform(0.98, 1.02, TOKENS)) for _ in range(2)],
        *[("sporadic", _rare(rng, RARE, 15, 25) - 0.1) for _ in range(3)],
        *[("weak", noise(0.06)) for _ in range(3)],
        ("missing", hardly),
        ("weak", _rare(rng, RARE, 4, 5)),
        ("normal", _rare(rng, 24, 15, 25)),
    ]


def _tanh(rng: np.random.Generator) -> list[tuple[str, NDArray[np.float64]]]:
    sides = np.where(rng.random(TOKENS) < 0.5, -1.0, 1.0)
    return [
        *[("normal", rng.normal(size=TOKENS) * 0.05) for _ in range(HEALTHY)],
        *[("dead", rng.normal(size=TOKENS) * 1e-5) for _ in range(2)],
        ("saturated", sides * rng.uniform(0.97, 1.0, TOKENS)),
        ("saturated", rng.uniform(0.97, 1.0, TOKENS)),
        *[("sporadic", _rare(rng, RARE, 0.9, 1.0)) for _ in range(2)],
        ("weak", rng.normal(size=TOKENS) * 0.004),
        ("normal", np.full(TOKENS, 0.3)),  # one value, but not at an extreme
    ]


def _sigmoid(rng: np.random.Generator) -> list[tuple[str, NDArray[np.float64]]]:
    sides = rng.random(TOKENS) < 0.5
    return [
        *[("normal", rng.uniform(0.2, 0.8, TOKENS)) for _ in range(HEALTHY)],
        ("saturated", np.where(sides, rng.uniform(0.0, 0.02, TOKENS), rng.uniform(0.98, 1.0, TOKENS))),
        ("saturated", rng.uniform(0.985, 1.0, TOKENS)),
        ("dead", rng.uniform(0.0, 0.001, TOKENS)),
        ("normal", rng.uniform(0.48, 0.52, TOKENS)),
        ("normal", np.where(sides, 0.04, 0.96) + rng.uniform(-0.01, 0.01, TOKENS)),  # rho 0.92
    ]


def reference_classes(
    values: NDArray[np.float32],
    activation: str,
    *,
    absolute: bool = False,
    missing: float = 0.01,
    weak: float = 0.1,
    gated: bool = False,
) -> list[str]:
    """Methods §2 in plain loops over plain floats: float32[tokens, neurons] -> a class per neuron."""
    columns = [[float(x) for x in column] for column in values.T]
    means = [math.fsum(abs(x) for x in column) / len(column) for column in columns]
    scale = math.fsum(means) / len(means)
    unit = 1.0 if absolute else scale
    return [
        _reference_class(column, activation, scale, unit, missing, weak, gated) if scale > 0 else "dead"
        for column in columns
    ]


def _reference_class(
    column: list[float], activation: str, scale: float, unit: float, missing: float, weak: float, gated: bool
) -> str:
    n = len(column)
    strength = math.fsum(abs(x) for x in column) / n
    largest = max(abs(x) for x in column)
    if activation in ("relu", "relu2", "relu6", "relu_squared"):
        if all(x == 0 for x in column):
            return "dead"
    elif largest < missing * unit:
        return "dead"
    if activation in ("tanh", "sigmoid") and not gated:
        if reference_rho(column, activation) >= 0.95:
            return "saturated"
    elif n > 1:
        mean = math.fsum(column) / n
        std = math.sqrt(math.fsum((x - mean) ** 2 for x in column) / (n - 1))
        if std <= 0.05 * abs(mean) and strength >= weak * unit:
            return "saturated"
    rate = sum(abs(x) >= scale for x in column) / n
    if 0 < rate < 0.01 and largest >= 10 * scale:
        return "sporadic"
    if strength < missing * unit:
        return "missing"
    return "weak" if strength < weak * unit else "normal"


def reference_rho(column: list[float], activation: str) -> float:
    """Rakitianskaia & Engelbrecht 2015, equation by equation: 10 bins over the activation's range."""
    low, high = {"tanh": (-1.0, 1.0), "sigmoid": (0.0, 1.0)}[activation]
    bins: list[list[float]] = [[] for _ in range(10)]
    for x in column:
        which = min(int((x - low) / (high - low) * 10), 9)
        bins[which].append(2 * (x - low) / (high - low) - 1)
    weighted = sum(abs(sum(b) / len(b)) * len(b) for b in bins if b)
    return weighted / sum(len(b) for b in bins)
