"""Finding the sites of a model whose type is not in the table, by names and shapes.

What is found here is a guess from the structure, so every site found this way carries a note, and the reader's
self-check (checks.py) has to confirm it on the first forward pass.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from .errors import UnsupportedModel

# Names of the gate projection of a gated MLP if gate and up are two modules. `w1` is the gate in LLaMA's reference
# naming (w2 projects back, w3 is up).
_GATE_NAMES = ("gate_proj", "w1", "gate", "linear_1", "wi_0")
_OUT_NAMES = ("o_proj", "out_proj", "c_proj", "dense", "out_lin", "wo", "proj", "out", "output")
_ACTIVATION_NAMES = ("act_fn", "act", "activation", "activation_fn")
_FUSED_NAMES = ("gate_up_proj", "gate_and_up_proj", "fused_gate_up_proj", "w12")


@dataclass(frozen=True)
class Found:
    """Where a site is in one block; names are relative to the block."""

    module: str
    gate: str | None = None
    gate_slice: tuple[int, int] | None = None
    note: str = ""


def decoder(model: nn.Module) -> nn.Module:
    """The module that holds the blocks, whatever heads and wrappers are around it.

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
    if getattr(found, "config", None) is None:  # a module named `decoder` may be the vocabulary projection
        found = getattr(model, getattr(model, "base_model_prefix", ""), None)
    if not isinstance(found, nn.Module) or getattr(found, "config", None) is None:
        raise UnsupportedModel(
            f"expected a part of {type(model).__name__} that holds its blocks, found none: unknown architecture"
        )
    return found


def config_of(model: nn.Module) -> Any:
    """The config of the text model, which a multimodal model's config contains."""
    return decoder(model).config


def block_list(body: nn.Module, layers: int | None) -> tuple[str, nn.ModuleList]:
    """Name and modules of the stack of blocks inside `body`: the ModuleList of the length in the config.

    Raises UnsupportedModel if there is none, or several.
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
    depth, longest = fitting[0][0].count("."), len(fitting[0][1])
    heavy = sum(_weights(m) for _, m in fitting) / 10
    rivals = [n for n, m in fitting if n.count(".") == depth and len(m) == longest and _weights(m) > heavy]
    if len(rivals) > 1:
        raise UnsupportedModel(
            f"expected blocks that are one module each, found the lists {', '.join(rivals)} next to each other in "
            f"{type(body).__name__}: it is not known where a block begins and ends"
        )
    return fitting[0]


def _learns(module: nn.Module) -> bool:
    """Whether it has parameters."""
    return next(module.parameters(), None) is not None


def _weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def width_in(module: nn.Module) -> int | None:
    """Number of input coordinates of a projection, None for other modules."""
    if isinstance(module, Conv1D):
        return int(module.nx)
    # By attribute, not by class or weight: quantised and adapter layers have in_features too, but packed weights.
    value = getattr(module, "in_features", None)
    return int(value) if isinstance(value, int) else None


def width_out(module: nn.Module) -> int | None:
    """Number of output coordinates of a projection, None for other modules."""
    if isinstance(module, Conv1D):
        return int(module.nf)
    value = getattr(module, "out_features", None)
    return int(value) if isinstance(value, int) else None


def _projections(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The projections in `module`, in order; an adapter layer counts as one, those inside it do not."""
    for name, child in module.named_children():
        if width_in(child) is not None and width_out(child) is not None:
            yield name, child
        else:
            for inner, m in _projections(child):
                yield f"{name}.{inner}", m


def has_experts(block: nn.Module) -> bool:
    """Whether the block's MLP is a mixture of experts."""
    return any(
        name.rsplit(".", 1)[-1] in ("experts", "block_sparse_moe") or type(m).__name__.endswith("Experts")
        for name, m in block.named_modules()
    )


@dataclass(frozen=True)
class FoundExperts:
    """The experts of one block; module: their name in it. gated: act(gate) x up, else act(up)."""

    module: str
    experts: int
    width: int  # neurons of each
    gated: bool
    activated: bool  # by a module or a function of their own: that is the activation which the config names
    note: str = ""


def expert_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules that transformers runs by its experts interface, by dotted name."""
    return [(name, module) for name, module in model.named_modules() if hasattr(module, "is_concatenated")]


def find_experts(block: nn.Module, hidden: int) -> FoundExperts | UnsupportedModel:
    """The experts of a block that has some; the error to raise if they cannot be read (experts.py says how)."""
    found = expert_modules(block)
    if len(found) != 1:
        words = f"{len(found)} modules of them" if found else "none that transformers runs by its experts interface"
        return UnsupportedModel(f"expected a mixture of experts in one module, found {words}: its neurons are not read")
    name, module = found[0]
    down: object = getattr(module, "down_proj", None)
    if not isinstance(down, Tensor) or down.ndim != 3 or not down.is_floating_point():
        return UnsupportedModel(
            f"expected all experts of {name} in one tensor of floating-point numbers, found "
            f"{type(down).__name__}: the neurons of a mixture of experts that is packed or quantised are not read"
        )
    beside = find_shared(block, hidden)
    return FoundExperts(
        name,
        int(down.shape[0]),
        int(down.shape[1 if getattr(module, "is_transposed", False) else 2]),
        bool(getattr(module, "has_gate", True)),
        hasattr(module, "act_fn"),
        f"the neurons of {beside.module}, which every token passes, are at the site shared and not read"
        if isinstance(beside, Found)
        else "",
    )


def find_shared(block: nn.Module, hidden: int) -> Found | UnsupportedModel | None:
    """The MLP of a block with experts that every token passes beside those chosen for it: shared experts, as one.

    Without one: the error to raise if something in the block is named so, None if nothing is.
    """
    named = [
        (name, module) for name, module in _parts(block) if _is(name.rpartition(".")[2], "shared") and _learns(module)
    ]
    of_names = (_mlp_in(f"{name}.", list(_projections(module)), hidden) for name, module in named)
    found = next((one for one in of_names if one is not None), None) or find_mlp(block, hidden)
    if isinstance(found, Found):
        scale = next((n for n, m in block.named_modules() if n.endswith("shared_expert_gate")), None)
        scaled = f"; what it returns is multiplied by the sigmoid of {scale}, one number for a token"
        return Found(found.module, found.gate, found.gate_slice, found.note + (scaled if scale else ""))
    if not named:
        return None
    return UnsupportedModel(
        f"expected an MLP of projections beside the experts, one back to {hidden}, found {named[0][0]}: it is unknown "
        "where its neurons are"
    )


def chosen_experts(config: object) -> int | None:
    """To how many experts a router sends a token, as the config says; None if it does not."""
    names = ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_topk", "moe_k", "top_k_experts")
    for value in (getattr(config, name, None) for name in names):
        if isinstance(value, int) and value > 0:
            return value
    return None


def _is(name: str, *words: str) -> bool:
    return any(word in name.lower() for word in words)


def find_mlp(block: nn.Module, hidden: int) -> Found | UnsupportedModel | None:
    """The MLP's output projection: the last one back to `hidden` in the MLP, or in the block itself.

    Without one: the error to raise if something in the block is named an MLP, None if nothing is.
    """
    mlps = [(n, m) for n, m in _parts(block) if _calls_itself_mlp(n, m)]
    for name, module in mlps:
        projections = list(_projections(module))
        found = _mlp_in(f"{name}.", projections, hidden)
        if found is not None:  # norms and dropouts carry the MLP's name too
            return _gated_by_activation(found, name, module, projections)
    # BERT and its kin: block.intermediate.dense and block.output.dense, in separate modules.
    own = [(n, m) for n, m in _projections(block) if n.startswith(("intermediate.", "output."))]
    own += [(n, m) for n, m in block.named_children() if width_in(m) is not None and width_out(m) is not None]
    found = _mlp_in("", own, hidden)
    if found is None and any(_learns(m) for _, m in mlps if not _is_norm(m)):
        kinds = ", ".join(f"{n} ({type(m).__name__})" for n, m in mlps)
        return UnsupportedModel(
            f"expected an MLP of projections, one back to {hidden}, found {kinds}: it is unknown where its neurons are"
        )
    return found


def _parts(block: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules in a block, outermost first; nothing inside an attention, a state-space mixer or a projection."""
    found: list[tuple[str, nn.Module]] = []
    for name, child in block.named_children():
        found.append((name, child))
        if not (_calls_itself_attention(name, child) or hasattr(child, "A_log") or width_in(child) is not None):
            found += [(f"{name}.{inner}", m) for inner, m in _parts(child)]
    return sorted(found, key=lambda pair: pair[0].count("."))


def _calls_itself_mlp(name: str, module: nn.Module) -> bool:
    last = name.rpartition(".")[2]
    named = last == "ff" or _is(last, "mlp", "ffn", "feed_forward", "feedforward", "ff_")
    return (named or _is(type(module).__name__, "mlp", "feedforward", "ffn")) and not _is_norm(module)


def _calls_itself_attention(name: str, module: nn.Module) -> bool:
    last = name.rpartition(".")[2]
    kind = type(module).__name__
    named = _is(last, "attn", "attention") or (_is(kind, "attention") and not _is(kind, "layer", "block"))
    return named and not _is(last, "norm", "ln", "cross", "dropout") and not _is_norm(module)


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


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
    if not wide:  # nothing projects to these neurons: a layer that links two others, not an MLP
        return None
    if len(wide) >= 2:
        for n, _ in wide:
            if n.rsplit(".", 1)[-1] in _GATE_NAMES:
                return Found(prefix + name, prefix + n, None, f"{note}, gate {prefix}{n}")
        note += ", gate not recognised: a neuron fires where its value is positive"
    return Found(prefix + name, note=note)


def _gated_by_activation(found: Found, name: str, module: nn.Module, projections: list[tuple[str, nn.Module]]) -> Found:
    """The same MLP, with its activation for the gate if other projections add to the fused one (Zamba2's adapters).

    No module's output is the gate there; that of its activation has the same sign.
    """
    if found.gate_slice is None or found.gate is None:
        return found
    both = 2 * found.gate_slice[1]
    adding = [n for n, m in projections if width_out(m) == both and f"{name}.{n}" != found.gate]
    activation = [n for n, m in module.named_children() if n in _ACTIVATION_NAMES and not _learns(m)]
    if not adding or len(activation) != 1:
        return found
    note = f"found by structure: {found.module}, gate the input of {name}.{activation[0]}, as {adding[0]} adds to it"
    return Found(found.module, f"{name}.{activation[0]}", None, note)


def find_attn(block: nn.Module, hidden: int) -> Found | UnsupportedModel | None:
    """The attention's output projection: of those back to `hidden` the last with such a name, else the last.

    Without one: the error to raise if something in the block is named an attention, None if nothing is.
    """
    attentions = [(n, m) for n, m in _parts(block) if _calls_itself_attention(n, m)]
    for part, module in attentions:
        back = [n for n, m in _projections(module) if width_out(m) == hidden and not _is(n, "gate")]
        named = [n for n in back if n.rsplit(".", 1)[-1] in _OUT_NAMES]
        if back:
            name = f"{part}.{(named or back)[-1]}"
            how = "the projection of that name" if named else "the last projection"
            return Found(name, note=f"found by structure: {name} is {how} back to {hidden}")
    if attentions:
        kinds = ", ".join(f"{n} ({type(m).__name__})" for n, m in attentions)
        return UnsupportedModel(f"expected an attention with a projection back to {hidden}, found {kinds} without")
    return None


def find_mixer(block: nn.Module) -> Found | UnsupportedModel | None:
    """The output projection of a state-space mixer, and the part of `in_proj` that is its gate."""
    for name, module in block.named_modules():
        in_proj, out_proj = getattr(module, "in_proj", None), getattr(module, "out_proj", None)
        if in_proj is None or out_proj is None or not hasattr(module, "A_log"):
            continue
        neurons, wide = width_in(out_proj), width_out(in_proj)
        if neurons is None or wide is None:
            continue
        if getattr(module, "n_mamba_heads", 1) > 1 and not hasattr(module, "dt_bias"):
            return UnsupportedModel(
                f"expected a mixer whose in_proj returns all gates side by side, found {type(module).__name__}, which "
                "returns them head by head: it is not known which neuron a gate belongs to"
            )
        # Mamba's in_proj returns (x, z), Mamba-2's (z, x B C, dt). Only Mamba-2 has a dt_bias per head.
        gate_slice = (0, neurons) if hasattr(module, "dt_bias") else (neurons, 2 * neurons)
        note = f"found by structure: {name}.out_proj of a state-space mixer"
        return Found(f"{name}.out_proj", f"{name}.in_proj", gate_slice, note)
    return None
