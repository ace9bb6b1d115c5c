"""The firing analyzer: missing, weak, dead, saturated and sporadic neurons in a tensor, a module or a simulation."""

import inspect
from collections import UserDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nfinspect.analysis.classes import HealthOptions, ThresholdScale
from nfinspect.analysis.scores import LayerHealth
from nfinspect.capturing.statistics import HistogramCounter
from nfinspect.capturing.transfer import to_workplace
from nfinspect.modes import eval_mode
from nfinspect.training.errors import NonFiniteLayer
from nfinspect.training.layer_finder import SITE, Layers, find_places, unwrapped
from nfinspect.training.reader import Key, LayerReader, LayerValues, layer_names
from nfinspect.training.reports import NetworkFiringReport, NeuralLayerAnalysis
from nfinspect.training.samples import LayerSample, classified, take_sample
from nfinspect_store.errors import RequestError
from nfinspect_store.types import Layer

ACTIVATION_RATE = 0.30
"""The activation rate below which a layer has an issue (methods §2: the founding notes' figure)."""

Input: TypeAlias = Any
"""What a module is called with: a tensor or array, a mapping (its keyword arguments), a tuple or list (its positional
ones), or a loader of such batches; of a loader's tuple or list only the first item is used (inputs before targets)."""


class NeuralFiringAnalyzer:
    """Classifies the neurons of networks by the rules of methods §2.

    threshold_missing, threshold_weak: for E|a| itself, or for E|a| in layer scales with threshold_scale 'layer'.
    threshold_activation_rate: a layer in which a smaller share of (token, neuron) pairs fires has an issue. Raises
    RequestError for impossible thresholds.
    """

    def __init__(
        self,
        threshold_missing: float = 0.01,
        threshold_weak: float = 0.1,
        *,
        threshold_scale: ThresholdScale = "absolute",
        threshold_activation_rate: float = ACTIVATION_RATE,
    ) -> None:
        self.options = HealthOptions(
            threshold_missing, threshold_weak, threshold_scale, threshold_activation_rate=threshold_activation_rate
        )

    def analyze_activation_tensor(
        self, activation_tensor: NDArray[Any] | Tensor, layer_name: str = "layer", activation: str = ""
    ) -> NeuralLayerAnalysis:
        """One layer from its activations, [..., neurons] with any leading shape (move channels to the last axis first).

        A neuron fires where its value is positive. activation: the function's name ('relu', 'tanh', …), if known: a
        neuron of the ReLU family is dead if it is 0 throughout, of another activation if it never reaches
        threshold_missing. Without a name only a neuron that is 0 throughout is dead, and others with E|a| below
        threshold_missing are missing.
        Raises RequestError for an array without values, NonFiniteLayer for NaN or infinite ones.
        """
        values = _real_values(activation_tensor)
        summed = _Summed(layer_name, 0, SITE, activation, "positive", values.shape[-1])
        summed.add(values.reshape(-1, values.shape[-1]), None, self.options)
        return summed.result(self.options)[1]

    def analyze_pytorch_model(
        self, model: nn.Module, input_data: Input, *, layers: Layers = None
    ) -> NetworkFiringReport:
        """The layers of a module, over a forward pass of the input (or over a loader of inputs).

        layers: names of modules whose output is read, or a mapping from such names to the activation that forward()
        applies to it; by default the module's activation modules, recurrent layers and nn.Transformer layers, or the
        MLP neurons of a language model of transformers. The last axis is the neurons; after a convolution the channels
        are the neurons, and each position of each sample counts as a token. Tokens masked by an attention mask do not
        count.

        The module runs in eval mode without gradients; its modes and the random generators are restored. Raises
        NoLayers, SilentLayer, NotReadable, NonFiniteLayer (for the first layer with NaN or infinity), RequestError.
        """
        inner = unwrapped(model)
        places = find_places(inner, layers)
        sums: dict[Key, _Summed] = {}

        def take(key: Key, found: LayerValues) -> None:
            if key not in sums:
                place = key.place
                sums[key] = _Summed(
                    place.module, len(sums), place.site, place.activation, place.fires, found.values.shape[1]
                )
            sums[key].add(found.values, found.fired, self.options)

        reader = LayerReader(inner, places, take)
        with _undisturbed(inner):
            reader.attach()
            try:
                for batch in _batches(input_data):
                    reader.begin_step()
                    _call(inner, batch)
                    reader.check_called()
            finally:
                reader.detach()
        if not sums:
            raise RequestError("expected input with at least one token for the layers, found none")
        for name, summed in zip(layer_names(list(sums)), sums.values(), strict=True):
            summed.name = name or type(inner).__name__
        return self._report(list(sums.values()))

    def analyze_simulated_llm_activations(
        self,
        num_layers: int = 12,
        hidden_size: int = 768,
        sequence_length: int = 512,
        simulate_issues: bool = False,
        seed: int = 0,
    ) -> NetworkFiringReport:
        """A simulated network of ReLU neurons, healthy, or with planted faults that increase from layer to layer.

        Nothing in it comes from a model. Raises RequestError for sizes too small for the faults.
        """
        from nfinspect.analysis.planted import SHARES, NetworkPlan, planted_network

        plan = NetworkPlan(
            layers=num_layers,
            neurons=hidden_size,
            tokens=sequence_length,
            seed=seed,
            shares=dict(SHARES) if simulate_issues else {},
        )
        found = []
        for planted in planted_network(plan):
            layer = planted.layer
            summed = _Summed(
                f"transformer_layer_{layer.layer}", layer.layer, SITE, layer.activation, layer.fires, layer.neurons
            )
            summed.add(torch.from_numpy(planted.values), None, self.options)
            found.append(summed)
        return self._report(found)

    def visualize_firing_patterns(
        self, report: NetworkFiringReport, save_path: str | Path = "firing_patterns.png"
    ) -> Path:
        """Draw a report, as PNG or what the suffix says; returns the path. Raises NotInstalled, StorageFull."""
        from nfinspect.training.figures import draw_report

        return draw_report(report, Path(save_path))

    def _report(self, sums: "Sequence[_Summed]") -> NetworkFiringReport:
        from nfinspect.analysis.health import report_of_layers

        results = [summed.result(self.options) for summed in sums]
        return NetworkFiringReport.of(
            report_of_layers([health for health, _ in results]), [layer for _, layer in results]
        )


def check_firing_health(report: NetworkFiringReport | nn.Module, input_data: Input = None) -> list[str]:
    """The alerts of a report, or of a module over some input: `Critical: …`, `Warning: …`; empty if there are none."""
    if isinstance(report, nn.Module):
        report = NeuralFiringAnalyzer().analyze_pytorch_model(report, input_data)
    return list(report.alerts)


class _Summed:
    """One layer, summed up batch by batch."""

    def __init__(self, name: str, layer: int, site: str, activation: str, fires: str, neurons: int) -> None:
        self.name = name
        self._layer = Layer(layer, site, layer, name, neurons, activation, fires)
        self._sample: LayerSample | None = None
        self._histogram: HistogramCounter | None = None

    def add(self, values: Tensor, fired: Tensor | None, options: HealthOptions) -> None:
        """Add [tokens, neurons], with one token or more."""
        layer = self._layer
        if values.shape[1] != layer.neurons:
            raise RequestError(
                f"expected {layer.neurons} neurons in {self.name} in every batch, found {values.shape[1]}: give "
                "batches of one size, or name other layers"
            )
        values = values.detach().float().contiguous()
        sample = take_sample(values, fired, layer.activation, layer.fires, options.threshold_weak)
        if sample is None:
            raise NonFiniteLayer(
                f"expected finite values, found NaN or infinity in {self.name} (the first layer with any): its weights "
                "or its input are not finite, or it overflows its dtype"
            )
        self._sample = sample if self._sample is None else self._sample.merge(sample)
        if self._histogram is None:
            self._histogram = HistogramCounter(layer.neurons)
        self._histogram.add(to_workplace(values, values.device))

    def result(self, options: HealthOptions) -> tuple[LayerHealth, NeuralLayerAnalysis]:
        """The layer's health, for the network's report and for the user."""
        from nfinspect.analysis.site_health import health_of_layer  # imports the store's reader

        assert self._sample is not None
        assert self._histogram is not None
        neurons = classified(replace(self._layer, module=self.name), self._sample, options)
        health = health_of_layer(neurons, self._histogram.fetch(), options)
        return health, NeuralLayerAnalysis.of(health, neurons.classes, self._sample.tokens)


def _real_values(given: NDArray[Any] | Tensor) -> Tensor:
    """The tensor, or the array as a tensor. Raises RequestError for what is not [..., neurons] of real numbers."""
    try:
        array = given if isinstance(given, Tensor) else np.asarray(given)
    except ValueError as error:
        raise RequestError(f"expected activations of [..., neurons], found ragged rows: {error}") from error
    if np.ma.isMaskedArray(given):
        raise RequestError("expected activations without a mask, found a masked array: give only its unmasked rows")
    if isinstance(array, Tensor):
        real = not (array.is_complex() or array.is_quantized or array.is_meta or array.is_nested)
        real = real and array.layout == torch.strided
    else:
        real = array.dtype.kind in "fiub"
    if not array.ndim or 0 in array.shape or not real:
        raise RequestError(f"expected activations of [..., neurons], found shape {list(array.shape)} of {array.dtype}")
    if isinstance(array, Tensor):
        return array
    with np.errstate(over="ignore"):  # values beyond float32 become infinite, and are refused later
        # A copy if the array is read-only: torch would warn about that.
        return torch.from_numpy(np.require(array, np.float32, ["C", "W"]))


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients or fused attention; modes, that setting and the random generators are restored."""
    fast = torch.backends.mha.get_fastpath_enabled()
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    try:
        # With a padding mask, nn.TransformerEncoder's fast path uses nested tensors, which cannot be read.
        torch.backends.mha.set_fastpath_enabled(False)
        with eval_mode(model), torch.no_grad(), torch.random.fork_rng(devices=devices):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _batches(given: Input) -> Iterator[Input]:
    if isinstance(given, Tensor | np.ndarray | Mapping | tuple | list):
        yield given
        return
    if given is None or not hasattr(given, "__iter__"):
        raise RequestError(
            f"expected input for the module (a tensor, a mapping, a loader), found {type(given).__name__}"
        )
    for batch in given:
        yield batch[0] if isinstance(batch, tuple | list) and batch else batch


def _takes_as_one(model: nn.Module, batch: Mapping[str, Any]) -> bool:
    """Whether forward() takes a batch as one mapping, as a LightningModule's often does, not as keyword arguments."""
    signature = inspect.signature(model.forward)
    try:
        signature.bind(**batch)
    except TypeError:
        try:
            signature.bind(batch)
        except TypeError:
            return False
        return True
    return False


def _call(model: nn.Module, batch: Input) -> None:
    parameter = next(model.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device

    def placed(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(value)
        return value.to(device) if isinstance(value, Tensor) else value

    if isinstance(batch, nn.utils.rnn.PackedSequence):  # also a tuple
        model(batch.to(device))  # type: ignore[arg-type]
    elif isinstance(batch, Mapping):
        given = {str(name): placed(value) for name, value in batch.items()}
        if _takes_as_one(model, given):
            model(type(batch)(given) if isinstance(batch, UserDict) else given)  # a BatchEncoding has attributes, too
        else:
            model(**given)
    elif isinstance(batch, tuple | list):
        model(*(placed(value) for value in batch))
    else:
        model(placed(batch))
