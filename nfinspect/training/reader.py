"""Hooks that pass on the values of a module's layers while it runs, as [tokens, neurons]. They change nothing.

The last axis of a layer's output is its neurons. The exception is the output of a convolution, or of a normalisation by
channel: its channels are the neurons, and every position of every sample is a token. Which of the two it is follows
from the layer's projection, the last module with parameters that ran before it. The projection also distinguishes the
calls of an activation module that a network uses several times: called again after the same projection (a loop over
time, shared weights) it is the same layer, after a different one it is a different layer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils.hooks import RemovableHandle

from nfinspect.training.errors import NotReadable, SilentLayer
from nfinspect.training.hooks import Hook, is_traced, is_transformed
from nfinspect.training.layer_finder import Place
from nfinspect.training.training_passes import Call, Passes, visible_rows


@dataclass(frozen=True)
class Key:
    """A layer: where it is read, and the projection that it follows if that distinguishes it."""

    place: Place
    projection: str = ""


@dataclass(frozen=True)
class LayerValues:
    """One call of a layer. values: [tokens, neurons], on the module's device and in its dtype; raw: the tensor itself.

    fired: bool[tokens, neurons] if the layer fires by its gate. again: the layer is recomputed for its gradients, and
    its values were passed on before.
    """

    values: Tensor
    fired: Tensor | None
    raw: Tensor
    again: bool = False


Sink: TypeAlias = Callable[[Key, LayerValues], None]


class LayerReader:
    """Passes every call of the layers to `sink` between `attach` and `detach`.

    training: only calls in a training pass (nfinspect.training.training_passes); `begin_step` resets `called`.
    """

    def __init__(self, model: nn.Module, places: Sequence[Place], sink: Sink, *, training: bool = False) -> None:
        self._model, self._places, self._sink = model, tuple(places), sink
        self._training = training
        self._modules = dict(model.named_modules())
        self._handles: list[RemovableHandle] = []
        self._projection: tuple[str, nn.Module | None] = ("", None)
        self._gates: dict[str, Tensor] = {}
        self._passes = Passes(model, masks=True)
        self._transformed = self._apart = False
        self.called: set[Place] = set()

    def attach(self) -> None:
        try:
            self._attach()
        except BaseException:
            self.detach()
            raise

    def _attach(self) -> None:
        activations = {place.module for place in self._places}
        self._passes.attach(self._handles)
        for name, module in self._modules.items():
            if name not in activations and any(True for _ in module.parameters(recurse=False)):
                self._handles.append(module.register_forward_hook(Hook(self._see_projection, name)))
        for place in self._places:
            if place.gate is not None:
                gate = self._modules[place.gate]
                self._handles.append(gate.register_forward_hook(Hook(self._see_gate, place.gate)))
            module = self._modules[place.module]
            if place.reads == "input":
                self._handles.append(module.register_forward_pre_hook(Hook(self._see_input, place), with_kwargs=True))
            else:
                self._handles.append(module.register_forward_hook(Hook(self._see_output, place)))

    def detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._gates.clear()
        self._projection = ("", None)
        self.begin_step()

    def begin_step(self) -> None:
        self._passes.begin_step()
        self.called.clear()
        self._transformed = self._apart = False

    def in_order(self, keys: Sequence[Key]) -> list[Key]:
        """Layers, given in the order in which they were read, in the order of the network."""
        if not self._passes.recomputed:
            return list(keys)
        return sorted(reversed(keys), key=lambda key: self._places.index(key.place))

    def check_called(self) -> None:
        """Raises SilentLayer if a layer was not called since `begin_step`."""
        silent = [place for place in self._places if place not in self.called]
        if silent:
            apart = self._apart and not self._transformed
            raise SilentLayer(_why_silent(silent, self._modules, bool(self.called), self._transformed, apart))

    def _see_projection(self, name: str, module: nn.Module, args: object, output: object) -> None:
        if not is_traced():
            self._projection = (name, module)

    def _see_gate(self, name: str, module: nn.Module, args: object, output: object) -> None:
        gate = None if is_traced() else first_tensor(output)
        if gate is not None:
            self._gates[name] = gate.detach()

    def _see_input(self, place: Place, module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, Any]) -> None:
        self._take(place, module, first_tensor(args or tuple(kwargs.values())))

    def _see_output(self, place: Place, module: nn.Module, args: object, output: object) -> None:
        own_gate = None
        if isinstance(module, nn.GLU) and isinstance(args, tuple) and place.fires == "gate":
            own_gate = args[0].detach().chunk(2, module.dim)[1]
        self._take(place, module, first_tensor(output), own_gate)

    def _take(self, place: Place, module: nn.Module, raw: Tensor | None, gate: Tensor | None = None) -> None:
        if is_traced():
            # The values of such code cannot be read: the layer counts as not called.
            if not torch.compiler.is_compiling() and is_transformed():
                self._transformed = True
            return
        call = self._passes.call_of(place) if self._training else Call.READ
        if call is Call.APART:
            self._apart = True
            return
        self.called.add(place)
        if raw is None or not raw.dim() or not raw.is_floating_point():
            what = "no tensor" if raw is None else f"{raw.dtype} of shape {list(raw.shape)}"
            raise NotReadable(
                f"expected activations from {place.module or 'the module'}, found {what}: name another layer"
            )
        name, projection = (place.module, module) if _has_axis(module) else self._projection
        with torch.no_grad():
            values = raw.detach()
            if place.apply is not None:
                values = place.apply(values)
            values = self._rows(values, projection)
            if len(values):
                fired = self._fired(place) if gate is None else self._rows(gate, projection) > 0
                key = Key(place, name if place.apart else "")
                self._sink(key, LayerValues(values, fired, raw, again=call is Call.AGAIN))

    def _rows(self, values: Tensor, projection: nn.Module | None) -> Tensor:
        """[tokens, neurons], without padding."""
        moved = values.movedim(_neuron_axis(projection, values.dim()), -1)
        rows = moved.reshape(-1, moved.shape[-1])
        return visible_rows(rows, tuple(moved.shape[:-1]), self._passes.mask)

    def _fired(self, place: Place) -> Tensor | None:
        if place.fires != "gate":
            return None
        gate = self._gates.pop(place.gate or "", None)
        if gate is None:
            raise SilentLayer(
                f"expected the gate {place.gate} to be called before {place.module}, found no call: a fused kernel may "
                "compute it without the module; name layers that are called, as in layers=[…]"
            )
        gate = gate if place.gate_slice is None else gate[..., slice(*place.gate_slice)]
        return self._rows(gate, None) > 0


def layer_names(keys: Sequence[Key]) -> list[str]:
    """Names of layers: the module, and the projection that it follows if the module is several layers."""
    modules = [key.place.module for key in keys]
    return [
        f"{key.place.module} after {key.projection}" if modules.count(key.place.module) > 1 else key.place.module
        for key in keys
    ]


def first_tensor(value: object) -> Tensor | None:
    """A tensor, or the first in a tuple, a packed sequence or a model's output; None if there is none."""
    if isinstance(value, Tensor) or value is None:
        return value
    if isinstance(value, nn.utils.rnn.PackedSequence):
        return value.data
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        return next((found for item in value if (found := first_tensor(item)) is not None), None)
    return None


def _has_axis(module: nn.Module) -> bool:
    """Whether the module that is read is its own projection, and so says which axis its neurons are on."""
    return any(True for _ in module.parameters(recurse=False)) and not isinstance(module, nn.PReLU)


def _neuron_axis(projection: nn.Module | None, dimensions: int) -> int:
    """The axis of a projection's output that is its neurons."""
    if isinstance(projection, _ConvNd):
        spatial = len(projection.kernel_size)
        return -(spatial + 1) if dimensions > spatial else -1
    by_channel = nn.modules.batchnorm._BatchNorm, _InstanceNorm, nn.GroupNorm
    return 1 if isinstance(projection, by_channel) and dimensions > 1 else -1


def _why_silent(
    silent: Sequence[Place], modules: Mapping[str, nn.Module], others: bool, transformed: bool, apart: bool
) -> str:
    names = ", ".join(place.module for place in silent[:3]) + (" …" if len(silent) > 3 else "")
    if transformed:
        return (
            f"expected a call of {names} with tensors that can be read, found only calls under a transform of "
            "torch.func (vmap, grad, …): call the module itself in the loop, or read it with check_epoch()"
        )
    if apart:
        return (
            f"expected a call of {names} in a training pass, found only calls without gradients (torch.no_grad()): a "
            "frozen part, or a validation; name the layers that are trained, as in layers=[…]"
        )
    if any(place.site == "mixer" for place in silent):
        return (
            f"expected {names} to be called, found no call: in training mode on a GPU Mamba's fused kernel uses the "
            "weights of out_proj without calling it, so its neurons cannot be read there; name the blocks instead "
            '(layers=["backbone.layers.0", …]), or read the model in eval mode'
        )
    if not others:
        return (
            f"expected a forward pass through {names}, found none: give the module whose forward() you call; modules "
            "that torch.compile has compiled cannot be read"
        )
    kinds = ", ".join(sorted({type(modules[place.module]).__name__ for place in silent}))
    return (
        f"expected {names} ({kinds}) to be called, found no call: a fused kernel, torch.compile or a replaced forward "
        "bypasses the module, or this pass did not need it; name the layers that are called, as in layers=[…]"
    )
