"""Where a layer's values are while they are worked on, and how they come to the CPU.

On a GPU they stay tensors there; on the CPU they are numpy arrays (docs/decisions/0003).
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from numpy.typing import NDArray
from torch import Tensor

Array: TypeAlias = NDArray[Any] | Tensor


def to_workplace(tensor: Tensor, device: torch.device) -> Array:
    """A tensor where its statistics are computed: on its GPU as a tensor, on the CPU as a numpy array."""
    return tensor.to(device) if device.type != "cpu" else tensor.cpu().numpy()


def to_host(array: Array) -> NDArray[Any]:
    """A numpy array of the same values; a GPU is waited for."""
    return array.cpu().numpy() if isinstance(array, Tensor) else array


def begin_copy(array: Array) -> Callable[[], NDArray[Any]]:
    """Start copying to the CPU; the function returned waits for it and gives the array.

    From a CUDA GPU the copy runs beside what is computed there meanwhile, into pinned memory that torch keeps and
    reuses.
    """
    if not isinstance(array, Tensor) or array.device.type != "cuda":
        return lambda: to_host(array)
    host = torch.empty(array.shape, dtype=array.dtype, pin_memory=True)
    host.copy_(array, non_blocking=True)
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record(torch.cuda.current_stream(array.device))

    def wait() -> NDArray[Any]:
        copied.synchronize()
        return host.numpy()

    return wait
