"""Reading sites in decoding steps that run as one compiled graph, which itself copies their values into buffers.

A hook in Python does not run when a graph is replayed. Here hooks are there while the graph is made, and what they do
is recorded in it: one copy into a buffer of fixed address, at a place that a counter on the device says. That is how
transformers' static cache keeps keys and values, so it holds wherever that does, under CUDA graphs too. Nothing is
read before the text is written, and nothing waits.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .checks import first_input, first_tensor
from .compiled import modules_by_name
from .errors import ModelError
from .hooks import not_finite, silent
from .sites import LayerSite


class StepBuffers:
    """The values of up to `most` steps of one batch. For each batch: `attach`, then a step and `next` in turns;
    `detach`, `settle`, `take` of each site.

    Memory: as much as the values of all steps, in the model's precision, beside what is made of them.
    """

    def __init__(self, model: nn.Module, sites: Sequence[LayerSite], most: int) -> None:
        """sites: none of experts, as which of them a token passes is found out in Python."""
        self._modules = modules_by_name(model)
        self._sites = list(sites)
        self._most = most
        self._values: dict[LayerSite, Tensor] = {}
        self._fired: dict[LayerSite, Tensor] = {}
        self._places: dict[torch.device, Tensor] = {}
        self._handles: list[RemovableHandle] = []
        self.steps = 0
        """How many steps have been written."""

    def attach(self, batch: int, like: Mapping[LayerSite, Tensor]) -> None:
        """Begin a batch: attach the hooks. like: of each site a tensor of the precision and device that it has."""
        self.steps = 0
        if any(self._values[site].shape[1] != batch for site in self._values):
            self._values, self._fired = {}, {}  # before the new ones are made: both may not fit
        for site in self._sites:
            if site not in self._values:
                values = like[site]
                shape = (self._most, batch, site.neurons)
                self._values[site] = _fixed(torch.empty(shape, dtype=values.dtype, device=values.device))
                if site.gate is not None:
                    self._fired[site] = _fixed(torch.empty(shape, dtype=torch.bool, device=values.device))
                if values.device not in self._places:
                    self._places[values.device] = _fixed(torch.zeros(1, dtype=torch.long, device=values.device))
            self._values[site].fill_(torch.nan)  # what no step writes is seen in `settle`
        for place in self._places.values():
            place.zero_()
        for site in self._sites:
            self._hook(site)

    def next(self) -> None:
        """A step has been made."""
        for place in self._places.values():
            place.add_(1)
        self.steps += 1

    def detach(self) -> None:
        """Remove the hooks; the values stay."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def settle(self) -> None:
        """Raises SilentHook for a site that a step did not write, NonFiniteActivations for NaN or infinity. Waits for
        the device.
        """
        if not self.steps or not self._sites:
            return
        found = []
        for values in (self._values[site][: self.steps] for site in self._sites):
            unwritten = values.isnan().flatten(1).all(1).any()
            zeros = values.amax(-1) * 0 + values.amin(-1) * 0
            found.append(torch.stack([unwritten, zeros.isnan().any()]))
        flags = torch.stack([one.to(found[0].device, non_blocking=True) for one in found]).tolist()
        for site, (unwritten, bad) in zip(self._sites, flags, strict=True):
            if unwritten:
                raise silent(site, 0)
            if bad:
                raise not_finite(site)

    def take(self, site: LayerSite) -> tuple[Tensor, Tensor | None]:
        """Of all steps: values [batch, steps, neurons], and where it fires by its gate bool of the same shape. Views of
        the buffers: copy what is kept.
        """
        fired = self._fired.get(site)
        return (
            self._values[site][: self.steps].transpose(0, 1),
            None if fired is None else fired[: self.steps].transpose(0, 1),
        )

    def _hook(self, site: LayerSite) -> None:
        keep = _keeping(self._values[site], self._places)
        module = self._modules[site.module]
        if site.site == "resid":

            def block_hook(_: nn.Module, args: object, output: object) -> None:
                keep(first_tensor(output))

            self._handles.append(module.register_forward_hook(block_hook))
            return

        # Not with_kwargs: with torch 2.8 and 2.9 a graph would know the hook by its number, and each batch make its
        # own. A module that is given its input by name is refused.
        def input_hook(_: nn.Module, args: tuple[object, ...]) -> None:
            keep(first_input(args, {}))

        self._handles.append(module.register_forward_pre_hook(input_hook))
        if site.gate is None:
            return
        keep_fired = _keeping(self._fired[site], self._places)
        start, stop = site.gate_slice or (0, site.neurons)

        def gate_hook(_: nn.Module, args: object, output: object) -> None:
            gate = first_tensor(output)
            keep_fired(None if gate is None else gate[..., start:stop] > 0)

        self._handles.append(self._modules[site.gate].register_forward_hook(gate_hook))


def _keeping(buffer: Tensor, places: Mapping[torch.device, Tensor]) -> Callable[[Tensor | None], None]:
    """What copies the values of a step, [batch, 1, neurons] or [batch, neurons], into the buffer."""
    place, batch, neurons = places[buffer.device], buffer.shape[1], buffer.shape[2]

    def keep(values: Tensor | None) -> None:
        if values is None:
            raise ModelError("expected a tensor at every site of a step, found none")
        buffer.index_copy_(0, place, values.detach().reshape(1, batch, neurons))

    return keep


def _fixed(tensor: Tensor) -> Tensor:
    """A tensor that a graph may change in place: CUDA graphs then neither copy it nor refuse it."""
    torch._dynamo.mark_static_address(tensor, guard=False)
    return tensor
