"""Reading sites while a model runs: hooks that pass every layer's values to a sink.

A projection site is read by a forward pre-hook on the output projection, whose input is the neurons' values in every
family; `resid` by a forward hook on the block. Nothing is copied and nothing waits for the device, except in `settle`
(and on the first pass, which is checked: checks.py).
"""

import math
from collections.abc import Callable, Sequence
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .checks import FirstPassCheck, first_input, first_tensor
from .compiled import modules_by_name
from .errors import ModelError, NonFiniteActivations, SilentHook, UnsupportedModel, WrongSite
from .experts import ExpertsWatch, Routing
from .sites import LayerSite

Sink = Callable[[LayerSite, Tensor, Tensor | None], None]
RoutingSink = Callable[[LayerSite, Routing], None]


class SiteReader:
    """A context manager in which every forward pass of `model` passes its values to `sink`.

    For each pass: `begin(batch, tokens)`, the pass, `end()`. During the pass `sink(site, values, fired)` is called once
    per site, in the order in which the model computes them. `values` is [batch, tokens, neurons], detached, in the
    dtype and on the device that the model has there, a view of memory that the model goes on using: a sink that keeps
    it beyond the call must copy it. `fired` is bool[batch, tokens, neurons] where `site.fires` is 'gate', else None.

    Of a mixture of experts `routing(site, choice)` is called just before, and `values` and `fired` are
    [batch, tokens, chosen * width]: the neurons of the experts chosen for each token, in the order of the choice.

    With `check` the first pass is verified layer by layer (WrongSite). With `check_finite` a NaN or infinite value at a
    valid position raises NonFiniteActivations in `end`. Readers may be nested: each sees the values as changed by hooks
    registered before it.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Sequence[LayerSite],
        sink: Sink,
        *,
        check: bool = True,
        check_finite: bool = True,
        routing: RoutingSink | None = None,
        edits: str = "",
    ) -> None:
        """edits: those that the model is read with, in words, as what makes a value too large."""
        self._model = model
        self._edits = edits
        self._sites = list(sites)
        self._sink = sink
        self._routing = routing
        self._check_wanted = check
        self._check_finite = check_finite
        self._check: FirstPassCheck | None = None
        self._handles: list[RemovableHandle | ExpertsWatch] = []
        self._modules: dict[str, nn.Module] = {}
        self._shape: tuple[int, int] | None = None
        self._invalid: Tensor | None = None
        self._seen: dict[LayerSite, int] = {}
        self._gates: dict[LayerSite, Tensor] = {}
        self._bad: list[tuple[LayerSite, Tensor]] = []
        self._unsettled: dict[LayerSite, list[Tensor]] = {}  # of passes that have ended: sums of zeros, NaN where bad

    def __enter__(self) -> "SiteReader":
        if self._handles:
            raise ModelError("expected a reader that is not in use, found it entered already: create a second one")
        self._modules = modules_by_name(self._model)
        try:
            for site in self._sites:
                self._attach(site)
        except BaseException:
            self._detach()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._detach()

    def begin(self, batch: int, tokens: int, valid: Tensor | None = None) -> None:
        """Announce the next forward pass: `batch` sequences of `tokens` positions, padding included.

        `valid` (bool[batch, tokens]) marks the positions that are not padding: only they must be finite (some attention
        kernels leave NaN in padding rows). Raises UnsupportedModel if a Mamba mixer is in training mode: its fused
        kernel uses out_proj's weight and never calls the module.
        """
        for site in self._sites:
            parent = self._modules.get(site.module.rpartition(".")[0])
            if site.site == "mixer" and parent is not None and parent.training:
                raise UnsupportedModel(
                    f"expected the model in eval mode, found {site.module} of layer {site.layer} in training "
                    "mode: the fused training kernel bypasses the hook; call model.eval() or read resid"
                )
        if valid is not None and tuple(valid.shape) != (batch, tokens):
            raise ModelError(f"expected valid of shape [{batch}, {tokens}], found {list(valid.shape)}")
        self._reset()
        self._shape = (batch, tokens)
        self._invalid = None if valid is None else ~valid.bool()
        if self._check_wanted:
            self._check = FirstPassCheck(self._model, [site for site in self._sites if not site.experts])

    def end(self, *, settle: bool = True) -> None:
        """End the pass. Raises SilentHook if a site was not read exactly once since `begin`, and what `settle` raises.
        settle=False: leave that to a later call, as it waits for the device.
        """
        if self._shape is None:
            raise ModelError("expected begin() before end(), found no pass in progress")
        seen, bad = self._seen, self._bad
        self._reset()
        for site in self._sites:
            if seen.get(site, 0) != 1:
                raise silent(site, seen.get(site, 0))
        self._check_wanted = False
        for site, sum_of_zeros in bad:
            self._unsettled.setdefault(site, []).append(sum_of_zeros)
        if settle:
            self.settle()

    def settle(self) -> None:
        """Raises NonFiniteActivations for the first site, in the model's order, with a value that is not finite in any
        pass since the last call.
        """
        unsettled, self._unsettled = self._unsettled, {}
        if not unsettled:
            return
        totals = [torch.stack(sums).sum().float() for sums in unsettled.values()]
        found = torch.stack([total.to(totals[0].device, non_blocking=True) for total in totals]).tolist()
        for site, total in zip(unsettled, found, strict=True):
            if math.isnan(total):
                raise not_finite(site, self._edits)

    def _reset(self) -> None:
        if self._check is not None:
            self._check.remove()
            self._check = None
        self._shape, self._invalid = None, None
        self._seen, self._gates, self._bad = {}, {}, []

    def _detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._unsettled = {}
        self._reset()

    def _attach(self, site: LayerSite) -> None:
        module = self._module(site, site.module)
        if site.experts:
            self._handles.append(
                ExpertsWatch(
                    module,
                    f"{site.module} of layer {site.layer}",
                    lambda values, fired, routing: self._take_experts(site, values, fired, routing),
                    lambda: self._check is not None,
                )
            )
            return
        if site.site == "resid":

            def block_hook(_: nn.Module, args: object, output: object) -> None:
                self._take(site, first_tensor(output))

            self._handles.append(module.register_forward_hook(block_hook))
            return
        if site.gate is not None:

            def gate_hook(_: nn.Module, args: object, output: object) -> None:
                gate = first_tensor(output)
                if gate is not None:
                    self._gates[site] = gate.detach()

            self._handles.append(self._module(site, site.gate).register_forward_hook(gate_hook))

        def input_hook(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            self._take(site, first_input(args, kwargs))

        self._handles.append(module.register_forward_pre_hook(input_hook, with_kwargs=True))

    def _module(self, site: LayerSite, name: str) -> nn.Module:
        if name not in self._modules:
            raise WrongSite(
                f"expected a module {name} for {site.site} of layer {site.layer}, found none: "
                "the sites were found in another model"
            )
        return self._modules[name]

    def _count(self, site: LayerSite) -> None:
        """A site was read in the pass in progress."""
        if self._shape is None:
            raise ModelError("expected begin() before a forward pass inside the reader, found a pass without it")
        self._seen[site] = self._seen.get(site, 0) + 1
        if self._seen[site] > 1:
            raise silent(site, self._seen[site])

    def _take(self, site: LayerSite, raw: Tensor | None) -> None:
        self._count(site)
        values = self._shaped(site, raw, site.neurons)
        gate_output = self._gates.pop(site, None)
        fired = None
        if site.gate is not None:
            if gate_output is None:
                raise SilentHook(
                    f"expected the gate {site.gate} of layer {site.layer} to run before {site.module}, found "
                    "no call: a fused kernel may compute it without the module"
                )
            gate = gate_output if site.gate_slice is None else gate_output[..., slice(*site.gate_slice)]
            fired = self._shaped(site, gate, site.neurons) > 0
        if self._check is not None and raw is not None:
            self._check.saw(site, raw.detach(), gate_output)
        if self._check_finite:
            self._note_finite(site, values)
        self._sink(site, values, fired)

    def _take_experts(self, site: LayerSite, raw: Tensor, raw_fired: Tensor | None, routing: Routing) -> None:
        """raw: [tokens * chosen, width], as ExpertsWatch gives it."""
        self._count(site)
        chosen = routing.experts.shape[1]
        width = chosen * raw.shape[1]
        values = self._shaped(site, raw.view(-1, width), width)
        fired = None if raw_fired is None else self._shaped(site, raw_fired.view(-1, width), width)
        if self._check_finite:
            self._note_finite(site, values)
        if self._routing is not None:
            shape = (*values.shape[:2], chosen)
            self._routing(site, Routing(routing.experts.view(shape), routing.weights.reshape(shape)))
        self._sink(site, values, fired)

    def _shaped(self, site: LayerSite, raw: Tensor | None, neurons: int) -> Tensor:
        """[batch, tokens, neurons] of the module's tensor, which OPT flattens to [batch·tokens, neurons]."""
        assert self._shape is not None
        batch, tokens = self._shape
        if raw is not None:
            if raw.shape == (batch, tokens, neurons):
                return raw.detach()
            if raw.shape == (batch * tokens, neurons):
                return raw.detach().view(batch, tokens, neurons)
        found = "no tensor" if raw is None else f"{list(raw.shape)}"
        cause = "the pass has another shape than begin() announced, or the model drops padding before this module"
        if raw is not None and raw.numel() > batch * tokens * neurons and raw.numel() % (batch * tokens * neurons) == 0:
            cause = "this model has several streams in parallel there, and which one is meant is not known"
        raise WrongSite(
            f"expected [{batch}, {tokens}, {neurons}] at {site.module} of layer {site.layer}, found {found}: {cause}"
        )

    def _note_finite(self, site: LayerSite, values: Tensor) -> None:
        """Add up the values times 0: NaN if one is NaN or infinite. Nothing waits for the device."""
        if values.shape[1] == 1 and self._invalid is None:
            zeros = values * 0
        else:
            # amax and amin propagate NaN and infinities: 0.15 ms for 8 x 64 x 3072 float32 values on one core, where
            # isfinite().all() takes 3.2 ms.
            zeros = values.amax(-1) * 0 + values.amin(-1) * 0
        if self._invalid is not None:
            if self._invalid.device != zeros.device:
                self._invalid = self._invalid.to(zeros.device, non_blocking=True)
            zeros = zeros.masked_fill(self._invalid, 0)
        self._bad.append((site, zeros.sum()))


def not_finite(site: LayerSite, edits: str = "") -> NonFiniteActivations:
    """The error for NaN or infinity there. edits: those of the model, in words."""
    cause = "usually float16 overflow; try --dtype bfloat16 or float32"
    if edits:
        cause = f"the model is edited ({edits}): try smaller amounts, or a wider --dtype"
    return NonFiniteActivations(
        f"expected finite values, found NaN or infinity at {site.site} of layer {site.layer} ({site.module}): {cause}"
    )


def silent(site: LayerSite, times: int) -> SilentHook:
    """The error for a site that a pass read so many times."""
    cause = (
        "a fused kernel or a replaced forward bypasses the module, or the layer runs only with other inputs (images): "
        "leave it out with --layers"
        if times == 0
        else "several forward passes since begin(), or gradient checkpointing runs the block twice"
    )
    return SilentHook(
        f"expected {site.site} of layer {site.layer} ({site.module}) to be read once in a forward pass, "
        f"found {times} times: {cause}"
    )
