"""Where a layer's values are while they are processed, how they are transposed, and how they get to the CPU.

On a CUDA GPU they stay tensors there, on whichever GPU computes the layer; elsewhere they are numpy arrays on the CPU
(docs/decisions/0003).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torch
from numpy.typing import NDArray
from torch import Tensor

from nfinspect_store import kernels

Array: TypeAlias = NDArray[Any] | Tensor


def workplace(tensor: Tensor) -> torch.device:
    """Where a tensor's statistics are computed: its CUDA GPU, else the CPU, as other accelerators lack float64."""
    return tensor.device if tensor.is_cuda else torch.device("cpu")


def to_workplace(tensor: Tensor, device: torch.device) -> Array:
    """A tensor where its statistics are computed: on its GPU as a tensor, on the CPU as a numpy array."""
    return tensor.to(device) if device.type != "cpu" else tensor.cpu().numpy()


def to_host(array: Array) -> NDArray[Any]:
    """A numpy array of the same values; waits for a GPU."""
    return array.cpu().numpy() if isinstance(array, Tensor) else array


def by_neuron(array: Array) -> Array:
    """[tokens, neurons] transposed, on the same device; a copy, even if a view would be contiguous.

    By torch on the CPU, too: its transposing copy takes a fifth of the time of numpy's.
    """
    return _turned(array) if isinstance(array, Tensor) else _turned_array(array)


def start_copy(array: Array) -> Callable[[], NDArray[Any]]:
    """Start copying [tokens, neurons] to the CPU as [neurons, tokens]; call the returned function for the result.

    On a GPU it is transposed at once and copied while the GPU goes on computing. On the CPU the store's compiled loops
    transpose it on its way into the blocks; without them it is transposed here, on that call.
    """
    if isinstance(array, Tensor):
        return _begin_copy(_turned(array))
    return array.transpose if kernels.compiled() else partial(_turned_array, array)


def _turned_array(array: NDArray[Any]) -> NDArray[Any]:
    return _turned(torch.from_numpy(array)).numpy()


def _turned(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape[::-1], dtype=tensor.dtype, device=tensor.device).copy_(tensor.t())


def _begin_copy(tensor: Tensor) -> Callable[[], NDArray[Any]]:
    """Start copying to the CPU. From a CUDA GPU the copy goes to pinned memory that torch caches and reuses."""
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
