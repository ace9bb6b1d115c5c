"""The inputs of the selective scans of Mamba mixers, read while the model runs.

They are read as transformers 5.23 computes them. Forward hooks on `dt_proj` and `conv1d` never fire there, as their
weights are used without the modules: the step size Δ (nfinspect.models.mamba_delta) and, in Mamba-2, the convolution
are recomputed from what hooks see.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nfinspect.experiments.errors import AttentionUnavailable
from nfinspect.models import LayerSite, LoadedModel, body, forward_batch
from nfinspect.models.mamba_delta import StepSize, step_sizes


@dataclass(frozen=True)
class Scan:
    """One layer's scan over one sequence, all float32 whatever the model's dtype.

    A head shares one Δ: it is a channel in Mamba, `head_dim` channels in Mamba-2. u: [heads, channels per head,
    tokens]; delta: [heads, tokens], after softplus; A: [heads, state], negative; B, C: [groups, tokens, state], each
    group shared by heads / groups heads; D: [heads]; gate: like u, None if the output is gated later (Mamba-2).
    """

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    gate: Tensor | None


Sink = Callable[[int, Scan, Tensor], None]
"""Takes (layer, scan, output); output: of the scan in the model, float[tokens, channels]: in Mamba the input of
`out_proj`, in Mamba-2 that of the gated norm."""


def read_scans(loaded: LoadedModel, sites: Sequence[LayerSite], token_ids: Sequence[int], sink: Sink) -> None:
    """Pass the scan of every `mixer` site over one sequence to `sink`, layer by layer, while the model runs.

    Raises AttentionUnavailable for a mixer that is neither Mamba's, FalconMamba's nor Mamba-2's.
    """
    model = loaded.model
    steps = {step.layer: step for step in step_sizes(model, sites)}
    mixers: list[_Mixer] = []
    for site in sites:
        module = model.get_submodule(site.module.rpartition(".")[0])
        if site.layer not in steps:
            raise AttentionUnavailable(
                f"expected a Mamba, FalconMamba or Mamba-2 mixer in layer {site.layer}, found {type(module).__name__}: "
                "its scan is not known; --method gradient_guided needs none"
            )
        mixers.append(_Mixer(module, steps[site.layer], sink))
    inputs = forward_batch(model, [token_ids], pad_id=loaded.pad_id).inputs()
    try:
        for mixer in mixers:
            mixer.attach()
        with torch.inference_mode():
            body(model)(**inputs)
    finally:
        for mixer in mixers:
            mixer.detach()


class _Mixer:
    """The hooks on one mixer."""

    def __init__(self, module: nn.Module, step: StepSize, sink: Sink) -> None:
        self._module: Any = module
        self._step = step
        self._sink = sink
        self._seen: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []
        self._two = step.projection is self._module.in_proj

    def attach(self) -> None:
        self._after("in_proj", "projected")
        if self._two:
            self._before("norm", "output")
        else:
            self._before("x_proj", "u")
            self._after("x_proj", "selected")
            self._before("out_proj", "output")
        self._handles.append(self._module.register_forward_hook(self._done))

    def detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._seen.clear()

    def _before(self, child: str, name: str) -> None:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            self._seen[name] = args[0]

        self._handles.append(getattr(self._module, child).register_forward_pre_hook(hook))

    def _after(self, child: str, name: str) -> None:
        def hook(module: nn.Module, args: object, output: Tensor) -> None:
            self._seen[name] = output

        self._handles.append(getattr(self._module, child).register_forward_hook(hook))

    def _done(self, module: nn.Module, args: object, output: object) -> None:
        wanted = {"projected", "output"} if self._two else {"projected", "u", "selected", "output"}
        missing = wanted - set(self._seen)
        if missing:
            raise AttentionUnavailable(
                f"expected the mixer of layer {self._step.layer} to call its projections, found no call that gives "
                f"{', '.join(sorted(missing))}: a fused kernel bypasses them"
            )
        projected, output_there = self._seen["projected"], self._seen["output"][0]
        if self._two:
            delta = self._step.delta(projected[0, :, self._step.held])
            scan = mamba2_scan(self._module, delta, projected)
        else:
            selected = self._seen["selected"]
            delta = self._step.delta(selected[0, :, self._step.held])
            scan = mamba_scan(self._module, delta, projected, self._seen["u"], selected)
        self._seen.clear()
        self._sink(self._step.layer, scan, output_there)


def mamba_scan(mixer: Any, delta: Tensor, projected: Tensor, u: Tensor, selected: Tensor) -> Scan:
    """The scan of a Mamba mixer, or of a FalconMamba mixer, which also normalises B and C.

    delta: [tokens, channels]; projected: the output of `in_proj`, [1, tokens, 2 · channels], the gate second; u: the
    input of `x_proj`; selected: its output, [1, tokens, rank + 2 · state].
    """
    state = mixer.ssm_state_size
    _, B, C = selected[0].tensor_split([mixer.time_step_rank, mixer.time_step_rank + state], -1)
    if hasattr(mixer, "b_layernorm"):
        B, C = mixer.b_layernorm(B), mixer.c_layernorm(C)
    gate = projected[0].chunk(2, -1)[1]
    return Scan(
        u=u[0].T[:, None].float(),
        delta=delta.T,
        A=-torch.exp(mixer.A_log.float()),
        B=B[None].float(),
        C=C[None].float(),
        D=mixer.D.float(),
        gate=gate.T[:, None].float(),
    )


def mamba2_scan(mixer: Any, delta: Tensor, projected: Tensor) -> Scan:
    """The scan of a Mamba-2 mixer.

    delta: [tokens, heads]; projected: the output of `in_proj`: [1, tokens, gate + (channels, B and C) + heads].
    """
    from transformers.activations import ACT2FN

    width, heads, groups, state = mixer.intermediate_size, mixer.num_heads, mixer.n_groups, mixer.ssm_state_size
    tokens = projected.shape[1]
    into = projected[0, :, width : 2 * width + 2 * groups * state].T
    conv = mixer.conv1d
    filtered = F.conv1d(into[None], conv.weight, conv.bias, padding=conv.padding, groups=conv.groups)[0, :, :tokens]
    mixed: Tensor = ACT2FN[mixer.activation](filtered).float()
    u, B, C = mixed.tensor_split([width, width + groups * state])
    return Scan(
        u=u.reshape(heads, width // heads, tokens),
        delta=delta.T,
        A=-torch.exp(mixer.A_log.float())[:, None].expand(heads, state),
        B=B.reshape(groups, state, tokens).transpose(1, 2),
        C=C.reshape(groups, state, tokens).transpose(1, 2),
        D=mixer.D.float(),
        gate=None,
    )
