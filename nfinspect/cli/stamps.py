"""What a kept result was made from, so that changed prompts or retrained weights are not answered from before."""

import hashlib
from pathlib import Path

WEIGHTS = ("*.safetensors", "*.gguf", "pytorch_model*.bin", "*.json")


def file_stamp(path: Path) -> str:
    """A digest of a file's bytes, '' where it cannot be read: reading it later says why."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        return ""


def model_stamp(model: str) -> str:
    """Tells one state of a model's files from another, by their names, sizes and times; '' for a hub name."""
    path = Path(model).expanduser()
    if not path.exists():
        return ""
    files = sorted({file for pattern in WEIGHTS for file in path.glob(pattern)}) if path.is_dir() else [path]
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
