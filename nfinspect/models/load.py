"""Loading a model for inspection: one device, eval mode, checked weights, errors of one line."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .devices import choose_device, move
from .errors import (
    BrokenCheckpoint,
    ModelError,
    ModelNotFound,
    NonFiniteWeights,
    PickleRefused,
    UnsupportedModel,
)
from .hub import one_line, resolve
from .sites import blocks

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode and what a run has to know about it.

    `device` and `dtype` are those of the weights ('cuda:0', 'bfloat16'); `max_context` is the most tokens a
    sequence may have, None where nothing limits it (Mamba, ALiBi); `layers` counts the blocks; `pad_id` is a
    token id to fill padding with, whether or not the tokenizer has a padding token.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    model_type: str
    device: str
    dtype: str
    max_context: int | None
    layers: int
    pad_id: int


def load_model(
    name_or_dir: str | Path,
    *,
    dtype: str = "auto",
    device: str = "auto",
    allow_pickle: bool = False,
    eager_attention: bool = False,
    timeout: float = 8.0,
) -> LoadedModel:
    """The model in a local directory, in the hub's local cache, or on the hub.

    Weights are read from safetensors; pickles only with `allow_pickle`. Code from a checkpoint is never run.
    `dtype` 'auto' is the checkpoint's own; `device` 'auto' is the first GPU if there is one.
    `eager_attention` gives attention weights, slowly. `timeout` is how many seconds the hub has for its first
    answer when it is asked.

    Raises ModelNotFound, HubUnreachable, PickleRefused, BrokenCheckpoint, NonFiniteWeights, UnsupportedModel,
    and ModelError for a dtype or a device that does not exist here or has too little memory.
    """
    if dtype not in DTYPES:
        raise ModelError(f"expected dtype {', '.join(DTYPES)}, found '{dtype}'")
    place = choose_device(device)
    directory = resolve(str(name_or_dir), allow_pickle=allow_pickle, timeout=timeout)
    safetensors = _has_weights(directory, allow_pickle)
    config = _read_config(directory)
    tokenizer = _read_tokenizer(directory)
    options: dict[str, Any] = {"config": config, "use_safetensors": safetensors, "local_files_only": True}
    options["dtype"] = dtype if dtype == "auto" else getattr(torch, dtype)
    if eager_attention:
        options["attn_implementation"] = "eager"
    quantised = getattr(config, "quantization_config", None) is not None
    if quantised:
        # Quantised weights are packed for their device as they are read; .to() refuses them.
        options["device_map"] = {"": str(place)}
    with _readable(directory):
        loaded: Any = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True, **options)
    model: PreTrainedModel = loaded[0]
    report: dict[str, Any] = loaded[1]
    missing = sorted(report["missing_keys"])
    if missing:
        raise BrokenCheckpoint(
            f"expected weights for every parameter, found none for {len(missing)} of them ({missing[0]}) in "
            f"{directory}: the checkpoint is incomplete or of another architecture than its config.json says"
        )
    if not quantised:
        model = move(model, place)
    _refuse_non_finite(model)
    model.train(False)
    return in_memory(model, tokenizer, str(name_or_dir))


def in_memory(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str | None = None) -> LoadedModel:
    """A model that the caller has loaded, as a run describes it. name: the one it was loaded by, if not given."""
    _, stack = blocks(model)
    config = model.config
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        name=name or config.name_or_path or type(model).__name__,
        model_type=config.model_type,
        device=str(next(model.parameters()).device),
        dtype=str(model.dtype).removeprefix("torch."),
        max_context=max_context(config),
        layers=len(stack),
        pad_id=_pad_id(tokenizer),
    )


def max_context(config: Any) -> int | None:
    """The most tokens a sequence may have by the config, None where nothing limits it."""
    config = config.get_text_config()
    if getattr(config, "alibi", False):
        return None
    for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def _has_weights(directory: Path, allow_pickle: bool) -> bool:
    """True: read safetensors; False: read pickles. Raises where there is neither, or only what is refused."""
    if any(directory.glob("*.safetensors")):
        return True
    if any(directory.glob("pytorch_model*.bin")):
        if allow_pickle:
            return False
        raise PickleRefused(
            f"expected *.safetensors, found only pickle weights in {directory}: they can run code when read; "
            "pass --allow-pickle if you trust their origin"
        )
    raise ModelNotFound(
        f"expected weights (*.safetensors), found none in {directory}: the download is incomplete, or the "
        "model has only pickle weights (pass --allow-pickle if you trust their origin)"
    )


def _read_config(directory: Path) -> Any:
    if not (directory / "config.json").is_file():
        raise ModelNotFound(f"expected config.json, found none in {directory}: is this a model directory?")
    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if "trust_remote_code" in str(error) or "does not recognize" in str(error):
            raise UnsupportedModel(
                "expected an architecture that the installed transformers has, found another in "
                f"{directory / 'config.json'}: code from checkpoints is not run; a newer transformers may "
                "know it"
            ) from error
        raise BrokenCheckpoint(f"expected a readable config.json in {directory}, found {one_line(error)}") from error
    if config.is_encoder_decoder:
        raise UnsupportedModel(
            f"expected a decoder-only language model, found the encoder-decoder '{config.model_type}'"
        )
    return config


def _read_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise BrokenCheckpoint(
            f"expected a tokenizer in {directory}, found {one_line(error)}: copy tokenizer.json and "
            "tokenizer_config.json there"
        ) from error
    # Without its files transformers 5 makes up an empty tokenizer instead of failing.
    if len(tokenizer.get_vocab()) <= len(tokenizer.all_special_tokens):
        raise BrokenCheckpoint(
            f"expected a tokenizer in {directory}, found one without a vocabulary: copy tokenizer.json there"
        )
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


@contextlib.contextmanager
def _readable(directory: Path) -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ModelError(
            f"expected the model to fit into memory, found {one_line(error)}: try --dtype bfloat16"
        ) from error
    except ImportError as error:
        raise ModelError(
            f"expected every package that this checkpoint needs, found one missing ({one_line(error)}): "
            "quantised weights need their own"
        ) from error
    except Exception as error:
        raise BrokenCheckpoint(
            f"expected weights that can be read in {directory}, found {one_line(error)}: a download or a "
            "copy may be cut short"
        ) from error


def _refuse_non_finite(model: PreTrainedModel) -> None:
    # One byte per weight is a quantised format: packed codes, not numbers to be compared.
    named = [
        (name, weight.detach())
        for name, weight in model.named_parameters()
        if weight.is_floating_point() and weight.numel() and weight.element_size() > 1
    ]
    # amax and amin carry NaN and infinities through, without a temporary of the weight's size; the flags come
    # back from the device in one copy.
    flags = [weight.amax().isfinite() & weight.amin().isfinite() for _, weight in named]
    finite = torch.stack([flag.to(flags[0].device) for flag in flags]).tolist() if flags else []
    for (name, _), good in zip(named, finite, strict=True):
        if not good:
            raise NonFiniteWeights(
                f"expected finite weights, found NaN or infinity in {name}: the checkpoint comes from a "
                "training that diverged or from a conversion to float16 that overflowed"
            )


def _pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    for value in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(value, int):
            return value
    return 0
