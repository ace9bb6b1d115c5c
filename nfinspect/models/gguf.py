"""GGUF files, the format of llama.cpp: read by transformers, which dequantises their weights."""

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
    """Raises BrokenCheckpoint if it is not a readable GGUF file, ModelError if a package that reads it is missing."""
    with file.open("rb") as opened:
        start = opened.read(4)
    if start != MAGIC:
        found = text_of_pointer(file) or f"{file.stat().st_size} bytes that do not begin with GGUF"
        raise BrokenCheckpoint(f"expected a GGUF file, found {found} in {file}")
    missing = [package for package in NEEDED if find_spec(package) is None]
    if missing:
        raise ModelError(
            f"expected the packages that read GGUF, the format of llama.cpp, found no {' or '.join(missing)} for "
            f"{file}: pip install 'nfinspect[gguf]'"
        )
    _tensors(file)


def gguf_types(file: Path) -> str:
    """The number formats of its weights, the most frequent first: `Q4_1, F32`."""
    return ", ".join(kind for kind, _ in _tensors(file).most_common())


def _tensors(file: Path) -> Counter[str]:
    """Number of values by quantisation type. Raises BrokenCheckpoint for a file that is cut short or unreadable."""
    from gguf import GGUFReader

    try:
        reader: Any = GGUFReader(file)
        kinds: Counter[str] = Counter()
        for tensor in reader.tensors:
            kinds[tensor.tensor_type.name] += int(tensor.n_elements)
        return kinds
    except Exception as error:  # the file may be a stranger's, and its parser may raise anything
        raise BrokenCheckpoint(
            f"expected a GGUF file that can be read, found {one_line(error)} in {file} of {file.stat().st_size} bytes: "
            "it is cut short, or damaged"
        ) from error
