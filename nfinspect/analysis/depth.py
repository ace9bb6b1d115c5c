"""Where a layer lies in its network, so that networks of different depth can be compared."""

from collections.abc import Sequence


def depths(layers: Sequence[object]) -> list[float]:
    """Of each layer of a run, in their order: layer / (layers - 1), from 0 to 1; 0 for a single one [own]."""
    return [i / (len(layers) - 1) if len(layers) > 1 else 0.0 for i in range(len(layers))]
