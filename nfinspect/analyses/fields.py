"""What analyses have in common: fields of layers and neurons, how these are counted, and results kept as documents."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nfinspect.analyses.analysis_spec import Field, part
from nfinspect.present.charts import percent
from nfinspect.present.numbers import counted

NEURON = Field("neuron", "layer and neuron, each from 0", "neuron", "neuron", width=11)
LAYER = Field("layer", "layer, from 0", "layer", "layer", width=6, ascending=True)
NEURONS = Field("neurons", "neurons of the layer", "neurons", "count", spare=2)


@dataclass(frozen=True)
class Told:
    """A result that is held as its command's document."""

    document: Mapping[str, Any]

    @property
    def notes(self) -> Sequence[str]:
        """What the reader should beware of."""
        found: Sequence[str] = self.document.get("notes", ())
        return found

    def to_json(self) -> Mapping[str, Any]:
        return self.document


def neuron_columns(fields: Sequence[Field]) -> tuple[Field, ...]:
    """The fields of neurons for data: layer and neuron as two columns, in place of the first field."""
    return (LAYER, Field("neuron", "neuron, from 0"), *fields[1:])


def share_of_layer(key: str) -> Field:
    """The share of a layer's neurons that `key` counts."""
    return Field("percent", "of the layer's neurons", "% of layer", "percent",
                 value=lambda layer: getattr(layer, key) / layer.neurons)  # fmt: skip


def percent_of_layer(key: str) -> Callable[[Mapping[str, Any]], float | None]:
    """The same in percent, of a layer of the document."""
    return lambda layer: percent(layer[key], layer["neurons"])


def total(layers: Sequence[Any], key: str = "neurons") -> int:
    """The sum of `key` over all layers, of a result or a document."""
    return sum(part(layer, key) for layer in layers)


def numbers(layers: Sequence[Any]) -> tuple[int, ...]:
    """The layers' numbers."""
    return tuple(layer.layer for layer in layers)


def among(layers: Sequence[Mapping[str, Any]]) -> str:
    """`3,072 neurons of 4 layers`, of the document's layers."""
    return f"{counted(total(layers), 'neuron')} of {counted(len(layers), 'layer')}"


def said_of_layers(key: str, what: str) -> Callable[[Sequence[Mapping[str, Any]]], str]:
    """`12 positional of 3,072 neurons`, from the document's layers. key: what is counted."""
    return lambda layers: f"{total(layers, key):,} {what} of {counted(total(layers), 'neuron')}"
