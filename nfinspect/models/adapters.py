"""Adapters (LoRA and its kin) merged into the base model that their config names.

Merged, not attached: so every neuron is where it is in any other model of the family, no command has to know about
adapters, and a run of the adapter is a run of the model that `merge_and_unload` would save.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checkpoint import ADAPTER, ADAPTER_WEIGHTS
from .errors import BrokenCheckpoint, ModelError, ModelNotFound, UnsupportedModel
from .hub import one_line

if TYPE_CHECKING:
    from .loaded import LoadedModel

LoadBase = Callable[[str, str | None], "LoadedModel"]


def load_adapter(directory: Path, load_base: LoadBase) -> "LoadedModel":
    """The base model, which load_base(name, revision) loads, with the adapter in `directory` merged into it.

    Raises ModelError if peft is not installed, ModelNotFound and whatever else loading the base model raises,
    BrokenCheckpoint for an adapter that does not fit it, UnsupportedModel for one that cannot be merged.
    """
    from dataclasses import replace
    from importlib.util import find_spec

    config = _config(directory)
    kind, base = config.get("peft_type"), config.get("base_model_name_or_path")
    if find_spec("peft") is None:
        raise ModelError(
            f"expected the package peft for the {kind} adapter of {base} in {directory}, found none: pip install "
            "'nfinspect[peft]', or merge the adapter and name the merged model"
        )
    if not isinstance(base, str) or not base:
        raise BrokenCheckpoint(f"expected the base model's name in {directory / ADAPTER}, found {base!r}")
    if (directory / "config.json").is_file():
        raise ModelNotFound(
            f"expected a model or an adapter in {directory}, found both config.json and {ADAPTER}: move the one you do "
            "not mean to another directory"
        )
    revision = config.get("revision")
    # A base model named by a relative path is first looked for from the working directory, then from the adapter's.
    beside = directory / base
    found = str(beside) if base.startswith(".") and beside.is_dir() and not os.path.isdir(base) else base
    try:
        loaded = load_base(found, revision if isinstance(revision, str) and not Path(found).is_dir() else None)
    except ModelError as error:
        raise type(error)(f"the adapter in {directory} needs its base model: {error}") from error
    return replace(
        loaded,
        model=_merged(loaded.model, directory, str(kind), base),
        notes=(*loaded.notes, f"the {kind} adapter in {directory} is merged into {base}"),
    )


def _merged(model: Any, directory: Path, kind: str, base: str) -> Any:
    import warnings

    from peft import PeftModel, get_peft_model_state_dict

    device = next(model.parameters()).device
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # peft only warns about weights that the adapter lacks.
            warnings.filterwarnings("error", message=".*missing adapter keys")
            adapted = PeftModel.from_pretrained(model, str(directory), torch_device=str(device))
            unused = _keys(directory) - get_peft_model_state_dict(adapted, save_embedding_layers=False).keys()
    except Exception as error:
        raise BrokenCheckpoint(
            f"expected an adapter of {base} in {directory}, found one that does not fit it ({one_line(error, 400)})"
        ) from error
    if unused:  # peft ignores these silently
        raise BrokenCheckpoint(
            f"expected an adapter whose weights all have a place by its {ADAPTER} in {directory}, found {len(unused)} "
            f"without one ({min(unused)})"
        )
    merge = getattr(adapted, "merge_and_unload", None)
    try:
        merged = None if merge is None else merge(safe_merge=False)
    except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
        raise _unmergeable(directory, kind) from error
    if merged is None:
        raise _unmergeable(directory, kind)
    merged.train(False)
    return merged


def _keys(directory: Path) -> set[str]:
    """The names of the adapter's weights, where they are safetensors."""
    from safetensors import safe_open

    file = directory / ADAPTER_WEIGHTS
    if not file.is_file():
        return set()
    with safe_open(file, framework="pt") as weights:
        return set(weights.keys())


def _unmergeable(directory: Path, kind: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"expected an adapter that can be merged into its base model, such as LoRA, found {kind} in {directory}: it "
        "adds to the prompt or to the model's structure, which is not supported"
    )


def _config(directory: Path) -> dict[str, Any]:
    try:
        config = json.loads((directory / ADAPTER).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BrokenCheckpoint(f"expected a readable {directory / ADAPTER}, found {one_line(error)}") from error
    if not isinstance(config, dict):
        raise BrokenCheckpoint(f"expected an object in {directory / ADAPTER}, found {str(config)[:40]}")
    return config
