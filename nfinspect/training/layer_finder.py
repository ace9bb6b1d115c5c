"""Which layers of a module are read, and where.

a language model of transformers    the default site of methods §1 (nfinspect.models), also inside another module
any other module                    the output of each activation module, of nn.RNN, LSTM, GRU and their cells, and, in
                                    nn.Transformer's layers, the activation of `linear1`
a module named by the caller        its output, or an activation function of it
"""

import difflib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from nfinspect.analysis.classes import BARE
from nfinspect.training.errors import NoLayers, NotReadable
from nfinspect.training.training_passes import is_pretrained
from nfinspect_store.errors import RequestError

log = logging.getLogger("nfinspect.training")

Layers = Sequence[str] | Mapping[str, str] | None
"""Layers named by a caller: modules, or modules with the activation that follows each (`{"conv1": "relu"}`)."""

BESIDE_EXPERTS = {"resid": "the outputs of the blocks", "mixer": "the state-space mixers"}
"""Sites that are read of a language model whose MLPs are mixtures of experts."""

SITE = BARE
"""The site of layers that are not in a language model."""

MODULES = {
    "CELU": "celu",
    "ELU": "elu",
    "FastGELUActivation": "gelu_new",
    "GELU": "gelu",
    "GELUActivation": "gelu",
    "GELUTanh": "gelu_new",
    "GLU": "glu",
    "Hardshrink": "hardshrink",
    "Hardsigmoid": "sigmoid",
    "Hardswish": "hardswish",
    "Hardtanh": "tanh",
    "LeakyReLU": "leaky_relu",
    "Mish": "mish",
    "MishActivation": "mish",
    "NewGELU": "gelu_new",
    "NewGELUActivation": "gelu_new",
    "PReLU": "prelu",
    "PytorchGELUTanh": "gelu_new",
    "QuickGELU": "quick_gelu",
    "QuickGELUActivation": "quick_gelu",
    "ReLU": "relu",
    "ReLU6": "relu6",
    "RReLU": "rrelu",
    "ReLUSquaredActivation": "relu2",
    "SELU": "selu",
    "SiLU": "silu",
    "SiLUActivation": "silu",
    "Sigmoid": "sigmoid",
    "Softplus": "softplus",
    "Softshrink": "softshrink",
    "Softsign": "softsign",
    "SquaredReLU": "relu2",
    "Swish": "silu",
    "Tanh": "tanh",
    "Tanhshrink": "tanhshrink",
    "Threshold": "threshold",
}
"""Activation modules by class name. A Hardtanh with bounds other than -1 and 1 is reported as `hardtanh`.

They fire where they are positive (methods §1), a GLU where its gate is positive.
"""

NEVER_FIRE = {
    "LogSigmoid": "its values are never positive",
    "LogSoftmax": "its values are never positive",
    "Softmax": "its values are shares of one sum",
    "Softmax2d": "its values are shares of one sum",
    "Softmin": "its values are shares of one sum",
}
"""Activation modules for which firing is not defined, and why."""

FUNCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "elu": functional.elu,
    "gelu": functional.gelu,
    "leaky_relu": functional.leaky_relu,
    "mish": functional.mish,
    "relu": functional.relu,
    "relu6": functional.relu6,
    "selu": functional.selu,
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "softplus": functional.softplus,
    "tanh": torch.tanh,
}
"""What a caller may name as the activation that follows a module."""

RECURRENT = (nn.RNN, nn.LSTM, nn.GRU, nn.RNNCell, nn.LSTMCell, nn.GRUCell)


@dataclass(frozen=True)
class Place:
    """One layer and where it is read. activation: '' if not known; fires: as Layer.fires.

    apply: an activation function that the reader applies to the module's output. apart: whether calls of the module
    that follow different projections are different layers (an activation module that a network uses several times).
    """

    module: str
    reads: Literal["output", "input"] = "output"
    site: str = SITE
    activation: str = ""
    fires: str = "positive"
    apply: Callable[[Tensor], Tensor] | None = None
    gate: str | None = None
    gate_slice: tuple[int, int] | None = None
    apart: bool = False


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside DataParallel and DistributedDataParallel.

    Raises RequestError for what is not a module, NotReadable for compiled and scripted ones.
    """
    if not isinstance(model, nn.Module):
        raise RequestError(f"expected a module of torch, found {model if isinstance(model, type) else type(model)}")
    while type(model).__name__ in ("DataParallel", "DistributedDataParallel"):
        model = model.get_submodule("module")
    if type(model).__name__ == "OptimizedModule" or isinstance(model, torch.jit.ScriptModule):
        raise NotReadable(
            f"expected a module that runs as Python, found a compiled one ({type(model).__name__}): compiled code "
            "calls no hooks; give the module as it was before torch.compile, and train that"
        )
    return model


def find_places(model: nn.Module, layers: Layers = None) -> tuple[Place, ...]:
    """The layers of a module. Raises NoLayers if there are none, or for names that the module does not have.

    Logs a warning for a language model whose experts are passed over.
    """
    modules = dict(model.named_modules())
    if layers is not None:
        return tuple(_named(modules, layers))
    found = tuple(_found(model, modules))
    if not found:
        some = ", ".join(name for name in modules if name)[:120]
        undefined = {type(m).__name__: why for m in modules.values() if (why := _why_undefined(m))}
        if undefined:
            some += "; left out: " + "; ".join(f"{kind} ({why})" for kind, why in undefined.items())
        raise NoLayers(
            f"expected activation modules (nn.ReLU, nn.GELU, …) in {type(model).__name__}, found none: if forward() "
            f'calls functions, name the layers, as in layers={{"fc1": "relu"}}; the modules are {some}'
        )
    return found


def _found(model: nn.Module, modules: Mapping[str, nn.Module]) -> Iterator[Place]:
    """The layers of the language models in a module, then those of the rest."""
    around = dict(modules)
    held = _language_models(modules)
    trained = [model for model in held.values() if any(p.requires_grad for p in model.parameters())]
    for prefix, held_model in held.items():
        within = {
            name: m for name, m in modules.items() if name == prefix or name.startswith(f"{prefix}.") or not prefix
        }
        around = {name: m for name, m in around.items() if name not in within}
        if not trained or held_model in trained:  # a frozen one next to a trained one is its teacher or reference
            yield from _in_language_model(prefix, held_model, within)
    yield from _structural(around)


def _language_models(modules: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Models of transformers by name, without those inside another."""
    found: dict[str, nn.Module] = {}
    for name, module in modules.items():  # a module precedes those inside it
        if is_pretrained(module) and not any(not outer or name.startswith(f"{outer}.") for outer in found):
            found[name] = module
    return found


def _in_language_model(prefix: str, model: nn.Module, within: Mapping[str, nn.Module]) -> tuple[Place, ...]:
    found, structural = _sites(prefix, model), tuple(_structural(within))
    experts = _has_experts(model)
    # The site is resid only if no MLP can be read; the MLP of an encoder can, by its activation modules.
    if not found or (structural and all(place.site == "resid" for place in found) and not experts):
        return structural
    if experts:
        log.warning(
            "the neurons of the experts in %s are not watched, as a token has values of few of them: read is %s (%s); "
            "nfinspect capture reads them in a checkpoint",
            type(model).__name__,
            found[0].site,
            BESIDE_EXPERTS[found[0].site],
        )
    return found


def _has_experts(model: nn.Module) -> bool:
    from nfinspect.models.structure import has_experts

    return has_experts(model)


def _structural(modules: Mapping[str, nn.Module]) -> Iterator[Place]:
    for name, module in modules.items():
        place = _place(name, module)
        if place is not None:
            yield place
        elif isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
            # Between the activation and linear2 there is dropout, so the activation is recomputed from linear1.
            activation = module.activation
            if not isinstance(activation, nn.Module):
                word = getattr(activation, "__name__", "")
                yield Place(f"{name}.linear1".lstrip("."), activation=word, apply=activation)


def _place(name: str, module: nn.Module) -> Place | None:
    if isinstance(module, RECURRENT):
        word = getattr(module, "nonlinearity", "tanh")
        return Place(name, activation=word)
    # A user's own subclass counts as what it inherits from.
    word = next((MODULES[kind.__name__] for kind in type(module).__mro__ if kind.__name__ in MODULES), "")
    if not word or any(True for _ in module.children()) or _why_undefined(module):
        return None
    if isinstance(module, nn.GLU):
        return Place(name, activation=word, fires="gate", apart=True)
    if (
        isinstance(module, nn.Hardtanh)
        and not isinstance(module, nn.ReLU6)
        and (module.min_val, module.max_val) != (-1, 1)
    ):
        word = "hardtanh"
    return Place(name, activation=word, apart=True)


def _why_undefined(module: nn.Module) -> str:
    """Why firing is not defined for the output of an activation module; '' if it is."""
    if isinstance(module, nn.Threshold) and (module.value != 0 or module.threshold < 0):
        return f"below {module.threshold:g} its values are {module.value:g}, so positive ones do not mean firing"
    return next((NEVER_FIRE[kind.__name__] for kind in type(module).__mro__ if kind.__name__ in NEVER_FIRE), "")


def _check_named(modules: Mapping[str, nn.Module], name: str) -> None:
    """Raises NoLayers for a module whose output says nothing about firing, or that is never called."""
    why, kind = _why_undefined(modules[name]), type(modules[name]).__name__
    if why:
        raise NoLayers(
            f"expected layers that fire, found {name!r} ({kind}): {why}; name the module before it, as in layers=[…]"
        )
    parent, _, leaf = name.rpartition(".")
    if leaf == "out_proj" and isinstance(modules[parent], nn.MultiheadAttention):
        instead = f"name {parent!r}, which gives its output" if parent else "read the module that holds it"
        raise NoLayers(
            f"expected modules that are called, found {name!r}: nn.MultiheadAttention uses its weights without "
            f"calling it; {instead}"
        )


def _named(modules: Mapping[str, nn.Module], layers: Sequence[str] | Mapping[str, str]) -> Iterator[Place]:
    if isinstance(layers, str) or not layers:
        raise NoLayers(f"expected a list of module names, or a mapping to activations; found {layers!r}")
    words: Iterable[tuple[str, str | None]] = (
        layers.items() if isinstance(layers, Mapping) else ((name, None) for name in layers)
    )
    for name, word in words:
        if name not in modules:
            close = difflib.get_close_matches(name, modules, n=3) or [n for n in modules if n][:5]
            raise NoLayers(f"expected modules of this network, found {name!r}: did you mean {', '.join(close)}?")
        _check_named(modules, name)
        if word is None:
            yield _place(name, modules[name]) or Place(name, fires="scale")
        elif word in FUNCTIONS:
            yield Place(name, activation=word, apply=FUNCTIONS[word])
        else:
            raise NoLayers(f"expected one of the activations {', '.join(FUNCTIONS)} after {name}, found {word!r}")


def _sites(prefix: str, model: nn.Module) -> tuple[Place, ...]:
    """The default site of a decoder of transformers; empty for its other models."""
    from nfinspect.models import UnsupportedModel, find_sites

    def whole(name: str) -> str:
        return f"{prefix}.{name}" if prefix else name

    try:
        sites = find_sites(model)
    except UnsupportedModel:
        return ()
    return tuple(
        Place(
            whole(s.module),
            "output" if s.site == "resid" else "input",
            s.site,
            s.activation,
            s.fires,
            gate=None if s.gate is None else whole(s.gate),
            gate_slice=s.gate_slice,
        )
        for s in sites
    )
