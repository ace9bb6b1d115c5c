"""What substituting a token does to neurons (methods §7): the result of nfinspect.experiments.substitution."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfinspect.analysis.numbers import number
from nfinspect_store.statistics import Floats

LAGS = (0, 1, 2, 4, 8)
"""How many tokens after the substituted one neurons are read; 0: at that token itself."""


@dataclass(frozen=True)
class Substitution:
    """Mean |Δa| / std of each neuron at each lag: float64[neurons, lags], NaN where undefined.

    samples: substitutions that each lag rests on, fewer than `draws` where prompts end before it; unchanged: draws that
    gave the token itself, which change nothing but count.
    """

    site: str
    model: str
    seed: int
    draws: int
    unchanged: int
    lags: tuple[int, ...]
    samples: tuple[int, ...]
    layer: NDArray[np.int64]  # [neurons]
    neuron: NDArray[np.int64]  # [neurons]
    sensitivity: Floats

    def summary(self) -> dict[str, object]:
        """Everything but the neurons, for JSON."""
        return {
            "site": self.site,
            "model": self.model,
            "seed": self.seed,
            "draws": self.draws,
            "unchanged": self.unchanged,
            "lags": list(self.lags),
            "samples": list(self.samples),
        }

    def by_neuron(self) -> dict[tuple[int, int], tuple[float | None, ...]]:
        """The sensitivities at each lag, by (layer, neuron); None where undefined."""
        return {
            (int(layer), int(neuron)): tuple(number(value) for value in values)
            for layer, neuron, values in zip(self.layer, self.neuron, self.sensitivity, strict=True)
        }

    def table(self) -> pa.Table:
        """A row for each neuron: layer, neuron, sensitivity (a list with an entry for each lag)."""
        flat = pa.array(self.sensitivity.reshape(-1), from_pandas=True)  # NaN as NULL
        offsets = np.arange(len(self.layer) + 1, dtype=np.int32) * len(self.lags)
        lists = pa.ListArray.from_arrays(pa.array(offsets), flat)
        return pa.table({"layer": self.layer, "neuron": self.neuron, "sensitivity": lists})

    @classmethod
    def from_parts(cls, summary: Mapping[str, Any], table: pa.Table) -> "Substitution":
        """From what `summary` and `table` returned."""
        lags = tuple(summary["lags"])
        flat = table.column("sensitivity").combine_chunks().flatten()
        return cls(
            **{name: summary[name] for name in ("site", "model", "seed", "draws", "unchanged")},
            lags=lags,
            samples=tuple(summary["samples"]),
            layer=table.column("layer").to_numpy(),
            neuron=table.column("neuron").to_numpy(),
            sensitivity=np.asarray(flat.to_numpy(zero_copy_only=False), np.float64).reshape(-1, len(lags)),
        )
