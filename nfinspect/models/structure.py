"""Finding one's way in a model whose type is not in the table: by names and shapes.

What is found here is a guess from the structure, so every site found this way carries a note, and
the reader's self-check (checks.py) has to confirm it on the first forward pass.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from .errors import UnsupportedModel

# Names of the gate projection of a gated MLP where gate and up are two modules. `w1` is the gate in the LLaMA
# reference naming (w2 projects back, w3 is up).
_GATE_NAMES = ("gate_proj", "w1", "gate", "linear_1", "wi_0")
_FUSED_NAMES = ("gate_up_proj", "gate_and_up_proj", "fused_gate_up_proj", "w12")


@dataclass(frozen=True)
class Found:
    """Where a site is in one block, by names relative to the block."""

    module: str
    gate: str | None = None
    gate_slice: tuple[int, int] | None = None
    note: str = ""


def decoder(model: nn.Module) -> nn.Module:
    """The module that holds the blocks, whatever heads and wrappers stand around it.

    Raises UnsupportedModel for wrappers that hide the transformers model and for encoder-decoders.
    """
    config, get_decoder = getattr(model, "config", None), getattr(model, "get_decoder", None)
    if config is None or not callable(get_decoder):
        raise UnsupportedModel(
            f"expected a transformers model, found {type(model).__name__}: "
            "if it wraps one (DistributedDataParallel, a trainer), pass the wrapped model"
        )
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModel(
            f"expected a decoder-only language model, found the encoder-decoder type '{config.model_type}'"
        )
    found = get_decoder()
    assert isinstance(found, nn.Module)
    return found


def config_of(model: nn.Module) -> Any:
    """The config of the text model: a multimodal one keeps it inside its own."""
    return decoder(model).config


def block_list(body: nn.Module, layers: int | None) -> tuple[str, nn.ModuleList]:
    """Name and modules of the stack of blocks inside `body`: the ModuleList as long as the config says.

    Raises UnsupportedModel where there is none.
    """
    lists = [(name, m) for name, m in body.named_modules() if isinstance(m, nn.ModuleList) and len(m)]
    fitting = [pair for pair in lists if layers is None or len(pair[1]) == layers]
    # Fewest dots first: a list inside a block (experts, branches) can be as long as the stack itself.
    fitting.sort(key=lambda pair: (pair[0].count("."), -len(pair[1])))
    if not fitting:
        raise UnsupportedModel(
            f"expected a list of {layers} blocks inside {type(body).__name__}, found "
            f"{[(name, len(m)) for name, m in lists] or 'no list of modules'}: this architecture is not known"
        )
    return fitting[0]


def width_in(module: nn.Module) -> int | None:
    """Number of input coordinates of a projection, None for a module that is none."""
    if isinstance(module, Conv1D):
        return int(module.nx)
    # By attribute, not by class: quantised and adapter layers have in_features too, and packed weight shapes.
    value = getattr(module, "in_features", None)
    return int(value) if isinstance(value, int) else None


def width_out(module: nn.Module) -> int | None:
    """Number of output coordinates of a projection, None for a module that is none."""
    if isinstance(module, Conv1D):
        return int(module.nf)
    value = getattr(module, "out_features", None)
    return int(value) if isinstance(value, int) else None


def _projections(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The projections in `module`, in order; not those inside an adapter layer that is itself one."""
    for name, child in module.named_children():
        if width_in(child) is not None and width_out(child) is not None:
            yield name, child
        else:
            for inner, m in _projections(child):
                yield f"{name}.{inner}", m


def has_experts(block: nn.Module) -> bool:
    """True where the block's MLP is a mixture of experts."""
    return any(
        name.rsplit(".", 1)[-1] in ("experts", "block_sparse_moe") or type(m).__name__.endswith("Experts")
        for name, m in block.named_modules()
    )


def _is(name: str, *words: str) -> bool:
    return any(word in name.lower() for word in words)


def find_mlp(block: nn.Module, hidden: int) -> Found | None:
    """The MLP's output projection: the last one back to `hidden` in the MLP, or in the block itself."""
    for child_name, child in block.named_children():
        if _is(child_name, "mlp", "ffn", "feed_forward", "feedforward", "ff_") or child_name == "ff":
            found = _mlp_in(f"{child_name}.", list(_projections(child)), hidden)
            if found is not None:  # norms and dropouts carry the MLP's name too
                return found
    own = [(n, m) for n, m in block.named_children() if width_in(m) is not None and width_out(m) is not None]
    return _mlp_in("", own, hidden)


def _mlp_in(prefix: str, projections: list[tuple[str, nn.Module]], hidden: int) -> Found | None:
    back = [(n, m) for n, m in projections if width_out(m) == hidden]
    if not back:
        return None
    name, module = back[-1]
    neurons = width_in(module) or 0
    note = f"found by structure: {prefix}{name} is the last projection back to {hidden}"
    others = [(n, m) for n, m in projections if n != name]
    for n, m in others:
        if n.rsplit(".", 1)[-1] in _FUSED_NAMES or (len(others) == 1 and width_out(m) == 2 * neurons):
            return Found(prefix + name, prefix + n, (0, neurons), f"{note}, gate the first half of {prefix}{n}")
    wide = [(n, m) for n, m in others if width_out(m) == neurons]
    if len(wide) >= 2:
        for n, _ in wide:
            if n.rsplit(".", 1)[-1] in _GATE_NAMES:
                return Found(prefix + name, prefix + n, None, f"{note}, gate {prefix}{n}")
        note += ", gate not recognised: a neuron fires where its value is positive"
    return Found(prefix + name, note=note)


def find_attn(block: nn.Module, hidden: int) -> Found | None:
    """The attention's output projection: the last projection back to `hidden` in the attention."""
    for child_name, child in block.named_children():
        if _is(child_name, "attn", "attention") and not _is(child_name, "norm", "ln", "cross"):
            back = [n for n, m in _projections(child) if width_out(m) == hidden]
            if back:
                name = f"{child_name}.{back[-1]}"
                return Found(name, note=f"found by structure: {name} is the last projection back to {hidden}")
    return None


def find_mixer(block: nn.Module) -> Found | None:
    """The output projection of a state-space mixer, and where in `in_proj` its gate lies."""
    for child_name, child in block.named_children():
        in_proj, out_proj = getattr(child, "in_proj", None), getattr(child, "out_proj", None)
        if in_proj is None or out_proj is None or not hasattr(child, "A_log"):
            continue
        neurons, wide = width_in(out_proj), width_out(in_proj)
        if neurons is None or wide is None:
            continue
        # Mamba: in_proj gives (x, z); Mamba-2: (z, x B C, dt). Mamba-2 alone has a dt_bias per head.
        gate_slice = (0, neurons) if hasattr(child, "dt_bias") else (neurons, 2 * neurons)
        note = f"found by structure: {child_name}.out_proj of a state-space mixer"
        return Found(f"{child_name}.out_proj", f"{child_name}.in_proj", gate_slice, note)
    return None
