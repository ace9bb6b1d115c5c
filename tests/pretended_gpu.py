"""A CUDA GPU that is not there: `pretended_gpu()`.

Its tensors say that they are on cuda:0, and are refused where a real GPU refuses them: beside tensors of the CPU, and
as numpy arrays. Their values are in main memory, so that what is computed is what the CPU computes. A copy that nobody
waits for arrives only when somebody waits; until then its target holds garbage.

So a test sees that nothing is on the wrong device and that nothing is read too early. It says nothing of kernels and
their rounding, of CUDA graphs and of speed.
"""

import ctypes
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from tests.waits import OPERATIONS

GPU = torch.device("cuda", 0)
CPU = torch.device("cpu")

GARBAGE = 0xA5
"""Every byte of memory that a copy has not reached yet."""

MIXED = ("copy_", "_to_copy", "to", "index", "index_put_", "_index_put_impl_")
"""Operations that take tensors of the CPU beside those of a GPU: copies, and indices."""

MOVES = ("_to_copy", "to", "cpu")


class OnGPU(Tensor):
    """A tensor of the pretended GPU. held: its values, on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnGPU":
        made: Any = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=GPU,
        )
        made.held = held.detach()
        return made  # type: ignore[no-any-return]

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"OnGPU({self.held!r})"

    def tolist(self) -> Any:
        _waited("tolist")
        return self.held.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    __array__ = numpy

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _operate(func, args, kwargs or {})


class _Copies:
    """Those to pinned memory that are on their way, in the order in which they were begun."""

    def __init__(self) -> None:
        self.begun = 0
        self._left: list[Callable[[], object]] = []
        self._lock = threading.Lock()
        self._pinned: list[Tensor] = []

    def pin(self, tensor: Tensor) -> Tensor:
        self._pinned.append(tensor)  # held, so that no other memory is taken for it
        return tensor

    def is_pinned(self, tensor: Tensor) -> bool:
        return any(tensor.untyped_storage().data_ptr() == one.untyped_storage().data_ptr() for one in self._pinned)

    def begin(self, target: Tensor, source: Tensor) -> None:
        now = source.clone()  # what is computed later does not change it
        with self._lock:
            target.copy_(
                torch.full([target.numel() * target.itemsize], GARBAGE, dtype=torch.uint8)
                .view(target.dtype)
                .view(target.shape)
            )
            self._left.append(lambda: target.copy_(now))
            self.begun += 1

    def arrive(self, until: int | None = None) -> None:
        """Wait for the first `until` of all that were ever begun, or for all."""
        with self._lock:
            arrived = self.begun - len(self._left)
            count = len(self._left) if until is None else max(0, until - arrived)
            for copy in self._left[:count]:
                copy()
            del self._left[:count]


_copies = _Copies()


class _Event:
    def record(self, stream: object = None) -> None:
        self._until = _copies.begun

    def synchronize(self) -> None:
        _copies.arrive(self._until)


class _Beside(TorchDispatchMode):
    """Operations without a tensor of the GPU: those that make one there, or bring one there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _operate(func, args, kwargs or {})


def _operate(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation, on the values that are held."""
    name = func.overloadpacket.__name__
    given = {one.name: value for one, value in zip(func._schema.arguments, args, strict=False)} | kwargs
    tensors = [one for one in tree_leaves(given) if isinstance(one, Tensor)]
    there = [one for one in tensors if isinstance(one, OnGPU)]
    if there and name not in MIXED and any(not isinstance(one, OnGPU) and one.dim() for one in tensors):
        raise RuntimeError(f"Expected all tensors to be on the same device, but found cuda:0 and cpu: {func}")
    if name in ("pin_memory", "_pin_memory") and not there:
        return _copies.pin(given["self"].clone())
    if name == "is_pinned":
        return not there and _copies.is_pinned(given["self"])
    if name == "copy_" and there and not isinstance(given["self"], OnGPU):
        target, source = given["self"], given["src"].held
        if given.get("non_blocking") and _copies.is_pinned(target):
            _copies.begin(target, source)
        else:
            _waited(name)
            target.copy_(source)
        return target
    if there and (name in OPERATIONS or (name in MIXED and _by_mask(given.get("indices")))):
        _waited(name)
    to = _named(given) or (GPU if there else CPU)
    pinned = given.pop("pin_memory", None)
    held = tree_map(lambda one: one.held if isinstance(one, OnGPU) else one, given)
    if held.get("device") is not None:
        held["device"] = CPU
    done = _computed(name, func, held)
    if to.type == "cpu":
        return _fetched(name, done, there, given) if there else _copies.pin(done) if pinned else done
    before = {id(one.held): one for one in there}
    sent = not there and bool(tensors)

    def placed(one: Any) -> Any:
        if not isinstance(one, Tensor):
            return one
        same = before.get(id(one))  # changed in place, or nothing to do
        if same is not None and same.shape == one.shape and same.stride() == one.stride():
            return same
        return OnGPU(one.clone() if sent else one)

    # A view of a tensor made outside inference mode is one of outside, too.
    views = any(one.alias_info is not None for one in func._schema.returns)
    outside = views and not any(one.is_inference() for one in there)
    with torch.inference_mode(torch.is_inference_mode_enabled() and not outside):
        return tree_map(placed, done)


def _computed(name: str, func: Any, held: dict[str, Any]) -> Any:
    if name == "histc" and not held["self"].is_floating_point():  # a GPU counts whole numbers, too
        return func(**{**held, "self": held["self"].double()}).to(held["self"].dtype)
    return func(**held)


def _named(given: dict[str, Any]) -> torch.device | None:
    """The device that an operation names."""
    if isinstance(given.get("other"), Tensor) and "non_blocking" in given:  # x.to(other)
        return given["other"].device  # type: ignore[no-any-return]
    return None if given.get("device") is None else torch.device(given["device"])


def _fetched(name: str, done: Any, there: list[OnGPU], given: dict[str, Any]) -> Any:
    """What has come to the CPU, or was made there."""
    if name.endswith("_like") or name.startswith("new_"):
        return done
    assert isinstance(done, Tensor) and name in MOVES, f"{name} is not known to copy to the CPU"
    if any(done is one.held for one in there):
        done = done.clone()
    if given.get("non_blocking"):
        _copies.begin(done, done)
    else:
        _waited(name)
    return done


def _by_mask(indices: Any) -> bool:
    return any(one is not None and one.dtype == torch.bool for one in indices or ())


_told = False


def _waited(name: str) -> None:
    """The host waits for all that the GPU has to do."""
    _copies.arrive()
    if _told:
        warnings.warn(f"called a synchronizing CUDA operation: {name}", stacklevel=2)


def _tell(mode: str) -> None:
    global _told
    _told = mode == "warn"


GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
namespace { C10_REGISTER_GUARD_IMPL(CUDA, c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>) }
"""


@cache
def _guard() -> None:
    """A build of torch for CPUs knows no device but those: it is given one on which nothing has to be done."""
    torch_at = Path(torch.__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "guard.cpp"), Path(folder, "guard.so")
        source.write_text(GUARD)
        paths = [f"-I{torch_at / 'include'}", f"-L{torch_at / 'lib'}", "-lc10"]
        words = ["g++", "-std=c++20", "-shared", "-fPIC", str(source), "-o", str(library), *paths]
        subprocess.run(words, check=True, capture_output=True)
        ctypes.CDLL(str(library))


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """torch sees one CUDA GPU inside, in this thread; tensors that were made there may be used in others."""
    instead: dict[str, Any] = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_name": lambda device=None: "a GPU that is not there",
        "current_stream": lambda device=None: None,
        "synchronize": lambda device=None: _copies.arrive(),
        "empty_cache": lambda: None,
        "memory_reserved": lambda device=None: 0,
        "max_memory_allocated": lambda device=None: 0,
        "reset_peak_memory_stats": lambda device=None: None,
        "set_sync_debug_mode": _tell,
        "Event": _Event,
    }
    _guard()
    overwritten = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    lifted = torch._C._only_lift_cpu_tensors()  # type: ignore[attr-defined]
    torch._C._set_only_lift_cpu_tensors(True)  # type: ignore[attr-defined]
    try:
        with ExitStack() as stack:
            for name, what in instead.items():
                stack.enter_context(mock.patch.object(torch.cuda, name, what))
            stack.enter_context(_Beside())
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwritten)
        torch._C._set_only_lift_cpu_tensors(lifted)  # type: ignore[attr-defined]
