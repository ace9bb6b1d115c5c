"""A layer's relative depth in its network, so that networks with different numbers of layers can be compared."""

from collections.abc import Sequence


def depths(layers: Sequence[object]) -> list[float]:
    """The depth of each layer, in order: index / (layers - 1), from 0 to 1; 0 for a single layer [own]."""
    return [i / (len(layers) - 1) if len(layers) > 1 else 0.0 for i in range(len(layers))]
