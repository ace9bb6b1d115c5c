"""Delta-sensitive neurons: those that change with every token (methods §7), and Mamba's own Δ.

Delta-sensitive [own, the literature has no threshold] takes two things. The von Neumann ratio is at least 2, that of
white noise: the neuron keeps nothing of the token before. And the step sensitivity is at least 0.2, that of a neuron
that is on for each token with a probability of 1 %, else off (2·√(p(1 − p))): a neuron that hardly ever fires has the
ratio of white noise, too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nfinspect.analysis.chosen import chosen_layers
from nfinspect.analysis.delta_rows import DeltaRows
from nfinspect.analysis.enough import few_steps
from nfinspect.analysis.mamba_channels import ChannelRow, channel_rows
from nfinspect.analysis.numbers import number
from nfinspect.analysis.steps import Steps, measure_steps
from nfinspect.analysis.substitution import Substitution
from nfinspect.analysis.ticks import Tick, silent
from nfinspect.json_values import Document
from nfinspect_store.errors import RequestError
from nfinspect_store.tables import RunTables
from nfinspect_store.types import Layer

MIN_RATIO = 2.0
"""Von Neumann ratio from which a neuron counts as delta-sensitive: that of white noise [own]."""

MIN_STEP = 0.2
"""Step sensitivity from which a neuron counts as delta-sensitive [own]."""

ORDERS = ("step_sensitivity", "von_neumann_ratio")


@dataclass(frozen=True)
class DeltaLayer(Document):
    """A layer's neurons together. constant: neurons with undefined measures (they never varied); the medians are over
    the others.
    """

    site: str
    layer: int
    neurons: int
    constant: int
    delta_sensitive: int
    median_step_sensitivity: float | None
    median_von_neumann_ratio: float | None


@dataclass(frozen=True)
class Delta:
    """The neurons of the layers that were read, ordered by `sort`: the largest first, undefined ones last (ties: layer,
    neuron); a sequence of DeltaRow.

    pairs: neighbouring tokens of one prompt that were compared.
    """

    site: str
    pairs: int
    sort: str
    min_ratio: float
    min_step: float
    layers: tuple[DeltaLayer, ...]
    neurons: DeltaRows
    mamba_delta: tuple[ChannelRow, ...]
    substitution: Substitution | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """For the user: on how few steps the measures rest, and what the run does not have."""
        if not self.neurons:
            return (
                "this run did not keep every value, statistics only or some of them: there is Mamba's own Δ, and "
                "nothing on its neurons",
            )
        few = tuple(filter(None, [few_steps(self.pairs)]))
        if self.site == "mixer" and not self.mamba_delta:
            return (
                *few,
                "this run holds nothing of Mamba's own Δ, which captures of Mamba, Mamba-2 and FalconMamba record: "
                "captured anew it will, if it is of one of these",
            )
        return few

    @property
    def delta_sensitive(self) -> DeltaRows:
        """The neurons that count as delta-sensitive."""
        return self.neurons.take(self.neurons.delta_sensitive)

    def to_json(self) -> dict[str, object]:
        document: dict[str, object] = {
            "site": self.site,
            "pairs": self.pairs,
            "sort": self.sort,
            "min_ratio": self.min_ratio,
            "min_step": self.min_step,
            "delta_sensitive": len(self.delta_sensitive),
            "notes": list(self.notes),
            "layers": [layer.to_json() for layer in self.layers],
            "neurons": self.neurons.to_json(),
        }
        if self.mamba_delta:
            document["mamba_delta"] = [row.to_json() for row in self.mamba_delta]
        if self.substitution is not None:
            document["substitution"] = self.substitution.summary()
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Delta":
        """From a document of `to_json`, without its substitution."""
        return cls(
            **{name: document[name] for name in ("site", "pairs", "sort", "min_ratio", "min_step")},
            layers=tuple(DeltaLayer(**row) for row in document["layers"]),
            neurons=DeltaRows.from_json(document["site"], document["neurons"]),
            mamba_delta=tuple(ChannelRow(**row) for row in document.get("mamba_delta", ())),
        )

    def sorted_by(self, sort: str) -> "Delta":
        """The same neurons in another order. Raises RequestError for an unknown one."""
        return replace(self, sort=sort, neurons=self.neurons.in_order(check_order(sort)))

    def with_substitution(self, substitution: Substitution) -> "Delta":
        """With each neuron's sensitivity to substituted tokens."""
        known = substitution.by_neuron()
        undefined = (None,) * len(substitution.lags)
        places = zip(self.neurons.layer.tolist(), self.neurons.neuron.tolist(), strict=True)
        lags = np.array([known.get(place, undefined) for place in places], np.float64)
        rows = replace(self.neurons, substitution_sensitivity=lags.reshape(len(self.neurons), len(substitution.lags)))
        return replace(self, neurons=rows, substitution=substitution)


def delta(
    run: RunTables,
    site: str | None = None,
    layers: Sequence[int] | None = None,
    sort: str = "step_sensitivity",
    min_ratio: float = MIN_RATIO,
    min_step: float = MIN_STEP,
    tick: Tick = silent,
) -> Delta:
    """How the neurons of a site change from token to token, and in a Mamba's mixers its Δ.

    Exact, from the stored values. From a Mamba run that did not keep every value, it gives Δ alone. layers: all if not
    given. tick: blocks of values read, of all. Raises RequestError for an unknown site, layer or order, or a
    min_ratio or min_step that is not a finite number; StoreError for any other run that did not keep every value.
    """
    check_order(sort)
    if not (math.isfinite(min_ratio) and math.isfinite(min_step)):
        raise RequestError(f"expected finite numbers for min_ratio and min_step, found {min_ratio} and {min_step}")
    chosen = chosen_layers(run, site, layers)
    name = chosen[0].site
    channels = channel_rows(run, chosen)
    if not run.has_values and channels:
        return Delta(name, 0, sort, min_ratio, min_step, (), DeltaRows.from_json(name, ()), channels)
    steps = measure_steps(run, chosen, tick)
    sensitive = is_sensitive(steps, min_ratio, min_step)
    rows = DeltaRows(name, steps.layer, steps.neuron, steps.step_sensitivity, steps.von_neumann_ratio, sensitive)
    return Delta(
        site=name,
        pairs=steps.pairs,
        sort=sort,
        min_ratio=min_ratio,
        min_step=min_step,
        layers=tuple(_layer_row(layer, steps, sensitive) for layer in chosen),
        neurons=rows.in_order(sort),
        mamba_delta=channels,
    )


def is_sensitive(steps: Steps, min_ratio: float = MIN_RATIO, min_step: float = MIN_STEP) -> NDArray[np.bool_]:
    """Which neurons count as delta-sensitive: bool[neurons]. Those with undefined measures do not."""
    enough: NDArray[np.bool_] = (steps.von_neumann_ratio >= min_ratio) & (steps.step_sensitivity >= min_step)
    return enough


def check_order(sort: str) -> str:
    """`sort`, if there is such an order. Raises RequestError naming those there are."""
    if sort not in ORDERS:
        raise RequestError(f"no order {sort!r}: choose {' or '.join(ORDERS)}")
    return sort


def _layer_row(layer: Layer, steps: Steps, sensitive: NDArray[np.bool_]) -> DeltaLayer:
    here = steps.layer == layer.layer
    varied = here & ~np.isnan(steps.step_sensitivity)
    return DeltaLayer(
        site=layer.site,
        layer=layer.layer,
        neurons=layer.neurons,
        constant=int(here.sum() - varied.sum()),
        delta_sensitive=int(sensitive[here].sum()),
        median_step_sensitivity=_median(steps.step_sensitivity[varied]),
        median_von_neumann_ratio=_median(steps.von_neumann_ratio[varied]),
    )


def _median(values: NDArray[np.float64]) -> float | None:
    return number(np.median(values)) if len(values) else None
