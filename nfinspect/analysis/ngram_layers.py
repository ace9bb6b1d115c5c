"""What each layer's n-gram detectors cover, and what of it is new (methods §5)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfinspect.analysis.triggers import Triggers, bucket_counts
from nfinspect.json_values import Document
from nfinspect_store.types import Layer


@dataclass(frozen=True)
class LayerNgrams(Document):
    """A layer's detectors and how many n-grams they cover together, |T_l|. active: neurons with an activation.

    cumulative: covered by this layer or an earlier one; new_overall: covered by no earlier layer; new_vs_previous: not
    covered by the layer before. Only layers that were analysed count. buckets: active neurons by K_n.
    """

    site: str
    layer: int
    neurons: int
    active: int
    detectors: int
    covered: int
    cumulative: int
    new_overall: int
    new_vs_previous: int
    buckets: Mapping[str, int]


class LayerCover:
    """Takes the layers in order and counts what each adds."""

    def __init__(self) -> None:
        self._earlier = self._previous = _union([])

    def add(self, layer: Layer, k: NDArray[np.int64], detectors: Sequence[Triggers]) -> LayerNgrams:
        """The next layer. k: K_n of its neurons, int64[neurons]; detectors: what its detectors cover."""
        covered = _union([detector.covered for detector in detectors])
        together = np.union1d(self._earlier, covered)
        added = LayerNgrams(
            site=layer.site,
            layer=layer.layer,
            neurons=layer.neurons,
            active=int((k > 0).sum()),
            detectors=len(detectors),
            covered=len(covered),
            cumulative=len(together),
            new_overall=len(together) - len(self._earlier),
            new_vs_previous=len(np.setdiff1d(covered, self._previous, assume_unique=True)),
            buckets=bucket_counts(k),
        )
        self._earlier, self._previous = together, covered
        return added


def _union(sets: Sequence[NDArray[np.intp]]) -> NDArray[np.intp]:
    found: NDArray[np.intp] = np.unique(np.concatenate([np.empty(0, np.intp), *sets]))
    return found
