"""Ablating neurons of a running model: their values are replaced before the model uses them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nfinspect.models import LayerSite, LoadedModel, SilentHook, WrongSite
from nfinspect.models.checks import first_tensor


@dataclass(frozen=True)
class LayerAblation:
    """Neurons of one layer and the values that replace theirs: int64[neurons], float32[neurons]; None: 0."""

    site: LayerSite
    neurons: NDArray[np.int64]
    values: NDArray[np.float32] | None = None


@contextmanager
def ablated(loaded: LoadedModel, layers: Sequence[LayerAblation]) -> Iterator[None]:
    """Every forward pass inside this context runs without these neurons; afterwards the model is as before.

    Raises SilentHook after a pass that did not call every layer exactly once (a fused kernel may bypass a projection,
    as Mamba's does in training), so that no result is reported for an ablation that did not happen; WrongSite for
    another width than the site's.
    """
    modules = dict(loaded.model.named_modules())
    calls = {layer.site: 0 for layer in layers}

    def begins(*_: object) -> None:
        for site in calls:  # a pass that raised did not reach `finished`
            calls[site] = 0

    def finished(*_: object) -> None:
        for site, count in calls.items():
            if count != 1:
                raise SilentHook(
                    f"expected {site.module} of layer {site.layer} to be called once in a forward pass, found "
                    f"{count} times: a fused kernel or a replaced forward bypasses the module, nothing was cut out"
                )

    with ExitStack() as hooks:
        for layer in layers:
            replace = _replacing(layer, calls)
            module = modules[layer.site.module]
            if layer.site.site == "resid":
                hooks.enter_context(_removed(module.register_forward_hook(_on_output(replace))))
            else:
                hooks.enter_context(_removed(module.register_forward_pre_hook(_on_input(replace, layer.site))))
        hooks.enter_context(_removed(loaded.model.register_forward_pre_hook(begins)))
        hooks.enter_context(_removed(loaded.model.register_forward_hook(finished)))
        yield


def _replacing(layer: LayerAblation, calls: dict[LayerSite, int]) -> Callable[[Tensor], Tensor]:
    neurons = torch.as_tensor(layer.neurons, dtype=torch.long)
    values = None if layer.values is None else torch.as_tensor(layer.values)
    site = layer.site

    def replace(whole: Tensor) -> Tensor:
        nonlocal neurons, values
        if whole.shape[-1] != site.neurons:
            raise WrongSite(
                f"expected {site.neurons} neurons at {site.module} of layer {site.layer}, found {whole.shape[-1]}"
            )
        calls[site] += 1
        neurons = neurons.to(whole.device)
        changed = whole.clone()
        if values is None:
            changed[..., neurons] = 0
        else:
            values = values.to(whole.device)
            changed[..., neurons] = values.to(whole.dtype)
        return changed

    return replace


def _on_input(
    replace: Callable[[Tensor], Tensor], site: LayerSite
) -> Callable[[nn.Module, tuple[object, ...]], tuple[object, ...]]:
    def hook(_: nn.Module, args: tuple[object, ...]) -> tuple[object, ...]:
        if not args or not isinstance(args[0], Tensor):
            raise WrongSite(
                f"expected {site.module} of layer {site.layer} to get its neurons as first positional argument, found "
                "another call"
            )
        return (replace(args[0]), *args[1:])

    return hook


def _on_output(replace: Callable[[Tensor], Tensor]) -> Callable[[nn.Module, object, object], object]:
    def hook(_: nn.Module, args: object, output: object) -> object:
        hidden = first_tensor(output)
        assert hidden is not None  # every block returns hidden states
        changed = replace(hidden)
        return (changed, *output[1:]) if isinstance(output, tuple | list) else changed

    return hook


@contextmanager
def _removed(handle: "torch.utils.hooks.RemovableHandle") -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()
