"""Which model a name stands for, and the state of its files, without loading torch."""

import hashlib
import os
import re
from pathlib import Path

from nfinspect_store.errors import NfinspectError
from nfinspect_store.paths import expanded

WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "*.gguf", "*.json")

REPO = re.compile(r"[\w.\-]+(/[\w.\-]+)?", re.ASCII)
"""The name of a model on the hub."""
LOCAL = (".", "/", "~")
"""How a path begins that is no such name."""
_REVISION = re.compile(r"[\w.\-/]+", re.ASCII)


class ModelError(NfinspectError):
    """Anything that keeps a model from being loaded or read."""


class WrongRevision(ModelError):
    """A revision of a local model, two different ones, or an invalid one: wrong usage."""

    exit_status = 2


def split_revision(name_or_dir: str, revision: str | None = None) -> tuple[str, str | None]:
    """`NAME@step3000` as ("NAME", "step3000"); a local path, or a name without @, unchanged.

    revision: given separately. Raises WrongRevision for two different ones, and for an empty or invalid one.
    """
    name, at, after = name_or_dir.rpartition("@")
    if name.startswith(LOCAL) or not REPO.fullmatch(name) or os.path.exists(expanded(name_or_dir)):
        name, after = name_or_dir, ""
    if after and revision is not None and after != revision:
        raise WrongRevision(f"expected one revision of {name}, found two: '@{after}' and --revision '{revision}'")
    chosen = after or revision
    if at and not after and name != name_or_dir:
        raise WrongRevision(f"expected a revision after the @, found none in '{name_or_dir}'")
    if chosen is not None and not _REVISION.fullmatch(chosen):
        raise WrongRevision(f"expected a branch, a tag or a commit as the revision of {name}, found '{chosen}'")
    return name, chosen


def full_name(name_or_dir: str, revision: str | None = None) -> str:
    """A model's name with its revision, `NAME@step3000`, by which a run finds its model again.

    Raises WrongRevision as split_revision does.
    """
    name, revision = split_revision(name_or_dir, revision)
    return name if revision is None or os.path.exists(expanded(name)) else f"{name}@{revision}"


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
