"""Choosing a device for a model, and moving it there."""

import torch
from transformers import PreTrainedModel

from .errors import ModelError


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
            f"expected a device such as auto, cpu, cuda, cuda:1 or mps, found '{device}': check the spelling"
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


def move(model: PreTrainedModel, place: torch.device) -> PreTrainedModel:
    """`model` with its weights on `place`. Raises ModelError if they do not fit there."""
    try:
        moved = model.to(place)  # type: ignore[arg-type]
    except torch.OutOfMemoryError as error:
        size = sum(p.numel() * p.element_size() for p in model.parameters()) / 2**30
        raise ModelError(
            f"expected {size:.1f} GiB of free memory on {place} for the weights, found less: try --dtype "
            "bfloat16, another --device, or a smaller model; a model is not split over devices"
        ) from error
    assert isinstance(moved, PreTrainedModel)
    return moved
