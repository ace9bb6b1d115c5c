"""Positional neurons: those whose firing tells where in the sequence a token stands (methods §6).

Voita, Ferrando & Nalmpantis 2023, arXiv 2309.04827, §5. Each neuron's firing is counted by position over sequences of
one length; `profiles` computes how much it tells about the position, and what shape it has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfinspect.analysis.chosen import chosen_layers
from nfinspect.analysis.firing import fired_chunks
from nfinspect.analysis.profiles import TYPES, Strength, Type, mutual_information, profile_strengths, profile_types
from nfinspect.analysis.sequences import Sequences, read_sequences
from nfinspect.analysis.ticks import Tick, silent
from nfinspect.json_values import Document
from nfinspect_store.arrow_numbers import numbers
from nfinspect_store.routes import refuse_absent
from nfinspect_store.tables import RunTables
from nfinspect_store.types import Layer

POSITIONAL = 0.05
"""The mutual information, in nats, above which a neuron is positional. Voita et al. 2023."""


@dataclass(frozen=True)
class PositionalNeuron(Document):
    """A neuron whose firing depends on the position. mutual_information: in nats, without the plug-in bias.

    firing_rate: over all positions.
    """

    site: str
    layer: int
    neuron: int
    mutual_information: float
    type: Type
    strength: Strength
    firing_rate: float

    @property
    def address(self) -> str:
        """`L5/N123`; the site is in `site`."""
        return f"L{self.layer}/N{self.neuron}"


@dataclass(frozen=True)
class LayerPositions(Document):
    """How many of a layer's neurons are positional, and of which type.

    would_pass: how many exceed the limit of mutual information; they do not count as positional if too few sequences
    were read, unless they were asked for (allow_few).
    """

    site: str
    layer: int
    neurons: int
    would_pass: int
    positional: int
    strong: int
    types: Mapping[str, int]


@dataclass(frozen=True)
class PositionAnalysis(Document):
    """The positional neurons of a site, the highest mutual information first.

    length: T, tokens of each sequence; sequences: S. profiles: float64[listed neurons, length], the share of the
    sequences in which each fired at each position, 0-1, in the order of `neurons`. notes: for the user.
    """

    site: str
    length: int
    sequences: int
    neurons: tuple[PositionalNeuron, ...]
    layers: tuple[LayerPositions, ...]
    notes: tuple[str, ...]
    profiles: NDArray[np.float64]

    JSON = ("site", "length", "sequences", "neurons", "layers", "notes")
    """Without the profiles, which are a table of their own."""

    def profile_table(self) -> pa.Table:
        """One row for each listed neuron and position: site, layer, neuron, position, rate."""
        length = self.length
        return pa.table(
            {
                "site": pa.array([self.site] * (length * len(self.neurons)), pa.string()),
                "layer": np.repeat(np.array([neuron.layer for neuron in self.neurons], np.int32), length),
                "neuron": np.repeat(np.array([neuron.neuron for neuron in self.neurons], np.int32), length),
                "position": np.tile(np.arange(length, dtype=np.int32), len(self.neurons)),
                "rate": self.profiles.reshape(-1),
            }
        )

    @property
    def held_back(self) -> bool:
        """Whether there are neurons above the limit that are not listed; `allow_few` lists them."""
        return any(layer.would_pass > layer.positional for layer in self.layers)

    @classmethod
    def from_json(cls, document: Mapping[str, Any], profiles: pa.Table) -> Self:
        """From the document of a saved result and its table of profiles."""
        neurons = tuple(PositionalNeuron(**neuron) for neuron in document["neurons"])
        rates = np.asarray(numbers(profiles.column("rate")), np.float64)
        return cls(
            **{
                **document,
                "neurons": neurons,
                "layers": tuple(LayerPositions(**layer) for layer in document["layers"]),
                "notes": tuple(document["notes"]),
                "profiles": rates.reshape(len(neurons), document["length"]),
            }
        )


@dataclass(frozen=True)
class _Found:
    """A positional neuron with its counts, int64[length]."""

    row: PositionalNeuron
    counts: NDArray[np.int64]


def positions(
    run: RunTables,
    length: int | None = None,
    site: str | None = None,
    layers: Sequence[int] | None = None,
    tick: Tick = silent,
    *,
    allow_few: bool = False,
) -> PositionAnalysis:
    """The neurons of a site whose firing depends on the position. layers: all of them if not given.

    length: take every sequence at least that long, cut to it; without it, those of the run's greatest length.
    allow_few: list neurons even from fewer than 100 sequences; else none is listed then, as any may be chance. tick:
    neurons done, of all. Raises RequestError for an unknown site or layer and where no sequence is that long;
    StoreError for a run without values, and for one of chosen tokens that do not begin at position 0 or have gaps.
    """
    chosen = chosen_layers(run, site, layers)
    if run.has_values:
        refuse_absent(chosen)
    sequences = read_sequences(run, length)
    total = sum(layer.neurons for layer in chosen)
    found: list[_Found] = []
    summaries: list[LayerPositions] = []
    done = 0
    for layer in chosen:
        of_layer: list[_Found] = []
        for chunk in fired_chunks(run, layer):
            of_layer += _positional(layer, chunk.first, sequences.count(chunk.fired), sequences)
            done += len(chunk.fired)
            tick(done, total)
        listed = of_layer if sequences.enough or allow_few else []
        summaries.append(_summary(layer, len(of_layer), [one.row for one in listed]))
        found += listed
    # The sort is stable: equal neurons stay in order of layer and neuron.
    found.sort(key=lambda one: -one.row.mutual_information)
    profiles = [one.counts / sequences.number for one in found]
    return PositionAnalysis(
        site=chosen[0].site,
        length=sequences.length,
        sequences=sequences.number,
        neurons=tuple(one.row for one in found),
        layers=tuple(summaries),
        notes=_notes(sequences, summaries, allow_few),
        profiles=np.array(profiles).reshape(len(found), sequences.length),
    )


def _positional(layer: Layer, first: int, counts: NDArray[np.int64], sequences: Sequences) -> list[_Found]:
    """The positional ones among the neurons from `first` on. counts: int64[neurons, length], sequences in which each
    fired at each position.
    """
    of = sequences.number
    information = mutual_information(counts, of)
    here = np.flatnonzero(information > POSITIONAL)
    counts = counts[here]
    fired = counts.sum(axis=1) / (of * sequences.length)
    columns = (
        (first + here).tolist(),
        information[here].tolist(),
        profile_types(counts, of),
        profile_strengths(counts, of),
        fired.tolist(),
    )
    return [
        _Found(PositionalNeuron(layer.site, layer.layer, *row), profile)
        for *row, profile in zip(*columns, counts, strict=True)
    ]


def _notes(sequences: Sequences, layers: Sequence[LayerPositions], allow_few: bool) -> tuple[str, ...]:
    if sequences.enough:
        return ()
    passing, neurons = sum(layer.would_pass for layer in layers), sum(layer.neurons for layer in layers)
    if allow_few:
        return (f"{sequences.few}: what is listed may be chance{sequences.longer}",)
    would = f"{passing:,} of {neurons:,} neurons would pass, which may be chance, and none is listed"
    said = would if passing else f"none of {neurons:,} neurons would pass"
    return (f"{sequences.few}: {said}{sequences.longer}",)


def _summary(layer: Layer, would_pass: int, rows: Sequence[PositionalNeuron]) -> LayerPositions:
    return LayerPositions(
        site=layer.site,
        layer=layer.layer,
        neurons=layer.neurons,
        would_pass=would_pass,
        positional=len(rows),
        strong=sum(row.strength == "strong" for row in rows),
        types={name: sum(row.type == name for row in rows) for name in TYPES},
    )
