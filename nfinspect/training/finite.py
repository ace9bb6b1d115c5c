"""In which layer NaN or infinity begins: looked for in every step, because a step later all weights hold it.

On the CPU a layer's sum is looked at when the layer has run. A GPU is not waited for: the first step at which a layer's
sum was not finite is kept there and fetched with the next reading.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nfinspect.training.hooks import Hook
from nfinspect.training.places import Place
from nfinspect.training.reader import first_tensor

NEVER = 2**62
HALVES = (torch.float16, torch.bfloat16)
"""Types whose own sums overflow or round too much."""


@dataclass(frozen=True)
class Beginning:
    """Where it began. first: whether no layer ran before it; weights: parameters that were not finite at that time."""

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
        return f"NaN or infinity begins in layer {self.layer} ({cause})"


class FiniteWatch:
    """Hooks on the layers of a module in training. waits: look at once; if not given, on the CPU alone."""

    def __init__(self, model: nn.Module, places: Sequence[Place], *, waits: bool | None = None) -> None:
        self._model, self._waits = model, waits
        self._step = 0
        self._order: dict[str, None] = {}
        self._found: Beginning | None = None
        self._on_device: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []
        modules: Mapping[str, nn.Module] = dict(model.named_modules())
        for name in dict.fromkeys(place.module for place in places):
            if any(place.module == name and place.reads == "input" for place in places):
                self._handles.append(modules[name].register_forward_pre_hook(Hook(self._see_input, name)))
            else:
                self._handles.append(modules[name].register_forward_hook(Hook(self._see_output, name)))

    def begin_step(self, step: int) -> None:
        """The passes that come belong to `step`."""
        self._step = step

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def take(self, *, fetch: bool) -> Beginning | None:
        """Where it began, if it did since the last call. fetch: wait for what a GPU knows."""
        found, self._found = self._found, None
        if found is None and fetch and self._on_device:
            names = sorted(self._on_device, key=list(self._order).index)
            steps = torch.stack([self._on_device[name].cpu() for name in names]).tolist()
            self._on_device.clear()
            if min(steps) < NEVER:
                name = names[steps.index(min(steps))]
                found = Beginning(min(steps), name, name == next(iter(self._order)), ())
        return found

    def _see_input(self, name: str, module: nn.Module, args: tuple[object, ...]) -> None:
        self._look(name, args)

    def _see_output(self, name: str, module: nn.Module, args: object, output: object) -> None:
        self._look(name, output)

    def _look(self, name: str, value: object) -> None:
        if self._found is not None or not torch.is_grad_enabled():
            return
        tensor = value if isinstance(value, Tensor) else first_tensor(value)
        if tensor is None or not tensor.is_floating_point():
            return
        self._order.setdefault(name)
        tensor = tensor.detach()
        # One sum carries every NaN and infinity.
        total = tensor.sum(dtype=torch.float32) if tensor.dtype in HALVES else tensor.sum()
        if tensor.is_cpu if self._waits is None else self._waits:
            if not math.isfinite(total) and not bool(tensor.isfinite().all()):  # a sum may overflow by itself
                self._found = Beginning(self._step, name, name == next(iter(self._order)), self._bad_weights())
            return
        before = self._on_device.get(name)
        if before is None:
            before = torch.full((), NEVER, dtype=torch.int64, device=total.device)
        bad = ~total.isfinite() & (before == NEVER)
        self._on_device[name] = torch.where(bad, torch.full_like(before, self._step), before)

    def _bad_weights(self) -> tuple[str, ...]:
        return tuple(name for name, p in self._model.named_parameters() if not bool(p.isfinite().all()))
