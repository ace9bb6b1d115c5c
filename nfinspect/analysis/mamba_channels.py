"""Mamba's own step size Δ, channel by channel, from the sums that the capture recorded (methods §7)."""

from collections.abc import Sequence
from dataclasses import dataclass

from nfinspect.analysis.numbers import number
from nfinspect.json_values import Document
from nfinspect_store.mamba_delta import read_mamba_delta
from nfinspect_store.tables import RunTables
from nfinspect_store.types import Layer


@dataclass(frozen=True)
class ChannelRow(Document):
    """Mamba's Δ in one channel (Mamba-2: head) over n tokens, position 0 left out.

    cv: std / mean; surprisal_correlation: of Δ with −ln p of the same token; None where undefined.
    """

    layer: int
    channel: int
    n: int
    mean: float | None
    cv: float | None
    surprisal_correlation: float | None


def channel_rows(run: RunTables, layers: Sequence[Layer]) -> tuple[ChannelRow, ...]:
    """Mamba's Δ in these layers, as far as the run has it."""
    if layers[0].site != "mixer":
        return ()
    every = read_mamba_delta(run.cursor())
    rows: list[ChannelRow] = []
    for layer in layers:
        moments = every.get(layer.layer)
        if moments is not None:
            columns = zip(moments.n, moments.mean, moments.cv, moments.surprisal_correlation, strict=True)
            rows += [
                ChannelRow(layer.layer, channel, int(n), number(mean) if n else None, number(cv), number(correlation))
                for channel, (n, mean, cv, correlation) in enumerate(columns)
            ]
    return tuple(rows)
