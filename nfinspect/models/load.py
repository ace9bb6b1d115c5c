"""Loading a model for inspection: one device, eval mode, checked weights, one-line errors."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from nfinspect.model_files import full_name, split_revision
from nfinspect_store.paths import expanded

from .adapters import load_adapter
from .batch import embedding_device, vocabulary
from .checkpoint import ADAPTER, CONFIG, TOKENIZERS, check_tokenizer_files, find_checkpoint
from .devices import choose_place, devices_of, move, spread_note
from .errors import BrokenCheckpoint, ModelError, NonFiniteWeights, UnsupportedModel, WrongRevision
from .gguf import check_gguf, gguf_types
from .hub import one_line, resolve
from .loaded import LoadedModel
from .quantised import (
    check_experts,
    check_loaded_experts,
    check_method,
    check_packages,
    is_quantised,
    quantisation,
    unpack,
)
from .resident import Asked, resident
from .sites import blocks
from .structure import expert_modules
from .weights import read_weights

DTYPES = ("auto", "float32", "bfloat16", "float16")


def load_model(
    name_or_dir: str | Path,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    allow_pickle: bool = False,
    eager_attention: bool = False,
    timeout: float = 8.0,
    _above: tuple[Path, ...] = (),
) -> LoadedModel:
    """The model in a local directory or GGUF file, in the hub's local cache, or on the hub.

    `revision`: of a hub model, as in `NAME@revision`; for a local adapter, of its base model. Weights are read from
    safetensors; pickles only with `allow_pickle`. Code from a checkpoint is never run. GGUF is dequantised. An adapter
    is merged into its base model, so that every neuron is where it is in any other model of the family.
    `dtype` 'auto' is the checkpoint's own (float32 for a GGUF); `device` 'auto' is the first GPU if there is one,
    'balanced' or 'sequential' all of them, and the main memory for what does not fit there.
    `eager_attention` makes attention weights available, slowly. `timeout`: seconds that the hub has for its first
    answer. In a backend: the model that it holds, and no other.

    Raises ModelNotFound, HubUnreachable, WrongRevision, PickleRefused, BrokenCheckpoint, NonFiniteWeights,
    UnsupportedModel, and ModelError for an unknown dtype, a device that this machine lacks or that has too little
    memory, or a missing package.
    """
    if dtype not in DTYPES:
        raise ModelError(f"expected dtype {', '.join(DTYPES)}, found '{dtype}'")
    name, revision = split_revision(str(name_or_dir), revision)
    if (staying := resident()) is not None:
        return staying.model(Asked(full_name(name, revision), dtype, device, eager_attention))
    place = choose_place(device)
    path = resolve(name, revision, allow_pickle=allow_pickle, timeout=timeout)
    found = find_checkpoint(path, allow_pickle=allow_pickle)
    if found.kind == "adapter":
        if isinstance(place, str):
            raise ModelError(
                f"expected one device for the adapter in {found.directory}, found --device {place}: it is merged into "
                "its base model there"
            )
        _above = (*_above, found.directory.resolve())  # adapters whose base model is still being loaded
        if _above[-1] in _above[:-1]:
            raise BrokenCheckpoint(
                f"expected a model at the end of a chain of adapters, found {found.directory} again: "
                f"base_model_name_or_path in its {ADAPTER} leads back to itself"
            )
        of_base = revision if os.path.isdir(expanded(name)) else None

        def load_base(base: str, its_revision: str | None) -> LoadedModel:
            return load_model(
                base,
                revision=of_base or its_revision,
                dtype=dtype,
                device=device,
                allow_pickle=allow_pickle,
                eager_attention=eager_attention,
                timeout=timeout,
                _above=_above,
            )

        merged = load_adapter(found.directory, load_base)
        _refuse_non_finite(merged.model)
        loaded = in_memory(merged.model, _adapted_tokenizer(found.directory, merged), full_name(name, revision))
        return replace(loaded, notes=merged.notes)
    if path == expanded(name) and revision is not None:
        raise WrongRevision(
            f"expected a hub name with the revision '{revision}', found {path} on this machine: it has no revisions"
        )
    gguf = {"gguf_file": found.file} if found.kind == "gguf" else {}
    if gguf:
        check_gguf(found.directory / found.file)
    config = _read_config(found.directory, gguf)
    tokenizer = _read_tokenizer(found.directory, gguf)
    options: dict[str, Any] = {"config": config, "local_files_only": True, **gguf}
    if not gguf:
        options["use_safetensors"] = found.kind == "safetensors"
    own = "float32" if gguf else _dtype_of(config)  # reading the weights changes it
    options["dtype"] = dtype if dtype == "auto" else getattr(torch, dtype)
    if gguf and dtype == "auto":
        options["dtype"] = torch.float32
    if eager_attention:
        options["attn_implementation"] = "eager"
    method = None if gguf else quantisation(config)
    if method is not None:
        check_method(config, found.directory)
        if found.kind == "safetensors":
            check_experts(config, method, found.directory)
        check_packages(method, found.directory)
    if isinstance(place, str):
        options["device_map"] = place
    elif method is not None:
        # Quantised weights are packed for their device as they are read; .to() refuses them.
        options["device_map"] = {"": str(place)}
    model, notes = read_weights(found.directory, options)
    if gguf:
        kept = gguf_types(found.directory / found.file)
        notes.append(f"{found.file} holds {kept} weights: they are dequantised to {str(model.dtype)[6:]}")
    if method is not None:
        check_loaded_experts(model, method, found.directory)
        used = "they are used as they are" if is_quantised(model) else f"they are dequantised to {str(model.dtype)[6:]}"
        if is_quantised(model) and expert_modules(model):
            used += ", those of experts as numbers"
        notes.append(f"{found.directory} holds weights quantised by {method}: {used}")
    elif not isinstance(place, str):
        model = move(model, place)
    _refuse_non_finite(model)
    model.train(False)
    loaded = in_memory(model, tokenizer, full_name(name, revision))
    return replace(loaded, notes=(*notes, *loaded.notes), own_dtype=loaded.dtype if dtype == "auto" else own)


def _dtype_of(config: Any) -> str:
    """What a config says of its checkpoint's weights; empty if it says nothing."""
    return str(getattr(config, "dtype", None) or "").removeprefix("torch.")


def in_memory(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str | None = None) -> LoadedModel:
    """A model that the caller has loaded, as a LoadedModel. name: by default the one it was loaded by."""
    _, stack = blocks(model)
    config = model.config
    unpack(model)
    device, note = str(embedding_device(model)), spread_note(model)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        name=name or config.name_or_path or type(model).__name__,
        model_type=config.model_type,
        device=device,
        dtype=str(model.dtype).removeprefix("torch."),
        max_context=max_context(config),
        layers=len(stack),
        pad_id=_pad_id(tokenizer, vocabulary(model)),
        notes=(note,) if note else (),
        devices=tuple(dict.fromkeys((device, *devices_of(model)))),
    )


def max_context(config: Any) -> int | None:
    """The most tokens that a sequence may have by the config, None if nothing limits it."""
    config = config.get_text_config()
    if getattr(config, "alibi", False):
        return None
    for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def _read_config(directory: Path, gguf: dict[str, str]) -> Any:
    place = directory / gguf.get("gguf_file", CONFIG)
    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False, local_files_only=True, **gguf)
    except Exception as error:  # the file may be a stranger's, and the library may raise anything
        if "trust_remote_code" in str(error) or "does not recognize" in str(error) or "is not supported" in str(error):
            raise UnsupportedModel(
                f"expected an architecture that the installed transformers has, found another in {place}: code from "
                "checkpoints is not run; a newer transformers may have it"
            ) from error
        raise BrokenCheckpoint(f"expected a readable {place.name} in {directory}, found {one_line(error)}") from error
    if config.is_encoder_decoder:
        raise UnsupportedModel(
            f"expected a decoder-only language model, found the encoder-decoder '{config.model_type}'"
        )
    return config


def _read_tokenizer(directory: Path, gguf: dict[str, str]) -> PreTrainedTokenizerBase:
    if not gguf:
        check_tokenizer_files(directory)
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False, local_files_only=True, **gguf)
    except Exception as error:
        raise BrokenCheckpoint(
            f"expected a tokenizer that can be read in {directory}, found {one_line(error)}"
        ) from error
    # Without the files transformers 5 creates an empty tokenizer instead of failing.
    if len(tokenizer.get_vocab()) <= len(tokenizer.all_special_tokens):
        raise BrokenCheckpoint(
            f"expected a tokenizer in {directory}, found one without a vocabulary: copy tokenizer.json there"
        )
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


def _adapted_tokenizer(directory: Path, base: LoadedModel) -> PreTrainedTokenizerBase:
    """The adapter's own tokenizer, which may have additional tokens; else the base model's."""
    if any(any(directory.glob(pattern)) for pattern in TOKENIZERS):
        return _read_tokenizer(directory, {})
    return base.tokenizer


def _refuse_non_finite(model: PreTrainedModel) -> None:
    # A format of one byte per weight is quantised, and so is a class of its own: packed codes, not numbers to be
    # compared. Weights that are offloaded are read when they are needed: their values show in the first pass.
    named = [
        (name, weight.detach())
        for name, weight in model.named_parameters()
        if type(weight) is nn.Parameter
        and weight.device.type != "meta"
        and weight.is_floating_point()
        and weight.numel()
        and weight.element_size() > 1
    ]
    # amax and amin propagate NaN and infinities, without a temporary of the weight's size; the flags come back from the
    # device in one copy.
    flags = [weight.amax().isfinite() & weight.amin().isfinite() for _, weight in named]
    finite = torch.stack([flag.to(flags[0].device) for flag in flags]).tolist() if flags else []
    for (name, _), good in zip(named, finite, strict=True):
        if not good:
            raise NonFiniteWeights(
                f"expected finite weights, found NaN or infinity in {name}: the checkpoint comes from a "
                "training that diverged or from a conversion to float16 that overflowed"
            )


def _pad_id(tokenizer: PreTrainedTokenizerBase, rows: int) -> int:
    """A token id to fill padding with. rows: of the embeddings; a token added only for padding is often beyond them."""
    for value in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(value, int) and 0 <= value < rows:
            return value
    return 0
