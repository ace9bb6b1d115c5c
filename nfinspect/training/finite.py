"""In which layer NaN or infinity begins: checked in every step, because one step later all weights are affected.

On the CPU the outputs of small layers are kept until the last layer has run, and only its sum is checked, as NaN and
infinity propagate to it. If that is not finite, it began in the first kept layer that is not. The sum of a large layer
is checked as soon as it has run, and so is that of every layer if a bounded activation could make infinity finite
again. A GPU is not waited for: the first step in which a layer's sum was not finite is stored there and fetched with
the next reading.

Layers that run only within a backward pass (nfinspect.training.training_passes) run in reverse order: each is checked
at once, and it began in the last one found.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nfinspect.analysis.module_names import layer_words
from nfinspect.training.hooks import Hook, is_traced
from nfinspect.training.layer_finder import Place
from nfinspect.training.reader import first_tensor
from nfinspect.training.training_passes import Call, Passes, inside_backward

NEVER = 2**62
HALVES = (torch.float16, torch.bfloat16)
"""Dtypes in which sums overflow or round too much."""

KEPT_VALUES = 2**20
"""The most values of a pass's layers that are kept: 4 MiB, which gradient checkpointing would have freed."""

BOUNDING = ("hardtanh", "relu6", "sigmoid", "tanh")
"""Activation functions that map infinity to a finite value."""


@dataclass(frozen=True)
class Beginning:
    """Where it began. first: whether it is the first layer; weights: parameters that were not finite at that time."""

    step: int
    layer: str
    first: bool
    weights: tuple[str, ...]

    @property
    def text(self) -> str:
        if self.weights:
            more = f" and {len(self.weights) - 1} more" if len(self.weights) > 1 else ""
            cause = f"weights were not finite before: {self.weights[0]}{more}"
        elif self.first:
            cause = "it is the first layer that is read: look at the input, too"
        else:
            cause = "the layers before it are finite"
        return f"NaN or infinity begins in {layer_words(self.layer)} ({cause})"


class FiniteWatch:
    """Hooks on the layers of a module in training. waits: check at once; by default only on the CPU."""

    def __init__(self, model: nn.Module, places: Sequence[Place], *, waits: bool | None = None) -> None:
        self._model, self._waits = model, waits
        self._passes = Passes(model)
        self._reads_input = {
            name: any(place.module == name and place.reads == "input" for place in places)
            for name in dict.fromkeys(place.module for place in places)
        }
        self._keeps = not any(place.activation in BOUNDING for place in places)
        self._step = 0
        self._order: dict[str, None] = {}
        self._last = ""
        self._kept: list[tuple[str, Tensor, int]] = []
        self._room = KEPT_VALUES
        self._changed: set[str] = set()
        self._found: Beginning | None = None
        self._on_device: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []
        self.attach()

    def attach(self) -> None:
        """Attach the hooks again after `remove`; at first they are attached."""
        try:
            self._attach()
        except BaseException:
            self.remove()
            raise

    def _attach(self) -> None:
        modules: Mapping[str, nn.Module] = dict(self._model.named_modules())
        self._passes.attach(self._handles)
        for name, reads_input in self._reads_input.items():
            if reads_input:
                self._handles.append(modules[name].register_forward_pre_hook(Hook(self._see_input, name)))
            else:
                self._handles.append(modules[name].register_forward_hook(Hook(self._see_output, name)))

    def begin_step(self, step: int) -> None:
        """The next passes belong to `step`."""
        self._step = step
        self._passes.begin_step()
        if self._keeps and not self._last and self._order:
            self._last = next(reversed(self._order))

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._kept, self._room = [], KEPT_VALUES

    def take(self, *, fetch: bool) -> Beginning | None:
        """Where it began, if it did since the last call, else None. fetch: wait for a GPU's answer."""
        self._look_back()
        found, self._found = self._found, None
        if found is None and fetch and self._on_device:
            order = list(self._order if self._on_device.keys() <= self._order.keys() else self._reads_input)
            names = sorted(self._on_device, key=order.index)
            steps = torch.stack([self._on_device[name].cpu() for name in names]).tolist()
            self._on_device.clear()
            if min(steps) < NEVER:
                name = names[steps.index(min(steps))]
                found = Beginning(min(steps), name, name == order[0], ())
        return found

    def _see_input(self, name: str, module: nn.Module, args: tuple[object, ...]) -> None:
        self._look(name, args)

    def _see_output(self, name: str, module: nn.Module, args: object, output: object) -> None:
        self._look(name, output)

    def _look(self, name: str, value: object) -> None:
        if is_traced() or self._passes.call_of(name) is not Call.READ:
            return
        backwards = inside_backward()
        if self._found is not None and not backwards:
            return
        tensor = value if isinstance(value, Tensor) else first_tensor(value)
        if tensor is None or not tensor.is_floating_point():
            return
        if not backwards:
            self._order.setdefault(name)
        tensor = tensor.detach()
        if not (tensor.is_cpu if self._waits is None else self._waits):
            self._note_on_device(name, tensor)
            return
        if backwards:
            if not _is_finite(tensor):
                self._found = Beginning(self._step, name, name == next(iter(self._reads_input)), self._bad_weights())
            return
        size = tensor.numel()
        inference = tensor.is_inference()
        self._kept.append((name, tensor, 0 if inference else tensor._version))
        self._room -= size
        # Until the end of the first step it is not known which layer is the last.
        if name == self._last or not self._last or self._room < 0 or inference or name in self._changed:
            self._look_back()

    def _look_back(self) -> None:
        """Check the layer that was kept last and, if it is not finite, find the first one that is not."""
        if not self._kept:
            return
        kept, self._kept, self._room = self._kept, [], KEPT_VALUES
        for name, tensor, version in kept[:-1]:
            if tensor._version != version:  # changed in place: from now on its output is checked at once
                self._changed.add(name)
        if self._found is not None or _is_finite(kept[-1][1]):
            return
        for name, tensor, _ in kept:
            if (name not in self._changed or tensor is kept[-1][1]) and not _is_finite(tensor):
                self._found = Beginning(self._step, name, name == next(iter(self._order)), self._bad_weights())
                return

    def _note_on_device(self, name: str, tensor: Tensor) -> None:
        total = _sum(tensor)
        before = self._on_device.get(name)
        if before is None:
            before = torch.full((), NEVER, dtype=torch.int64, device=total.device)
        bad = ~total.isfinite() & (before == NEVER)
        self._on_device[name] = torch.where(bad, torch.full_like(before, self._step), before)

    def _bad_weights(self) -> tuple[str, ...]:
        # Detached: what autograd saves in a checkpointed layer must be the same when the layer is recomputed.
        return tuple(name for name, p in self._model.named_parameters() if not bool(p.detach().isfinite().all()))


def _sum(tensor: Tensor) -> Tensor:
    """The sum, to which every NaN and infinity propagates."""
    return tensor.sum(dtype=torch.float32) if tensor.dtype in HALVES else tensor.sum()


def _is_finite(tensor: Tensor) -> bool:
    # A sum may overflow by itself. item(): math.isfinite() of a tensor takes 12 µs more.
    return math.isfinite(_sum(tensor).item()) or bool(tensor.isfinite().all())
