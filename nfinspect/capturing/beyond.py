"""Which values `--where beyond=pX` keeps: those beyond their neuron's running Xth percentile (docs/decisions/0012).

The percentile is that of a neuron's values on all recorded tokens up to the end of the batch, position 0 too, as far
as its histogram tells: the bin it lies in. Kept is a value in a higher bin: it is beyond the percentile for certain,
and at most 100 - X % of a neuron's values so far can be. So the first batch is measured against itself, and while
there are fewer than 100 / (100 - X) tokens nothing is kept.
"""

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nfinspect.capturing.transfer import Array, to_host
from nfinspect_store.histogram import ABOVE
from nfinspect_store.types import BeyondRows


def limits(counts: Array, tokens: int, percentile: Decimal) -> Array:
    """The smallest value of each neuron that is beyond its percentile: float32[neurons]; NaN: no value would be.

    counts: histograms over `tokens` tokens, int64[neurons, BINS].
    """
    rank = math.ceil(Fraction(percentile) * tokens / 100)
    of_percentile = (counts.cumsum(1) < rank).sum(1)
    if isinstance(of_percentile, Tensor):
        return torch.from_numpy(ABOVE).to(of_percentile.device)[of_percentile]
    found: Array = ABOVE[of_percentile]
    return found


def values_beyond(layer_id: int, values: Array, limit: Array, first_token: int) -> BeyondRows:
    """The values of float32[tokens, neurons] that are at or above the limits, float32[neurons]; by neuron and token.

    first_token: token_idx of the first row.
    """
    xp: Any = torch if isinstance(values, Tensor) else np
    flat = values.reshape(-1)
    place = xp.nonzero((values >= limit).reshape(-1))
    place = place[:, 0] if isinstance(values, Tensor) else place[0]
    kept, place = to_host(flat[place]), to_host(place)
    token, neuron = np.divmod(place, values.shape[1])
    order = np.argsort(neuron, kind="stable")
    return BeyondRows(layer_id, neuron[order].astype(np.int32), first_token + token[order], kept[order])
