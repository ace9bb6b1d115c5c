"""GGUF files, the format of llama.cpp: read by transformers, which turns their quantised weights into plain ones."""

from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .checkpoint import text_of_pointer
from .errors import BrokenCheckpoint, ModelError
from .hub import one_line

MAGIC = b"GGUF"
NEEDED = ("gguf", "accelerate")


def check_gguf(file: Path) -> None:
    """Raises BrokenCheckpoint where it is none, ModelError where what reads it is not installed."""
    with file.open("rb") as opened:
        start = opened.read(4)
    if start != MAGIC:
        found = text_of_pointer(file) or f"{file.stat().st_size} bytes that begin otherwise"
        raise BrokenCheckpoint(f"expected a GGUF file, found {found} in {file}")
    missing = [package for package in NEEDED if find_spec(package) is None]
    if missing:
        raise ModelError(
            f"expected what reads GGUF, the format of llama.cpp, found no package {' or '.join(missing)} for {file}: "
            "pip install 'nfinspect[gguf]'"
        )
    _tensors(file)


def gguf_types(file: Path) -> str:
    """How its weights are kept, most of them first: `Q4_1, F32`."""
    return ", ".join(kind for kind, _ in _tensors(file).most_common())


def _tensors(file: Path) -> Counter[str]:
    """Values by quantisation type. Raises BrokenCheckpoint for a file that is cut short or cannot be read."""
    from gguf import GGUFReader

    try:
        reader: Any = GGUFReader(file)
        kinds: Counter[str] = Counter()
        for tensor in reader.tensors:
            kinds[tensor.tensor_type.name] += int(tensor.n_elements)
        return kinds
    except Exception as error:  # a parser of numbers that a stranger wrote: whatever it runs into
        raise BrokenCheckpoint(
            f"expected a GGUF file that can be read, found {one_line(error)} in {file} of {file.stat().st_size} bytes: "
            "it is cut short, or damaged"
        ) from error
