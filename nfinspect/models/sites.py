"""Where the neurons of each model type are read: one table, and the look-up in a live model.

The sites (methods §1): `mlp` is the input of the MLP's output projection, `shared` that of the MLP which every token
passes beside the experts of a mixture, `mixer` the input of a Mamba mixer's `out_proj`, `attn` the input of the
attention's output projection, `resid` a block's output (the last block's before the final norm).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from nfinspect_store.types import SITES

from . import structure
from .errors import UnknownSite, UnsupportedModel
from .structure import Found, FoundExperts


@dataclass(frozen=True)
class LayerSite:
    """One site of one layer: what is hooked there and what its values mean.

    `fires` is the rule of methods §1: 'positive' (a > 0), 'gate' (the gate's pre-activation > 0) or 'scale' (|a| >= 0.1
    x layer scale). `gate` names the module whose output is the gate (or has its sign, as an activation's has),
    `gate_slice` the part of its last dimension that is the gate if there is more. `note` says how the site was found if
    it was not in the table, or what of the layer is not read. `experts`: how many the layer has, 0 if it is no mixture
    of them; neuron `expert * width + i` is then neuron i of an expert, and a token has values of `chosen` experts.
    """

    site: str
    layer: int
    module: str
    neurons: int
    activation: str
    fires: str
    gate: str | None = None
    gate_slice: tuple[int, int] | None = None
    note: str = ""
    experts: int = 0
    chosen: int = 0

    @property
    def held(self) -> int:
        """How many values a token has at most: fewer than neurons where it passes some of the experts only."""
        return self.neurons // self.experts * self.chosen if self.experts else self.neurons


@dataclass(frozen=True)
class Family:
    """Module names inside a block of one model type. None: the type has no such site."""

    mlp: str | None = None
    attn: str | None = None
    mixer: str | None = None
    gate: str | None = None  # of the MLP or the mixer
    gate_part: str = "all"  # which coordinates of the gate module's output: 'all', the 'first' or 'second' `neurons`
    activation: str | None = None  # if the config does not name it


_LLAMA = Family(mlp="mlp.down_proj", gate="mlp.gate_proj", attn="self_attn.o_proj")
_NEOX = Family(mlp="mlp.dense_4h_to_h", attn="attention.dense")
# Both mixers gate with silu, whatever config.hidden_act says: that is the convolution's activation.
_MAMBA = Family(mixer="mixer.out_proj", gate="mixer.in_proj", gate_part="second", activation="silu")

FAMILIES: dict[str, Family] = {
    "bloom": Family(mlp="mlp.dense_4h_to_h", attn="self_attention.dense", activation="gelu_new"),
    "falcon": Family(mlp="mlp.dense_4h_to_h", attn="self_attention.dense"),
    "falcon_mamba": _MAMBA,
    "gemma": _LLAMA,
    "gemma2": _LLAMA,
    "gemma3_text": _LLAMA,
    "gpt2": Family(mlp="mlp.c_proj", attn="attn.c_proj"),
    "gpt_neo": Family(mlp="mlp.c_proj", attn="attn.attention.out_proj"),
    "gpt_neox": _NEOX,
    "gptj": Family(mlp="mlp.fc_out", attn="attn.out_proj"),
    "llama": _LLAMA,
    "mamba": _MAMBA,
    # in_proj gives (z, x B C, dt); the neuron is read after the gated norm.
    "mamba2": Family(mixer="mixer.out_proj", gate="mixer.in_proj", gate_part="first", activation="silu"),
    "mistral": _LLAMA,
    "opt": Family(mlp="fc2", attn="self_attn.out_proj"),
    "phi": Family(mlp="mlp.fc2", attn="self_attn.dense"),
    "phi3": Family(mlp="mlp.down_proj", gate="mlp.gate_up_proj", gate_part="first", attn="self_attn.o_proj"),
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
}


def blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The dotted name in `model` of its stack of blocks, and the stack.

    Raises UnsupportedModel for models that have none, wrappers and encoder-decoders.
    """
    body = structure.decoder(model)
    layers = getattr(structure.config_of(model), "num_hidden_layers", None)
    name, stack = structure.block_list(body, layers)
    prefix = next(n for n, m in model.named_modules() if m is body)
    return ".".join(part for part in (prefix, name) if part), stack


def default_site(model: nn.Module, *, experts: bool = False) -> str:
    """'mlp' if the model has MLP neurons, else 'mixer', else 'resid'; a site that cannot be read in every layer that
    has it does not count, such as the MLP of a mixture of experts if `experts` are not to be read.
    """
    _, stack = blocks(model)
    for site in ("mlp", "mixer"):
        places = _places(model, stack, site, experts)
        if any(isinstance(place, UnsupportedModel) for place in places):
            continue
        if any(place is not None for place in places):
            return site
    return "resid"


def why_no_mlp(model: nn.Module) -> str:
    """Why a capture's default site is not `mlp`, in a line for readers of the figures; '' if it is, and for a Mamba.

    A Mamba has only mixers; every other model has MLPs, and without their neurons health says little.
    """
    _, stack = blocks(model)
    places = _places(model, stack, "mlp", True)
    refused = [layer for layer, place in enumerate(places) if isinstance(place, UnsupportedModel)]
    read = [layer for layer, place in enumerate(places) if isinstance(place, (Found, FoundExperts))]
    default = default_site(model, experts=True)
    if default == "mlp" or (default == "mixer" and not refused):
        return ""
    kind = structure.config_of(model).model_type
    instead = f"{default} ({_WORDS[default]}) is read instead and says nothing of them"
    if not refused:
        return f"no MLP neurons in this run: no MLP was found in '{kind}'; {instead}"
    mixture = any(structure.has_experts(stack[layer]) for layer in refused)
    cause = "is a mixture of experts, which cannot be read" if mixture else "cannot be read"
    rest = f"; --sites mlp --layers {layer_ranges(read)} reads those of the other layers" if read else ""
    return f"no MLP neurons in this run: the MLP of layers {layer_ranges(refused)} of '{kind}' {cause}; {instead}{rest}"


_WORDS = {"resid": "the outputs of the blocks", "mixer": "the state-space mixers"}


def layer_ranges(layers: Sequence[int]) -> str:
    """As --layers accepts them: 0-3,7."""
    words: list[str] = []
    for first in (n for n in layers if n - 1 not in layers):
        last = next(n for n in range(first, max(layers) + 1) if n + 1 not in layers)
        words.append(str(first) if first == last else f"{first}-{last}")
    return ",".join(words)


def find_sites(
    model: nn.Module,
    sites: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    *,
    experts: bool = False,
) -> list[LayerSite]:
    """The given sites of the given layers, ordered by layer, then as in `sites`.

    `sites` None: the default site; `layers` None: every layer that has the site. `experts`: also the neurons of
    mixtures of experts, which only a SiteReader reads, and which have no value on most tokens. Raises UnknownSite for a
    site or a layer that the model does not have, UnsupportedModel for one that it has but that cannot be read.
    """
    prefix, stack = blocks(model)
    wanted = list(dict.fromkeys(sites)) if sites is not None else [default_site(model, experts=experts)]
    chosen = list(range(len(stack))) if layers is None else sorted(set(layers))
    for layer in chosen:
        if not 0 <= layer < len(stack):
            raise UnknownSite(f"expected layers between 0 and {len(stack) - 1}, found {layer}: layers count from 0")
    found: list[LayerSite] = []
    places = {site: _places(model, stack, site, experts) for site in wanted}
    for layer in chosen:
        for site in wanted:
            where = places[site][layer]
            if isinstance(where, UnsupportedModel):
                raise where
            if where is not None:
                found.append(_describe(model, f"{prefix}.{layer}", stack[layer], site, layer, where))
            elif layers is not None:
                raise _unknown(model, stack, site, f" in layer {layer}", experts)
    for site in wanted:
        if not any(s.site == site for s in found):
            raise _unknown(model, stack, site, "", experts)
    return found


def attention_modules(model: nn.Module) -> dict[int, nn.Module]:
    """The attention of each block that has one, by layer; several blocks may share one module.

    Linear attention counts as attention: what a module returns tells whether it has weights. Raises UnsupportedModel
    for one without a projection back.
    """
    _, stack = blocks(model)
    found: dict[int, nn.Module] = {}
    for layer, block in enumerate(stack):
        place = _locate(model, block, "attn", False)
        if isinstance(place, UnsupportedModel):
            raise place
        if isinstance(place, Found):
            found[layer] = block.get_submodule(place.module.rpartition(".")[0])
    return found


def mixing_layers(model: nn.Module) -> tuple[int, ...]:
    """The layers that have a state-space mixer, whether or not its neurons can be read."""
    _, stack = blocks(model)
    return tuple(layer for layer, block in enumerate(stack) if _locate(model, block, "mixer", False) is not None)


Place = Found | FoundExperts | UnsupportedModel | None
"""Where a site is in a block: None if it has none, the error to raise if it has one that cannot be read."""


def _places(model: nn.Module, stack: nn.ModuleList, site: str, experts: bool) -> list[Place]:
    """Where `site` is in each block. A module that several blocks share is refused: it runs several times in a pass."""
    places = [_locate(model, block, site, experts) for block in stack]
    owners: dict[nn.Module, list[int]] = {}
    for layer, place in enumerate(places):
        if isinstance(place, (Found, FoundExperts)) and place.module:
            owners.setdefault(stack[layer].get_submodule(place.module), []).append(layer)
    for layers in owners.values():
        for layer in layers if len(layers) > 1 else ():
            kind = structure.config_of(model).model_type
            places[layer] = UnsupportedModel(
                f"expected {site} of each layer in its own module, found one that layers {layer_ranges(layers)} of "
                f"'{kind}' share: it runs several times in a pass, and its neurons belong to no single layer"
            )
    return places


def _locate(model: nn.Module, block: nn.Module, site: str, experts: bool) -> Place:
    config = structure.config_of(model)
    if site == "resid":
        return Found("")
    if site == "mlp" and structure.has_experts(block):
        if experts:
            return structure.find_experts(block, config.hidden_size)
        return UnsupportedModel(
            "expected an MLP with one output projection, found a mixture of experts "
            f"('{config.model_type}'): a token has values of few of its neurons, and the router weights what they "
            "write; a capture reads them; here choose resid or attn instead"
        )
    if site == "shared":
        return structure.find_shared(block, config.hidden_size) if structure.has_experts(block) else None
    family = FAMILIES.get(config.model_type)
    if family is not None:
        name = {"mlp": family.mlp, "attn": family.attn, "mixer": family.mixer}.get(site)
        if name is None:
            return None
        gate = family.gate if site != "attn" else None
        width = structure.width_in(block.get_submodule(name)) or 0
        part = {"first": (0, width), "second": (width, 2 * width)}.get(family.gate_part)
        return Found(name, gate, part if gate else None)
    if site == "mlp":
        return structure.find_mlp(block, config.hidden_size)
    if site == "attn":
        return structure.find_attn(block, config.hidden_size)
    return structure.find_mixer(block) if site == "mixer" else None


def _describe(
    model: nn.Module, block_name: str, block: nn.Module, site: str, layer: int, where: Found | FoundExperts
) -> LayerSite:
    config = structure.config_of(model)
    family = FAMILIES.get(config.model_type, Family())
    if isinstance(where, FoundExperts):
        return LayerSite(
            site=site,
            layer=layer,
            module=f"{block_name}.{where.module}",
            neurons=where.experts * where.width,
            activation=activation_name(config) if where.activated else "",
            fires="gate" if where.gated else "positive",
            note=where.note,
            experts=where.experts,
            chosen=min(structure.chosen_experts(config) or where.experts, where.experts),
        )
    if site == "resid":
        return LayerSite(site, layer, block_name, config.hidden_size, "", "scale")
    neurons = structure.width_in(block.get_submodule(where.module))
    if neurons is None:
        raise UnsupportedModel(
            f"expected a projection at {block_name}.{where.module}, found "
            f"{type(block.get_submodule(where.module)).__name__}: its number of neurons is not known"
        )
    if site == "attn":
        return LayerSite(site, layer, f"{block_name}.{where.module}", neurons, "", "scale", note=where.note)
    return LayerSite(
        site=site,
        layer=layer,
        module=f"{block_name}.{where.module}",
        neurons=neurons,
        activation="silu" if site == "mixer" else family.activation or activation_name(config),
        fires="gate" if where.gate else "positive",
        gate=f"{block_name}.{where.gate}" if where.gate else None,
        gate_slice=where.gate_slice,
        note=where.note,
    )


def activation_name(config: object) -> str:
    """The MLP's activation as the config names it, 'swish' as 'silu'; '' if the config does not name one."""
    for attribute in (
        "hidden_activation",
        "hidden_act",
        "activation_function",
        "activation",
        "mlp_hidden_act",
    ):
        value = getattr(config, attribute, None)
        if isinstance(value, str) and value:
            return {"swish": "silu"}.get(value.lower(), value.lower())
    return ""


def _unknown(model: nn.Module, stack: nn.ModuleList, site: str, place: str, experts: bool) -> UnknownSite:
    def read(one: str) -> bool:
        return any(isinstance(place, (Found, FoundExperts)) for place in _places(model, stack, one, experts))

    has = [one for one in SITES if read(one)]
    model_type = structure.config_of(model).model_type
    return UnknownSite(f"expected one of the sites {', '.join(has)}, found '{site}': '{model_type}' has none{place}")


def by_site(sites: Sequence[LayerSite]) -> list[LayerSite]:
    """Sites in the order of SITES, each with its layers in order: as a run numbers its layers."""
    return sorted(sites, key=lambda found: (SITES.index(found.site), found.layer))
