"""Where a layer's values are while they are processed, how they are transposed, and how they get to the CPU.

On a CUDA GPU they stay tensors there, on whichever GPU computes the layer; elsewhere they are numpy arrays on the CPU
(docs/decisions/0003).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import numpy as np
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
    """A numpy array of the same values, float32 if they had fewer bits; waits for a GPU."""
    return array.to(_wide(array)).cpu().numpy() if isinstance(array, Tensor) else array


def by_neuron(array: NDArray[Any]) -> NDArray[Any]:
    """[tokens, neurons] transposed; a copy, even if a view would be contiguous.

    By torch: its transposing copy takes a fifth of the time of numpy's.
    """
    return _turned(torch.from_numpy(array)).numpy()


def start_copy(array: Array) -> Callable[[], NDArray[Any]]:
    """Start copying [tokens, neurons] to the CPU as [neurons, tokens]; call the returned function for the result, with
    the types of `to_host`.

    On a GPU it is transposed at once and copied while the GPU goes on computing. On the CPU the store's compiled loops
    transpose it on its way into the blocks; without them it is transposed here, on that call.
    """
    if isinstance(array, Tensor):
        return begin_copy(_turned(array))
    return array.transpose if kernels.compiled() else partial(by_neuron, array)


def _wide(tensor: Tensor) -> torch.dtype:
    """What numpy has: it knows no bfloat16."""
    return torch.float32 if tensor.dtype in (torch.bfloat16, torch.float16) else tensor.dtype


def _turned(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape[::-1], dtype=_wide(tensor), device=tensor.device).copy_(tensor.t())


def sent(array: NDArray[Any], device: torch.device) -> Tensor:
    """A tensor of the same values on `device`; nothing waits for it."""
    from nfinspect.models import to_device  # imports transformers, which a training does without

    return to_device(torch.from_numpy(array), device)


def rows_of(array: Array, rows: NDArray[np.int64]) -> Array:
    """These rows of [tokens, neurons], on the same device; nothing waits for them."""
    if isinstance(array, Tensor):
        return array.index_select(0, sent(rows, array.device))
    return array[rows]


def begin_copy(array: Array) -> Callable[[], NDArray[Any]]:
    """Start copying to the CPU; the returned function gives the array, as `to_host` does. From a CUDA GPU it goes to
    pinned memory that torch caches and reuses.
    """
    if not (isinstance(array, Tensor) and array.is_cuda):
        return lambda: to_host(array)
    host = torch.empty(array.shape, dtype=_wide(array), pin_memory=True)
    host.copy_(array, non_blocking=True)
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record(torch.cuda.current_stream(array.device))

    def wait() -> NDArray[Any]:
        copied.synchronize()
        return host.numpy()

    return wait
