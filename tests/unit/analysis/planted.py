"""Layers whose neurons' classes are known by construction, and methods §2 once more as plain loops."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nfinspect.analysis.planted import PlantedLayer, planted_layer
from nfinspect.analysis.planted_forms import FORMS

PROMPTS, LENGTH = 40, 30
TOKENS = PROMPTS * LENGTH
FAULTS_OF_A_LAYER = {"dead": 3, "saturated": 2, "sporadic": 3, "missing": 4, "weak": 4}
NEURONS = 106


def layer_of_each(kinds: Sequence[str], rng: np.random.Generator) -> list[PlantedLayer]:
    """A layer of every kind, with the faults that it can have."""
    return [
        planted_layer(
            kind,
            i,
            0 if kind == "resid" else i,
            rng,
            NEURONS,
            TOKENS,
            {name: count for name, count in FAULTS_OF_A_LAYER.items() if name in FORMS[kind]},
        )
        for i, kind in enumerate(kinds)
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
