"""Where a model is: choosing a device, moving a model or a tensor there, and the devices of a model on several."""

from importlib.util import find_spec

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .errors import ModelError, UnsupportedModel

SPREAD = ("balanced", "sequential")
"""Devices that are transformers' device maps: over all GPUs, and the main memory for what does not fit there."""


def choose_device(device: str) -> torch.device:
    """The torch device for 'auto', 'cpu', 'cuda', 'cuda:1', 'mps'. Raises ModelError if this machine lacks it."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise ModelError(
            f"expected a device such as auto, cpu, cuda, cuda:1, mps or balanced, found '{device}': check the spelling"
        ) from error
    if place.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (place.index or 0) >= count:
            raise ModelError(
                f"expected one of the {count} CUDA devices that torch sees, found '{device}': a CPU build of "
                "torch or CUDA_VISIBLE_DEVICES hides the others"
            )
        return torch.device("cuda", place.index or 0)
    if place.type == "mps" and not torch.backends.mps.is_available():
        raise ModelError("expected a machine with MPS, found none: use --device cpu")
    return place


def choose_place(device: str) -> torch.device | str:
    """The torch device that choose_device finds, or a device map of SPREAD as it is.

    Raises ModelError as choose_device does, and for a device map without the package that places weights by it.
    """
    if device not in SPREAD:
        return choose_device(device)
    if find_spec("accelerate") is None:
        raise ModelError(
            f"expected the package accelerate for --device {device}, found none: pip install accelerate, or name one "
            "device"
        )
    return device


def move(model: PreTrainedModel, place: torch.device) -> PreTrainedModel:
    """`model` with its weights on `place`. Raises ModelError if they do not fit there."""
    try:
        moved = model.to(place)  # type: ignore[arg-type]
    except torch.OutOfMemoryError as error:
        size = sum(p.numel() * p.element_size() for p in model.parameters()) / 2**30
        raise ModelError(
            f"expected {size:.1f} GiB of free memory on {place} for the weights, found less: try --dtype "
            "bfloat16, another --device (balanced: all GPUs together), or a smaller model"
        ) from error
    assert isinstance(moved, PreTrainedModel)
    return moved


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on `device`. To a CUDA GPU from pinned memory, so that nothing waits for the copy: torch keeps that
    memory until it is made.
    """
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def computes_on(module: nn.Module) -> torch.device:
    """The device on which a module computes: that of its weights, or the one to which accelerate brings them.

    The CPU for a module without weights. Raises UnsupportedModel for weights that are nowhere.
    """
    weight = next(module.parameters(), None)
    if weight is None or weight.device.type != "meta":
        return torch.device("cpu") if weight is None else weight.device
    for part in module.modules():
        hook = getattr(part, "_hf_hook", None)
        for one in getattr(hook, "hooks", (hook,)):  # several, or one
            place = getattr(one, "execution_device", None)
            if place is not None:
                return torch.device("cuda", place) if isinstance(place, int) else torch.device(place)
    raise UnsupportedModel(
        f"expected a model with its weights, found a {type(module).__name__} whose weights are on torch's meta device "
        "and come from nowhere: load it with from_pretrained"
    )


def devices_of(model: nn.Module) -> tuple[str, ...]:
    """The devices that a model computes on, in the order of its modules; not empty."""
    owners = (module for module in model.modules() if next(module.parameters(recurse=False), None) is not None)
    return tuple(dict.fromkeys(str(computes_on(module)) for module in owners)) or ("cpu",)


def spread_note(model: nn.Module) -> str:
    """What the user should know of a model on several devices, or whose weights are brought to one; '' for others."""
    devices = devices_of(model)
    weights = list(model.parameters())
    away = sum(weight.device.type == "meta" for weight in weights)
    said = [f"the model is spread over {', '.join(devices)}"] if len(devices) > 1 else []
    if away:
        said.append(
            f"{away} of its {len(weights)} weights are offloaded, to the main memory or the disk, and brought to "
            f"{devices[0]} in every pass: that is slow, and what reads weights as numbers refuses them"
        )
    return "; ".join(said)
