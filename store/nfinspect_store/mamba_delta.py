"""Mamba's step size Δ in a run: its statistics per layer and channel, and the table `mamba_delta`.

Central moments merge by the formulas of Chan, Golub & LeVeque 1979, as those of the neurons do; so does the co-moment
with the surprisal (Pébay 2008).
"""

from dataclasses import dataclass, fields

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfinspect_store.statistics import Counts, Floats


@dataclass(frozen=True)
class DeltaMoments:
    """Δ of a layer's channels over the tokens that have a surprisal: one entry per channel in every field, [channels].

    m2 and surprisal_m2 are sums of squared deviations from the means, comoment the sum of products of deviations.
    """

    n: Counts
    mean: Floats
    m2: Floats
    surprisal_mean: Floats
    surprisal_m2: Floats
    comoment: Floats

    @classmethod
    def empty(cls, channels: int) -> "DeltaMoments":
        """The moments of no tokens; merging them with others changes nothing."""
        return cls(np.zeros(channels, np.int64), *(np.zeros(channels) for _ in range(5)))

    def merge(self, other: "DeltaMoments") -> "DeltaMoments":
        """The moments of both parts together; both have the same channels in the same order."""
        if not other.n.any():
            return self
        if not self.n.any():
            return other
        n = self.n + other.n
        share = other.n / n
        weight = self.n * share
        step = other.mean - self.mean
        surprisal_step = other.surprisal_mean - self.surprisal_mean
        return DeltaMoments(
            n=n,
            mean=self.mean + step * share,
            m2=self.m2 + other.m2 + step * step * weight,
            surprisal_mean=self.surprisal_mean + surprisal_step * share,
            surprisal_m2=self.surprisal_m2 + other.surprisal_m2 + surprisal_step * surprisal_step * weight,
            comoment=self.comoment + other.comoment + step * surprisal_step * weight,
        )

    @property
    def cv(self) -> Floats:
        """Coefficient of variation: sample std (n - 1) / mean; NaN for fewer than two tokens or a mean of 0."""
        cv = np.full(self.mean.shape, np.nan)
        ok = (self.n > 1) & (self.mean != 0)
        cv[ok] = np.sqrt(self.m2[ok] / (self.n[ok] - 1)) / self.mean[ok]
        return cv

    @property
    def surprisal_correlation(self) -> Floats:
        """Pearson's correlation of Δ with the surprisal; NaN for fewer than two tokens or where either never varies."""
        square = self.m2 * self.surprisal_m2
        correlation = np.full(self.mean.shape, np.nan)
        ok = (self.n > 1) & (square > 0)
        correlation[ok] = np.clip(self.comoment[ok] / np.sqrt(square[ok]), -1.0, 1.0)
        return correlation


COLUMNS = tuple(f.name for f in fields(DeltaMoments))


def mamba_delta_table(layer: int, moments: DeltaMoments) -> pa.Table:
    """Rows of the table `mamba_delta`."""
    channels = len(moments.n)
    return pa.table(
        {
            "layer": np.full(channels, layer, np.int32),
            "channel": np.arange(channels, dtype=np.int32),
            "n": moments.n,
            **{name: pa.array(getattr(moments, name), from_pandas=True) for name in COLUMNS[1:]},  # NaN as NULL
        }
    )


def read_mamba_delta(cursor: duckdb.DuckDBPyConnection) -> dict[int, DeltaMoments]:
    """By layer, in order; empty for a run without Mamba mixers."""
    query = f"SELECT layer, {', '.join(COLUMNS)} FROM mamba_delta ORDER BY layer, channel"
    columns = {name: np.ma.filled(column, np.nan) for name, column in cursor.execute(query).fetchnumpy().items()}
    layers: NDArray[np.int32] = columns.pop("layer")
    return {
        int(layer): DeltaMoments(**{name: column[layers == layer] for name, column in columns.items()})
        for layer in dict.fromkeys(layers.tolist())
    }
