"""Random control sets with as many neurons in every layer as a set, and the set's result compared with theirs."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfinspect.analysis.numbers import number
from nfinspect.json_values import Document
from nfinspect.models import LayerSite

FEWEST = 20
"""The least number of control sets: with fewer, p cannot be below 0.05."""

Places = Mapping[LayerSite, Sequence[int]]
"""Neurons of a set by layer."""


@dataclass(frozen=True)
class Controls(Document):
    """What ablating the control sets costs: mean and standard deviation of ΔNLL over `count` sets, in nats per token.

    z = (observed − mean) / sd; p_value = (1 + #{control >= observed}) / (count + 1). None where undefined: without
    controls; z also if all controls cost the same. delta_nlls: of each control set.
    """

    count: int
    mean_delta_nll: float | None
    sd: float | None
    z: float | None
    p_value: float | None
    delta_nlls: tuple[float, ...]


def compare_with_controls(observed: float, controls: Sequence[float]) -> Controls:
    """An observed ΔNLL compared with those of control sets."""
    values = np.asarray(controls, np.float64)
    count = len(values)
    mean = number(values.mean()) if count else None
    sd = number(values.std(ddof=1)) if count > 1 else None
    z = (observed - mean) / sd if mean is not None and sd else None
    p = (1 + int((values >= observed).sum())) / (count + 1) if count else None
    return Controls(count, mean, sd, z, p, tuple(float(v) for v in values))


def crowded_layer(places: Places) -> LayerSite | None:
    """A layer with fewer neurons outside the set than in it, so that no control set of this size exists; else None.

    Drawing with replacement would cut out fewer neurons than the set has, and drawing from all neurons of the layer
    would mostly cut out the set itself: neither would be a control [own].
    """
    return next((site for site, neurons in places.items() if len(neurons) > site.neurons - len(neurons)), None)


def control_sets(places: Places, count: int, seed: int) -> list[dict[LayerSite, NDArray[np.int64]]]:
    """`count` random sets, drawn without replacement from each layer's neurons outside the set.

    The draws depend only on the seed and on the set: the same set has the same controls in any table.
    """
    rng = np.random.default_rng([seed, _number_of(places)])
    outside = {site: np.setdiff1d(np.arange(site.neurons), np.asarray(taken)) for site, taken in places.items()}
    return [
        {site: np.sort(rng.choice(outside[site], size=len(taken), replace=False)) for site, taken in places.items()}
        for _ in range(count)
    ]


def _number_of(places: Places) -> int:
    """A number that identifies this set."""
    written = ";".join(sorted(f"{site.site}:{site.layer}:{sorted(neurons)}" for site, neurons in places.items()))
    return int.from_bytes(hashlib.sha256(written.encode()).digest()[:8])
