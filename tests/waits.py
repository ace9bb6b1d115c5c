"""What would wait for a GPU, counted on a CPU: `Waits`; and how much of it a generation does in each step."""

from collections import Counter
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

NUMBER = "_local_scalar_dense"
OPERATIONS = (NUMBER, "is_nonzero", "item", "nonzero", "masked_select", "equal", "_unique2", "unique_consecutive")
"""Operations whose result the host must know: a number, or how many elements there are."""

METHODS = ("tolist", "numpy", "cpu", "to")
"""Methods of tensors that bring values to the host, or from it."""

SHORT, LONG = 4, 12
"""New tokens of the two generations that are compared."""


class Waits(TorchDispatchMode):
    """A context manager that counts, by name, what would wait for the device if the tensors were on a GPU.

    `to` counts where it names a device, unless it says non_blocking; a mask counts as an index of its own name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self._own: dict[str, Any] = {}

    def __enter__(self) -> Self:
        for name in METHODS:
            self._own[name] = Tensor.__dict__.get(name)
            setattr(Tensor, name, self._counting(name, getattr(Tensor, name)))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for name, own in self._own.items():
            if own is None:
                delattr(Tensor, name)
            else:
                setattr(Tensor, name, own)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        # In inference mode what leads to the one operation is seen instead of it.
        self.count[NUMBER if name in ("is_nonzero", "item") else name] += name in OPERATIONS
        if name in ("index", "index_put_"):
            self.count["mask as an index"] += any(x is not None and x.dtype == torch.bool for x in args[1])
        return func(*args, **(kwargs or {}))

    def _counting(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def counted(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            self.count[name] += name != "to" or _waits(*args, **kwargs)
            return method(tensor, *args, **kwargs)

        return counted


def _waits(*args: Any, **kwargs: Any) -> bool:
    """Whether `Tensor.to` with these arguments may move a tensor, and then waits for it."""
    moves = "device" in kwargs or any(isinstance(one, str | torch.device | Tensor) for one in args)
    return moves and not kwargs.get("non_blocking", False)


def per_step(generate: Callable[[int], object]) -> dict[str, float]:
    """How often each thing is waited for in one step of `generate(new tokens)`: by name, without those that never are.

    What is done once, however many steps there are, is no part of it.
    """
    counts = []
    for new in (SHORT, LONG):
        with Waits() as waits:
            generate(new)
        counts.append(waits.count)
    short, long = counts
    return {name: (long[name] - short[name]) / (LONG - SHORT) for name in long if long[name] != short[name]}
