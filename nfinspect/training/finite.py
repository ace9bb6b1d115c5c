"""In which layer NaN or infinity begins: looked for in every step, because a step later all weights hold it.

On the CPU a layer's sum is looked at when the layer has run. A GPU is not waited for: the first step at which a layer's sum was
not finite is kept there and fetched with the next reading.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nfinspect.training.places import Place
from nfinspect.training.reader import first_tensor

NEVER = 2**62


@dataclass(frozen=True)
class Beginning:
    """Where it began. first: whether the layer is the first one that ran; weights: parameters that were not finite then."""

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
    """Hooks on the layers of a module in training."""

    def __init__(self, model: nn.Module, places: Sequence[Place]) -> None:
        self._model = model
        self._step = 0
        self._order: dict[str, None] = {}
        self._found: Beginning | None = None
        self._on_device: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []
        modules: Mapping[str, nn.Module] = dict(model.named_modules())
        for name in dict.fromkeys(place.module for place in places):
            reads_input = any(p.module == name and p.reads == "input" for p in places)
            module = modules[name]
            if reads_input:
                self._handles.append(module.register_forward_pre_hook(partial(self._see_input, name)))
            else:
                self._handles.append(module.register_forward_hook(partial(self._see_output, name)))

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
        if not torch.is_grad_enabled():
            return
        tensor = value if isinstance(value, Tensor) else first_tensor(value)
        if tensor is None or self._found is not None:
            return
        self._order.setdefault(name)
        # One sum carries every NaN and infinity; float16 would overflow in a sum of its own type.
        with torch.no_grad():
            total = tensor.detach().sum(dtype=torch.float32)
            if total.device.type == "cpu":
                if not math.isfinite(total) and not bool(tensor.detach().isfinite().all()):
                    self._found = Beginning(self._step, name, name == next(iter(self._order)), self._bad_weights())
                return
            before = self._on_device.get(name)
            if before is None:
                before = torch.full((), NEVER, dtype=torch.int64, device=total.device)
            bad = ~total.isfinite() & (before == NEVER)
            self._on_device[name] = torch.where(bad, torch.full_like(before, self._step), before)

    def _bad_weights(self) -> tuple[str, ...]:
        return tuple(name for name, p in self._model.named_parameters() if not bool(p.isfinite().all()))
