"""The self-check of the first forward pass: are the values read those that the model went on with?

Wrong tensors have shipped in other tools for years (a wrong GELU, act(gate) instead of act(gate)·up, a block's output
in place of an expert's neurons), so the first pass is checked layer by layer, and a wrong value is an error.
"""

from collections.abc import Callable, Sequence
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nfinspect_store.types import MLP_SITES

from .compiled import modules_by_name
from .errors import WrongSite
from .quantised import is_quantised
from .sites import LayerSite
from .structure import width_in

# Relative to the largest value compared. The same operation is repeated, so float32 only has to allow for another
# order of summation; half precisions for a few units in the last place.
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8, torch.bfloat16: 3e-2, torch.float16: 5e-3}

_QUANTISED = 5e-2
"""Of a quantised model: a projection may round what it is given by what else is in the batch, and only the first tokens
are given again [own]."""


def first_tensor(output: object) -> Tensor | None:
    """The hidden states in a module's output, which is a tensor or a tuple that starts with one."""
    if isinstance(output, (tuple, list)) and output:
        output = output[0]
    return output if isinstance(output, Tensor) else None


def first_input(args: tuple[object, ...], kwargs: dict[str, object]) -> Tensor | None:
    """The hidden states that a module was called with, by position or by name."""
    for value in (*args[:1], kwargs.get("hidden_states"), *kwargs.values()):
        if isinstance(value, Tensor):
            return value
    return None


def same(a: Tensor, b: Tensor, least: float = 0.0) -> bool:
    """Whether two tensors hold the same values up to their dtype's rounding; NaN equals NaN (padding).

    least: the smallest tolerance, relative to the largest value.
    """
    if a.numel() != b.numel():
        return False
    a, b = a.detach().reshape(-1), b.detach().reshape(-1)
    tolerance = max(least, _TOLERANCE.get(a.dtype, 1e-2), _TOLERANCE.get(b.dtype, 1e-2))
    a, b = a.float(), b.to(a.device).float()
    scale = float(torch.nan_to_num(b, nan=0.0, posinf=0.0, neginf=0.0).abs().max()) if b.numel() else 0.0
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance * scale, equal_nan=True)


class FirstPassCheck:
    """Hooks for one forward pass that raise WrongSite if the values read are not those that the model used.

    Projection site: the projection, applied again to what was read, gives its output, and the MLP or attention around
    it returns that output (scaled, or with its residual added, as in BLOOM, or the norm of that, as in BERT). The
    check of the return value is left out in training mode, because of dropout. Fused gate: act(gate) x up is what was
    read. `resid`: the next block starts from it; the last block's output is not checked, as no block follows.
    """

    def __init__(self, model: nn.Module, sites: Sequence[LayerSite]) -> None:
        self._handles: list[RemovableHandle] = []
        self._read: dict[LayerSite, Tensor] = {}
        self._gate_output: dict[LayerSite, Tensor] = {}
        self._projected: dict[LayerSite, Tensor] = {}
        self._least = _QUANTISED if is_quantised(model) else 0.0
        names = modules_by_name(model)
        for site in sites:
            if site.site == "resid":
                head, _, index = site.module.rpartition(".")
                follower = names.get(f"{head}.{int(index) + 1}") if index.isdigit() else None
                if follower is not None:
                    self._pre(follower, self._check_resid(site))
            else:
                self._after(names[site.module], self._check_projection(site))
                parent = names[site.module.rpartition(".")[0]]
                # OPT's projection is a direct child of the block, which returns something else.
                if width_in(parent) is None and not site.module.rpartition(".")[0].rpartition(".")[2].isdigit():
                    self._after(parent, self._check_parent(site))

    def remove(self) -> None:
        """Remove the hooks, and drop what they kept."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._read.clear()
        self._gate_output.clear()
        self._projected.clear()

    def saw(self, site: LayerSite, values: Tensor, gate_output: Tensor | None) -> None:
        """Record what the reader took from `site`, in the shape in which the module got it."""
        self._read[site] = values
        if gate_output is not None:
            self._gate_output[site] = gate_output

    def _pre(self, module: nn.Module, check: Callable[[Tensor], None]) -> None:
        def hook(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            hidden = first_input(args, kwargs)
            if hidden is not None:
                check(hidden)

        self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def _after(
        self,
        module: nn.Module,
        check: Callable[[nn.Module, tuple[object, ...], dict[str, object], object], None],
    ) -> None:
        self._handles.append(module.register_forward_hook(check, with_kwargs=True))

    def _check_resid(self, site: LayerSite) -> Callable[[Tensor], None]:
        def check(hidden: Tensor) -> None:
            read = self._read.get(site)
            if read is not None and not (read.numel() == hidden.numel() and same(_sample(read), _sample(hidden))):
                raise WrongSite(
                    f"expected the block after layer {site.layer} to start from the output of {site.module}, "
                    "found other values: something changes the hidden states between these blocks"
                )

        return check

    def _check_projection(
        self, site: LayerSite
    ) -> Callable[[nn.Module, tuple[object, ...], dict[str, object], object], None]:
        def check(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: object) -> None:
            projected, read = first_tensor(output), self._read.get(site)
            if projected is None or read is None:
                return
            sample = _sample(projected)
            self._projected[site] = sample.clone()
            # forward(), not __call__: that would run every hook again, this one included.
            with torch.no_grad():
                again = first_tensor(module.forward(_sample(read)))
            deterministic = not (module.training and any(True for _ in module.children()))
            if deterministic and (again is None or not same(again, sample, self._least)):
                raise WrongSite(
                    f"expected {site.module} of layer {site.layer}, applied to the values read, to repeat its "
                    "output, found another: a later hook changes the input, or the module is not a projection"
                )
            self._check_gate(site, read)

        return check

    def _check_gate(self, site: LayerSite, read: Tensor) -> None:
        whole = self._gate_output.get(site)
        if (
            whole is None
            or site.site not in MLP_SITES
            or site.gate_slice is None
            or whole.shape[-1] != 2 * site.neurons
        ):
            return
        from transformers.activations import ACT2FN

        if site.activation not in ACT2FN:
            return
        start, stop = site.gate_slice
        gate = whole[..., start:stop]
        up = whole[..., site.neurons :] if start == 0 else whole[..., : site.neurons]
        if not same(ACT2FN[site.activation](_sample(gate)) * _sample(up), _sample(read)):
            raise WrongSite(
                f"expected layer {site.layer} to multiply {site.activation}(gate) by up, found other values "
                f"at {site.module}: it is not known which part of {site.gate} is the gate in this model"
            )

    def _check_parent(
        self, site: LayerSite
    ) -> Callable[[nn.Module, tuple[object, ...], dict[str, object], object], None]:
        def check(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: object) -> None:
            out, projected = first_tensor(output), self._projected.get(site)
            if module.training or out is None or projected is None:
                return
            whole, out = out.numel(), _sample(out)
            if out.shape == projected.shape:
                added = [torch.zeros_like(out), *(_sample(a) for a in (*args, *kwargs.values()) if _like(a, whole))]
                if any(_proportional(out - r, projected) for r in added):
                    return
                with torch.no_grad():
                    normed = [norm.forward(projected + r) for norm in _norms(module) for r in added]
                if any(_proportional(out, first_tensor(n)) for n in normed):
                    return
            raise WrongSite(
                f"expected {type(module).__name__} of layer {site.layer} to return what {site.module} "
                "projects, found other values: this is not the output projection"
            )

        return check


SAMPLE = 64
"""Tokens that are checked: a wrong module differs on the very first, and checking a large batch takes seconds."""


def _sample(values: Tensor) -> Tensor:
    """The first tokens of [..., tokens, features]: [SAMPLE or fewer, features]."""
    return values.detach().reshape(-1, values.shape[-1])[:SAMPLE]


def _like(value: object, elements: int) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.numel() == elements and value.is_floating_point()


def _norms(module: nn.Module) -> list[nn.Module]:
    return [child for child in module.children() if "norm" in type(child).__name__.lower()]


def _scaled(values: Tensor) -> Tensor:
    """[values] up to a factor: the squares of weights that have run away would overflow."""
    largest = values.abs().max() if values.numel() else values.new_zeros(())
    return values / largest if float(largest) > 0 else values


def _proportional(a: Tensor, b: Tensor | None) -> bool:
    """Whether a = c·b for one number c, as some families scale what the MLP returns. False without a `b`."""
    if b is None:
        return False
    # Non-finite values are left to another check, and NaN in padding rows does not matter.
    finite = a.isfinite() & b.isfinite()
    a, b = _scaled(a[finite].float()), _scaled(b[finite].float())
    square = float(b @ b)
    factor = float(a @ b) / square if square > 0 else 1.0
    error, size = float((a - factor * b).norm()), float(a.norm())
    return error <= 3e-2 * size
