"""Which model a name stands for, and the state of its files, without loading torch."""

import hashlib
import os
from pathlib import Path

from nfinspect_store.paths import expanded

WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "*.gguf", "*.json")


def lasting_name(name_or_dir: str) -> str:
    """A name that finds the same model from any directory: a hub name as it is, a directory or file as a full path."""
    path = expanded(name_or_dir)
    return str(path.resolve()) if name_or_dir and os.path.exists(path) else name_or_dir


def weights_stamp(model: str) -> str:
    """Identifies the state of a model's files without reading them: a directory's by names, sizes and times, a hub
    model's by its cached snapshot; '' if there is neither.
    """
    path = expanded(model)
    if os.path.isdir(path):
        files = sorted({file for pattern in WEIGHTS for file in path.glob(pattern)})
    elif os.path.isfile(path):
        files = [path]
    else:
        return _snapshot(model)
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _snapshot(name: str) -> str:
    """name: a hub name, with its revision after an @ if it has one."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    hub, _, revision = name.partition("@")
    for file in ("config.json", "adapter_config.json"):
        try:
            found = try_to_load_from_cache(hub, file, revision=revision or None)
        except HFValidationError:  # not a hub name either
            return ""
        if isinstance(found, str):
            return Path(found).parent.name
    return ""
