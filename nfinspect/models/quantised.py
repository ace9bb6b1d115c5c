"""Models with quantised weights: whether one has them, and the packages that read them.

What a quantised projection computes with is asked of the projection itself, never read off its packed codes
(nfinspect.experiments.projection_weights).
"""

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from .batch import embedding_device
from .errors import ModelError, UnsupportedModel
from .structure import expert_modules

PACKAGES: Mapping[str, Mapping[str, str]] = {
    "aqlm": {"aqlm": "aqlm"},
    "auto-round": {"auto_round": "auto-round"},
    "awq": {"gptqmodel": "gptqmodel"},
    "bitsandbytes": {"bitsandbytes": "bitsandbytes"},
    "compressed-tensors": {"compressed_tensors": "compressed-tensors"},
    "eetq": {"kernels": "kernels"},
    "gptq": {"optimum": "optimum", "gptqmodel": "gptqmodel"},
    "hqq": {"hqq": "hqq"},
    "quanto": {"optimum": "optimum", "optimum.quanto": "optimum-quanto"},
    "torchao": {"torchao": "torchao"},
    "vptq": {"vptq": "vptq"},
}
"""Of a quantisation method, the modules that transformers reads it with, and the packages to install for them.
accelerate is needed for every method."""


def quantisation(config: Any) -> str | None:
    """The method of a config's quantised weights, as transformers calls it: `bitsandbytes`, `gptq`, …; None: plain."""
    given = _given(config)
    if given is None:
        return None
    return _key(given).removesuffix("_4bit").removesuffix("_8bit")


def _given(config: Any) -> Mapping[str, Any] | None:
    """What a config says of quantised weights; None: nothing."""
    given = getattr(config, "quantization_config", None)
    if given is None:
        return None
    return given if isinstance(given, dict) else getattr(given, "__dict__", {})


def _key(given: Mapping[str, Any]) -> str:
    """The method by which transformers chooses what reads the weights; '' if none is named."""
    for bits in ("4bit", "8bit"):
        if given.get(f"load_in_{bits}"):
            return f"bitsandbytes_{bits}"
    method = given.get("quant_method")
    return str(getattr(method, "value", method) or "")


def is_quantised(model: nn.Module) -> bool:
    """Whether a model's projections have quantised weights: whether transformers has read them as such. Its config
    does not decide that."""
    return getattr(model, "hf_quantizer", None) is not None


def check_method(config: Any, directory: Path) -> None:
    """Raises UnsupportedModel for quantised weights that the installed transformers would take for plain ones."""
    given = _given(config)
    if given is None or (key := _key(given)) in AUTO_QUANTIZATION_CONFIG_MAPPING:
        return
    raise UnsupportedModel(
        f"expected a quant_method that the installed transformers reads, found {key or 'none'} in quantization_config "
        f"of config.json in {directory}: a newer transformers may read it; if the weights are plain, delete "
        "quantization_config there"
    )


def check_packages(method: str, directory: Path) -> None:
    """Raises ModelError that names the packages which this machine lacks for weights quantised by `method`."""
    needed = {**PACKAGES.get(method, {}), "accelerate": "accelerate"}
    missing = [package for module, package in needed.items() if not _installed(module)]
    if missing:
        raise ModelError(
            f"expected the packages that read weights quantised by {method}, found no {' or '.join(missing)} for "
            f"{directory}: pip install {' '.join(missing)}"
        )


UNPACKED = ("compressed-tensors", "fp8")
"""Methods whose packed weights of experts transformers turns into numbers as it puts the experts of a layer into one
tensor. For the others it keeps the codes, and passes over the scales."""

_PACKED_EXPERT = re.compile(r"experts\.\d+\..*\.(SCB|qweight|weight\.absmax)$")
"""How bitsandbytes, GPTQ and AWQ name what they keep of one expert's projection."""


def check_experts(config: Any, method: str, directory: Path) -> None:
    """Raises UnsupportedModel for a mixture whose experts are packed in a way that transformers does not unpack.

    directory: of safetensors. Llama 4 is left to transformers, which gives its experts modules of their own.
    """
    if method in UNPACKED or "llama4" in config.model_type:
        return
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            packed = next(filter(_PACKED_EXPERT.search, weights.keys()), None)
        if packed is not None:
            raise _packed_experts(packed, method, directory)


def check_loaded_experts(model: nn.Module, method: str, directory: Path) -> None:
    """Raises UnsupportedModel where the experts of a loaded model are codes without a scale."""
    for name, module in expert_modules(model):
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        codes = [one for one, held in own if not held.is_floating_point() and "proj" in one]
        if codes and not any("scale" in one for one, _ in own):
            raise _packed_experts(f"{name}.{codes[0]}", method, directory)


def _packed_experts(name: str, method: str, directory: Path) -> UnsupportedModel:
    return UnsupportedModel(
        f"expected the experts of a mixture as numbers, or packed by {' or '.join(UNPACKED)}, found {name} packed by "
        f"{method} in {directory}: transformers keeps a layer's experts in one tensor, and would take the codes for it"
    )


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it is a part of
        return False


def unpack(model: nn.Module) -> None:
    """Let compressed-tensors unpack the weights: it does so in the first pass of the whole model, and not in one of its
    blocks alone.
    """
    if hasattr(model, "ct_decompress_hook"):
        with torch.no_grad():
            model(torch.zeros((1, 1), dtype=torch.long, device=embedding_device(model)))
