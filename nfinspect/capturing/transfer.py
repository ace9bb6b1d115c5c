"""Where a layer's values are while they are worked on, how they are turned, and how they come to the CPU.

On a GPU they stay tensors there; on the CPU they are numpy arrays (docs/decisions/0003).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from numpy.typing import NDArray
from torch import Tensor

Array: TypeAlias = NDArray[Any] | Tensor


@dataclass(frozen=True)
class Turned:
    """Values neuron by neuron: [neurons, tokens], contiguous."""

    values: Array  # where they were before
    on_host: Callable[[], NDArray[Any]]
    """Waits for the copy."""


def to_workplace(tensor: Tensor, device: torch.device) -> Array:
    """A tensor where its statistics are computed: on its GPU as a tensor, on the CPU as a numpy array."""
    return tensor.to(device) if device.type != "cpu" else tensor.cpu().numpy()


def to_host(array: Array) -> NDArray[Any]:
    """A numpy array of the same values; a GPU is waited for."""
    return array.cpu().numpy() if isinstance(array, Tensor) else array


def start_transpose(array: Array) -> Callable[[], Turned]:
    """Begin to turn [tokens, neurons]; the function returned gives the result.

    On a GPU it turns at once and is copied to the CPU beside whatever is computed there meanwhile. On the CPU it turns
    when it is asked for, one layer at a time, by torch: its transposing copy takes a fifth of the time of numpy's.
    """
    if not isinstance(array, Tensor):
        return lambda: _turned_array(array)
    values = _by_neuron(array)
    copied = _begin_copy(values)
    return lambda: Turned(values, copied)


def _turned_array(array: NDArray[Any]) -> Turned:
    values = _by_neuron(torch.from_numpy(array)).numpy()
    return Turned(values, lambda: values)


def _by_neuron(tensor: Tensor) -> Tensor:
    """A copy, even where nothing would have to move."""
    return torch.empty(tensor.shape[::-1], dtype=tensor.dtype, device=tensor.device).copy_(tensor.t())


def _begin_copy(tensor: Tensor) -> Callable[[], NDArray[Any]]:
    """Start copying to the CPU. From a CUDA GPU the copy goes into pinned memory that torch keeps and reuses."""
    if tensor.device.type != "cuda":
        return lambda: to_host(tensor)
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record(torch.cuda.current_stream(tensor.device))

    def wait() -> NDArray[Any]:
        copied.synchronize()
        return host.numpy()

    return wait
