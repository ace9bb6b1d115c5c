"""What a directory holds, found from its files before any weights are read: the kind of weights, or what else it is.

Whatever keeps a model from being loaded is reported with its own cause and the names or sizes that show it, so that
nobody who named the wrong directory goes looking for a broken download.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .errors import BrokenCheckpoint, ModelNotFound, PickleRefused, UnsupportedModel
from .hub import one_line

Kind = Literal["safetensors", "pickle", "gguf", "adapter"]

CONFIG, ADAPTER, INDEX = "config.json", "adapter_config.json", "model.safetensors.index.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tekken.json",
    "*.tiktoken",
)
OTHER_WEIGHTS = {
    "flax_model*.msgpack": "Flax weights",
    "tf_model*.h5": "TensorFlow weights",
    "*.onnx": "an ONNX model",
    "*.nemo": "a NeMo model",
    "consolidated*.pth": "weights in their authors' own format",
    "consolidated*.safetensors": "weights in their authors' own format",
    "*.ckpt": "a Lightning checkpoint",
}
OTHER_LIBRARIES = {
    "model_index.json": "a pipeline of the diffusers library",
    "modules.json": "a model of the sentence-transformers library",
    "saved_model.pb": "a TensorFlow model",
    "mergekit_config.yml": "a recipe of mergekit",
}
HEADER_BYTES = 100_000_000
"""The longest header that the safetensors library accepts."""


@dataclass(frozen=True)
class Checkpoint:
    """A directory with a model's files. file: the GGUF file's name in it, '' for other kinds."""

    directory: Path
    kind: Kind
    file: str = ""


def find_checkpoint(path: Path, *, allow_pickle: bool) -> Checkpoint:
    """What is to be loaded from a directory or a GGUF file.

    Raises ModelNotFound, PickleRefused, UnsupportedModel, and BrokenCheckpoint for incomplete safetensors.
    """
    if path.is_file():
        return Checkpoint(path.parent, "gguf", path.name)
    if (path / ADAPTER).is_file():
        _check_adapter(path, allow_pickle)
        return Checkpoint(path, "adapter")
    kind = _kind_of_weights(path, allow_pickle)
    if kind == "gguf":
        files = sorted(file.name for file in path.glob("*.gguf"))
        if len(files) > 1:
            raise ModelNotFound(
                f"expected one GGUF file in {path}, found {len(files)} ({_some(files)}): name one, such as "
                f"{path / files[0]}"
            )
        return Checkpoint(path, "gguf", files[0])
    if not (path / CONFIG).is_file():
        raise ModelNotFound(
            f"expected {CONFIG} next to the weights in {path}, found none: copy it from where the weights come from"
        )
    if kind == "safetensors":
        check_safetensors(path)
    return Checkpoint(path, kind)


def check_tokenizer_files(directory: Path) -> None:
    """Raises BrokenCheckpoint if a directory has no tokenizer file."""
    if not any(any(directory.glob(pattern)) for pattern in TOKENIZERS):
        raise BrokenCheckpoint(
            f"expected a tokenizer in {directory}, found no {', '.join(TOKENIZERS[:4])}: copy tokenizer.json and "
            "tokenizer_config.json there from the model that was trained"
        )


def check_safetensors(directory: Path) -> None:
    """Raises BrokenCheckpoint if a file is missing, cut short or longer than its header says, ModelNotFound if none of
    the files has a model's name.
    """
    index = directory / INDEX
    files = sorted(directory.glob("*.safetensors"))
    if (directory / "model.safetensors").is_file():
        files = [directory / "model.safetensors"]
    elif index.is_file():
        names = _shards(index)
        missing = [name for name in names if not (directory / name).is_file()]
        if missing:
            raise BrokenCheckpoint(
                f"expected the {len(names)} files that {INDEX} names in {directory}, found {len(missing)} of them "
                f"missing ({_some(missing)}): copy them there too"
            )
        files = [directory / name for name in names]
    elif any(re.search(r"-\d+-of-\d+\.", file.name) for file in files):
        raise BrokenCheckpoint(
            f"expected {INDEX} next to {files[0].name} in {directory}, found none: copy it there too, it says "
            "which file holds which weights"
        )
    else:
        raise ModelNotFound(
            f"expected model.safetensors in {directory}, found {_some([file.name for file in files])}: is that file "
            "the model's?"
        )
    for file in files:
        _check_whole(file)


def _check_whole(file: Path) -> None:
    """Raises BrokenCheckpoint unless a safetensors file is as long as its header says."""
    size = file.stat().st_size
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            text = opened.read(length) if size >= 8 and length <= min(HEADER_BYTES, size) else b""
        header = json.loads(text)
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
    except OSError as error:
        raise BrokenCheckpoint(f"expected to read {file}, found {one_line(error)}") from error
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        pointer = text_of_pointer(file)
        if pointer:
            raise BrokenCheckpoint(f"expected weights in {file}, found {pointer}") from error
        raise BrokenCheckpoint(
            f"expected a safetensors file, found {size} bytes without its header in {file}: it is empty, cut "
            "short within the header, or something else"
        ) from error
    if size != expected:
        what = "was cut short" if size < expected else "was overwritten or appended to"
        raise BrokenCheckpoint(
            f"expected {expected} bytes by its own header, found {size} in {file}: the download or the copy {what}"
        )


def text_of_pointer(file: Path) -> str:
    """What a text file in the place of weights is, in words: a Git LFS pointer or a web page; '' for neither."""
    with file.open("rb") as opened:
        start = opened.read(200).lstrip()
    if start.startswith(b"version https://git-lfs"):
        return "Git LFS's pointer to them: git lfs pull brings the file itself"
    if start[:1] == b"<":
        return "a web page: the link that was downloaded did not lead to the file"
    return ""


def _kind_of_weights(path: Path, allow_pickle: bool) -> Kind:
    if any(path.glob("*.safetensors")) and not _only_consolidated(path):
        return "safetensors"
    if any(path.glob("pytorch_model*.bin")):
        if allow_pickle:
            return "pickle"
        raise PickleRefused(
            f"expected *.safetensors, found only pickle weights in {path}: they can run code when read; "
            "pass --allow-pickle if you trust their origin"
        )
    if any(path.glob("*.gguf")):
        return "gguf"
    raise _no_weights(path)


def _no_weights(path: Path) -> ModelNotFound | UnsupportedModel | BrokenCheckpoint:
    """Why there is nothing to load."""
    steps = _training_checkpoints(path)
    if steps:
        names = [step.name for step in steps]
        return ModelNotFound(
            f"expected a model in {path}, found a training's output with {_some(names)}: name one of its checkpoints, "
            f"such as {steps[-1]}"
        )
    for name, what in OTHER_LIBRARIES.items():
        if (path / name).is_file():
            return UnsupportedModel(f"expected a language model of transformers in {path}, found {what} ({name})")
    for pattern, what in OTHER_WEIGHTS.items():
        found = sorted(path.glob(pattern))
        if found:
            return UnsupportedModel(
                f"expected *.safetensors in {path}, found only {what} ({found[0].name}): convert it to a transformers "
                "model first"
            )
    if (path / INDEX).is_file():
        names = _shards(path / INDEX)
        return BrokenCheckpoint(
            f"expected the {len(names)} files that {INDEX} names in {path}, found none of them ({_some(names)}): copy "
            "them there too"
        )
    if (path / CONFIG).is_file():
        return ModelNotFound(
            f"expected weights (*.safetensors) next to {CONFIG} in {path}, found none: copy them there too"
        )
    there = sorted(entry.name for entry in path.iterdir())
    inside = f"only {_some(there)}" if there else "nothing"
    return ModelNotFound(f"expected {CONFIG} and *.safetensors in {path}, found {inside}: is this a model directory?")


def _only_consolidated(path: Path) -> bool:
    """Whether all safetensors are in the authors' own format, of which a hub model usually has a transformers copy."""
    return all(file.name.startswith("consolidated") for file in path.glob("*.safetensors"))


def _training_checkpoints(path: Path) -> list[Path]:
    """Directories such as `checkpoint-500` that hold a model or an adapter, in the order of their steps."""
    steps = [(int(m[1]), entry) for entry in path.glob("checkpoint-*") if (m := re.search(r"-(\d+)$", entry.name))]
    return [entry for _, entry in sorted(steps) if (entry / CONFIG).is_file() or (entry / ADAPTER).is_file()]


def _check_adapter(path: Path, allow_pickle: bool) -> None:
    if (path / ADAPTER_WEIGHTS).is_file():
        _check_whole(path / ADAPTER_WEIGHTS)
        return
    if not (path / "adapter_model.bin").is_file():
        raise ModelNotFound(
            f"expected {ADAPTER_WEIGHTS} next to {ADAPTER} in {path}, found none: copy the adapter's weights there too"
        )
    if not allow_pickle:
        raise PickleRefused(
            f"expected {ADAPTER_WEIGHTS}, found only the adapter's pickle weights in {path}: they can run code when "
            "read; pass --allow-pickle if you trust their origin"
        )


def _shards(index: Path) -> list[str]:
    try:
        places: Any = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return sorted(set(map(str, places.values())))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BrokenCheckpoint(f"expected an index of weights in {index}, found {one_line(error)}") from error


def _some(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
