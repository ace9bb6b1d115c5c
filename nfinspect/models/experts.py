"""Reading the neurons of a mixture of experts while it runs (docs/decisions/0019-experts.md).

transformers keeps a layer's experts in one module of fused tensors: expert e computes `down_proj[e]` of act(gate) x up,
or of act(up), of the tokens that the router chose it for, and multiplies that by the router's weight. A neuron is one
coordinate of the input of `down_proj[e]`, before the weight. Whichever implementation runs (a loop over experts, all at
once, grouped), that input is what the module's own `_apply_gate` or `act_fn` makes, so these are watched: nothing is
computed twice, and what the module returns is unchanged. Which row belongs to which token and expert follows from the
router's choice, which the module is called with.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.integrations import moe

from .checks import first_tensor, same
from .errors import WrongSite

CHECKED = 16
"""Rows that are checked in the first pass: a row of the wrong place or the wrong tensor shows at once."""


@dataclass(frozen=True)
class Routing:
    """What the router chose for each position of a pass."""

    experts: Tensor  # int64[batch, tokens, chosen]; -1: none, or one whose weight is 0
    weights: Tensor  # [batch, tokens, chosen], in the router's dtype


class ExpertsWatch:
    """Hooks on one module of experts; they are there until `remove`.

    After each pass of the module `taken(values, fired, routing)` is called: values [rows, width] of the experts'
    neurons, a row for each token and each expert chosen for it, in this order, 0 where none was; fired: bool of the
    same shape, None if the experts have no gate; routing: experts int64[tokens, chosen] and weights of this shape.
    checked: asked after each pass whether to verify that these values, projected by their experts and multiplied by
    their weights, are what the module returned. Raises WrongSite in the pass.
    """

    def __init__(
        self,
        module: nn.Module,
        name: str,
        taken: Callable[[Tensor, Tensor | None, Routing], None],
        checked: Callable[[], bool],
    ) -> None:
        self._module: Any = module
        self._name = name
        self._taken = taken
        self._checked = checked
        self._values: list[Tensor] = []
        self._fired: list[Tensor] = []
        self._shadow = _shadow(module, self._gate, self._activation)
        self._handles: list[RemovableHandle] = [
            module.register_forward_pre_hook(self._before),
            module.register_forward_hook(self._after, with_kwargs=True),
        ]

    def remove(self) -> None:
        """The module is as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._shadow.remove()

    def _gate(self, gate_up: Tensor) -> Tensor:
        """In place of an `_apply_gate` that the module's class defines itself."""
        values: Tensor = self._shadow.original(gate_up)
        gate = gate_up.chunk(2, dim=-1)[0] if self._module.is_concatenated else gate_up[..., ::2]
        return self._take(values, gate)

    def _activation(self, given: Tensor) -> Any:
        """In place of `act_fn`."""
        activated = self._shadow.original(given)
        if self._module.has_gate:
            return _Activated(activated, lambda values: self._take(values, given))
        return self._take(activated, None)

    def _take(self, values: Tensor, gate: Tensor | None) -> Tensor:
        self._values.append(values.detach())
        if gate is not None:
            self._fired.append(gate.detach() > 0)
        return values

    def _before(self, module: nn.Module, args: object) -> None:
        self._values, self._fired = [], []

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        values, fired = self._values, self._fired
        self._values, self._fired = [], []
        index, weights = (*args, *kwargs.values())[1:3]
        places = _places(self._module, self._name, index)
        if sum(map(len, values)) != len(places) or not values:
            raise WrongSite(
                f"expected {len(places)} rows of neurons in {self._name}, one for each token and expert chosen for it, "
                f"found {sum(map(len, values))}: its experts do not run as transformers' own do"
            )
        held = _placed(values, places, index.numel())
        experts = index.detach().long()
        weights = weights.detach()
        # Zaya, which may choose no expert, gives the weight 0 to one instead.
        chosen = (experts < self._module.num_experts) & (weights != 0)
        routing = Routing(torch.where(chosen, experts, -1), weights)
        if self._checked():
            self._check(held, routing, output)
        self._taken(held, _placed(fired, places, index.numel()) if fired else None, routing)

    def _check(self, values: Tensor, routing: Routing, output: object) -> None:
        module, returned = self._module, first_tensor(output)
        if module.down_proj.device != values.device:  # weights that are elsewhere between passes
            return
        tokens, chosen = routing.experts.shape
        # Tokens from the whole pass: its first ones may all be padding.
        some = torch.linspace(0, tokens - 1, min(tokens, max(1, CHECKED // chosen))).long().tolist()
        again = []
        with torch.no_grad():
            for token in some:
                total = torch.zeros((), device=values.device)
                for place, expert in enumerate(routing.experts[token].tolist()):
                    if expert < 0:
                        continue
                    row, weight = values[token * chosen + place], module.down_proj[expert]
                    projected = row @ weight if module.is_transposed else weight @ row
                    if module.has_bias:
                        projected = projected + module.down_proj_bias[expert]
                    if getattr(module, "has_post_expert_norm", False):  # not in older transformers
                        projected = module.post_expert_norm(projected)
                    total = total + projected.float() * routing.weights[token, place].float()
                again.append(total)
        found = None if returned is None else returned.reshape(tokens, -1)[some]
        if found is None or not same(torch.stack([one.expand(found.shape[1]) for one in again]), found):
            raise WrongSite(
                f"expected {self._name} to return what its experts project of the values read, times the router's "
                "weights, found other values: its neurons are not known"
            )


class ExpertsEdit:
    """Changes the neurons of one module of experts before they are projected; until `remove`.

    change: is given [tokens, neurons], 0 where a token has no value, and returns what the experts go on with; what it
    makes of neurons of experts that a token was not routed to has no effect. called: at each call of the module; tell:
    gets the values before and after, [rows, width].
    """

    def __init__(
        self,
        module: nn.Module,
        name: str,
        change: Callable[[Tensor], Tensor],
        called: Callable[[], None],
        tell: Callable[[Tensor, Tensor], None],
    ) -> None:
        self._module: Any = module
        self._name = name
        self._change = change
        self._called = called
        self._tell = tell
        self._index = torch.empty(0, 0, dtype=torch.long)
        self._places = torch.empty(0, dtype=torch.long)
        self._next = 0  # of the rows, in the order in which they are computed
        self._shadow = _shadow(module, self._gate, self._activation)
        self._handles: list[RemovableHandle] = [
            module.register_forward_pre_hook(self._before, with_kwargs=True),
            module.register_forward_hook(self._after),
        ]

    def remove(self) -> None:
        """The module is as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._shadow.remove()

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._index = (*args, *kwargs.values())[1].detach().long()
        self._places = _places(module, self._name, self._index)
        self._next = 0
        self._called()

    def _after(self, *_: object) -> None:
        if self._next != len(self._places):
            raise self._other_rows()

    def _other_rows(self) -> WrongSite:
        return WrongSite(
            f"expected {len(self._places)} rows of neurons in {self._name}, one for each token and expert chosen for "
            f"it, found {self._next}: its experts do not run as transformers' own do"
        )

    def _gate(self, gate_up: Tensor) -> Tensor:
        return self._changed(self._shadow.original(gate_up))

    def _activation(self, given: Tensor) -> Any:
        activated = self._shadow.original(given)
        return _Activated(activated, self._changed) if self._module.has_gate else self._changed(activated)

    def _changed(self, values: Tensor) -> Tensor:
        """[rows, width], the next ones."""
        rows, width = values.shape
        slots = self._places[self._next : self._next + rows]
        self._next += rows
        if len(slots) != rows:
            raise self._other_rows()
        tokens, chosen = self._index.shape
        expert = self._index.reshape(-1)[slots]
        there = expert < self._module.num_experts
        token = (slots // chosen)[there, None]
        column = expert[there, None] * width + torch.arange(width, device=values.device)
        whole = values.new_zeros(tokens, self._module.num_experts * width)
        whole[token, column] = values[there]
        changed = self._change(whole)
        if changed is whole:
            return values
        found = values.clone()
        found[there] = changed[token, column]
        self._tell(values, found)
        return found


def _places(module: Any, name: str, index: Tensor) -> Tensor:
    """Where the rows, in the order in which they are computed, belong in [tokens x chosen]: int64[rows]."""
    how = module.config._experts_implementation
    tokens, chosen = index.shape
    if getattr(module, "_is_expert_parallel", False):  # not in older transformers
        raise WrongSite(f"expected all experts of {name} in this process, found them in several: not read")
    if how == "batched_mm":
        return torch.arange(index.numel(), device=index.device)
    if how == "grouped_mm":
        return torch.sort(index.reshape(-1)).indices  # as the implementation itself sorts them
    if how not in (None, "eager"):
        raise WrongSite(
            f"expected {name} to run as eager, batched_mm or grouped_mm, found {how}, whose kernel does not "
            "give its neurons: load the model with experts_implementation='grouped_mm'"
        )
    # Expert by expert; of one expert first the tokens whose first choice it is, then those whose second …
    by_expert = torch.sort(index.t().reshape(-1), stable=True)
    order = by_expert.indices[by_expert.values < module.num_experts]
    return (order % tokens) * chosen + order // tokens


def _shadow(module: Any, gate: Callable[[Tensor], Any], activation: Callable[[Tensor], Any]) -> "_Shadow":
    """In place of what makes a module's neurons: its own `_apply_gate`, else its activation."""
    own = type(module)._apply_gate is not moe._default_apply_gate
    if module.has_gate and own:
        return _Shadow(module, "_apply_gate", gate)
    return _Shadow(module, "act_fn", activation)


class _Shadow:
    """An attribute of a module replaced on this one object, until `remove`. Its hooks and parameters stay."""

    def __init__(self, module: nn.Module, name: str, replacement: Callable[[Tensor], Any]) -> None:
        self.original: Callable[[Tensor], Any] = getattr(module, name)
        self._module, self._name = module, name
        self._had = name in module.__dict__  # a plain function, or the shadow of a reader around this one
        # Past nn.Module.__setattr__, which refuses anything but a module in the place of one.
        module.__dict__[name] = replacement

    def remove(self) -> None:
        if self._had:
            self._module.__dict__[self._name] = self.original
        else:
            self._module.__dict__.pop(self._name, None)


class _Activated:
    """act(gate) on its way to be multiplied by up, which is all that the experts' code does with it."""

    def __init__(self, value: Any, then: Callable[[Tensor], Tensor]) -> None:
        self._value = value  # a tensor, or one of these where readers are nested
        self._then = then

    def __mul__(self, up: Tensor) -> Tensor:
        return self._then(self._value * up)


def _placed(rows: list[Tensor], places: Tensor, number: int) -> Tensor:
    """Rows at their places among `number`; zeros elsewhere."""
    joined = rows[0] if len(rows) == 1 else torch.cat(rows)
    return joined.new_zeros(number, joined.shape[-1]).index_copy_(0, places, joined)
