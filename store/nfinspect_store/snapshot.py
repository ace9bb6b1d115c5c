"""What a capture knows of a layer at a commit."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfinspect_store.mamba_delta import DeltaMoments
from nfinspect_store.statistics import ConceptStatistics, NeuronStatistics


@dataclass(frozen=True)
class LayerSnapshot:
    """Everything known about one layer's neurons after the tokens so far. Histograms may be those that are counted
    into: it is valid until the next values are added.
    """

    layer_id: int
    statistics: Mapping[bool, NeuronStatistics]  # by (at position 0)
    concepts: Mapping[str, ConceptStatistics]
    histograms: Mapping[bool, NDArray[np.int64]]  # by (at position 0): int64[neurons, BINS]
    examples: Mapping[str, tuple[NDArray[np.int64], NDArray[np.float32]]]
    """By kind: token_idx and value, [neurons, kept], in order of rank; token_idx -1 where there is none. Like
    `concepts`, empty in a run that keeps every value."""
    delta: DeltaMoments | None = None  # of a Mamba's mixer
