"""Reads the layers of one training step, with hooks that are attached only for that step."""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from nfinspect.analysis.classes import HealthOptions
from nfinspect.training.errors import NotReadable
from nfinspect.training.layer_finder import Place
from nfinspect.training.reader import Key, LayerReader, LayerValues, layer_names
from nfinspect.training.samples import LayerSample, take_sample
from nfinspect.training.watch import LayerWindow, SeenLayer
from nfinspect_store.types import Layer

GOLDEN = (math.sqrt(5) - 1) / 2

Windows = dict[tuple[str, str], LayerWindow]
"""By module and projection."""


class StepReader:
    """Sums up the layers of a step, however many passes it has (gradient accumulation)."""

    def __init__(
        self,
        model: nn.Module,
        places: Sequence[Place],
        options: HealthOptions,
        *,
        max_tokens: int,
        gradients: bool,
        window: int,
        windows: Windows,
    ) -> None:
        self._reader = LayerReader(model, places, self._take, training=True)
        self._options, self._max_tokens, self._gradients, self._window = options, max_tokens, gradients, window
        self._windows = windows
        self._samples: dict[Key, LayerSample | None] = {}
        self._squares: dict[Key, list[Tensor]] = {}
        self.active = False

    def attach(self) -> None:
        self._samples, self._squares = {}, {}
        self._reader.attach()
        self.active = True

    def detach(self) -> None:
        self._reader.detach()
        self.active = False

    @property
    def called(self) -> bool:
        """Whether any layer was called since `attach`."""
        return bool(self._reader.called)

    def check_called(self) -> None:
        """Raises SilentLayer if a layer was not called since `attach`."""
        self._reader.check_called()

    def seen(self, step: int) -> list[SeenLayer]:
        """The layers that ran, in order."""
        keys = self._reader.in_order(list(self._samples))
        for name, key in zip(layer_names(keys), keys, strict=True):
            sample = self._samples[key]
            known = self._windows.get((key.place.module, key.projection))
            if known is None and sample is not None:
                place, number = key.place, len(self._windows)
                layer = Layer(
                    number, place.site, number, name or "the module", len(sample.stats.n), place.activation, place.fires
                )
                self._windows[place.module, key.projection] = LayerWindow(layer, self._window)
        found = []
        for key in keys:
            window = self._windows.get((key.place.module, key.projection))
            if window is not None:  # None: its values were never finite
                found.append(window.seen(step, self._samples[key], self._options, self._gradient(key)))
        return found

    def _take(self, key: Key, found: LayerValues) -> None:
        if self._gradients and found.raw.requires_grad:
            found.raw.register_hook(partial(self._take_gradient, key))  # type: ignore[no-untyped-call]
        if found.again:
            return
        rows = spread(len(found.values), self._max_tokens)
        values, fired = found.values, found.fired
        if rows is not None:
            rows = rows.to(values.device)
            values, fired = values[rows], None if fired is None else fired[rows]
        before = self._samples.get(key)
        if before is None and key in self._samples:
            return  # not finite in an earlier pass of this step
        if before is not None and len(before.stats.n) != values.shape[1]:
            raise NotReadable(
                f"expected {len(before.stats.n)} neurons in {key.place.module} in every pass, found {values.shape[1]}: "
                "name other layers"
            )
        place = key.place
        sample = take_sample(values, fired, place.activation, place.fires, self._options.threshold_weak)
        self._samples[key] = sample if before is None or sample is None else before.merge(sample)

    def _take_gradient(self, key: Key, gradient: Tensor) -> None:
        self._squares.setdefault(key, []).append(gradient.detach().float().square().mean())

    def _gradient(self, key: Key) -> float | None:
        """The root mean square of the gradient over the step's passes; None if there was none."""
        squares = self._squares.get(key)
        return math.sqrt(float(torch.stack(squares).mean())) if squares else None


def spread(count: int, most: int) -> Tensor | None:
    """Indices of `most` of `count` rows, evenly spread: int64[most]; None for all of them.

    The rows j · s mod count, with s about 0.618 · count and coprime to it: no random numbers, and no stride that would
    always hit the same column of an image or the same position of a sequence.
    """
    if count <= most:
        return None
    stride = max(1, int(count * GOLDEN))
    while math.gcd(stride, count) != 1:
        stride += 1
    return torch.arange(most) * stride % count
