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
    """A layer with fewer neurons, of it or of one of its experts, outside the set than in it, so that no control set of
    this size exists; else None.

    Drawing with replacement would cut out fewer neurons than the set has, and drawing from all neurons of the layer
    would mostly cut out the set itself: neither would be a control [own].
    """
    groups = ((site, group) for site, neurons in places.items() for group in _groups(site, neurons))
    return next((site for site, (outside, taken) in groups if taken > len(outside)), None)


def control_sets(places: Places, count: int, seed: int) -> list[dict[LayerSite, NDArray[np.int64]]]:
    """`count` random sets, drawn without replacement from each layer's neurons outside the set, those of experts from
    the same expert: others run on other tokens.

    The draws depend only on the seed and on the set: the same set has the same controls in any table.
    """
    rng = np.random.default_rng([seed, _number_of(places)])
    groups = {site: _groups(site, neurons) for site, neurons in places.items()}

    def drawn(site: LayerSite) -> NDArray[np.int64]:
        parts = [rng.choice(outside, size=taken, replace=False) for outside, taken in groups[site]]
        return np.sort(np.concatenate(parts))

    return [{site: drawn(site) for site in places} for _ in range(count)]


def _groups(site: LayerSite, neurons: Sequence[int]) -> list[tuple[NDArray[np.int64], int]]:
    """The neurons outside a set that are drawn from together, and how many: of a layer, or of each of its experts."""
    taken = np.asarray(neurons, np.int64)
    width = site.neurons // site.experts if site.experts else site.neurons
    found = []
    for group in np.unique(taken // width).tolist():
        own = np.arange(group * width, (group + 1) * width)
        found.append((np.setdiff1d(own, taken), int((taken // width == group).sum())))
    return found


def _number_of(places: Places) -> int:
    """A number that identifies this set."""
    written = ";".join(sorted(f"{site.site}:{site.layer}:{sorted(neurons)}" for site, neurons in places.items()))
    return int.from_bytes(hashlib.sha256(written.encode()).digest()[:8])
