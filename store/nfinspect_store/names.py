"""What runs and the files beside them are called."""

import re
import unicodedata

from nfinspect_store.errors import BadName

RUN_SUFFIX = ".duckdb"
HISTORY_SUFFIX = ".history.jsonl"
MODEL_SUFFIX = ".model"
"""Behind a model's name where results about it are kept: `.results` follows there, as behind a run's name."""
NAME_BYTES = 128
"""Longest run name in bytes: file systems take 255, and companions add a suffix."""


def check_name(name: str) -> str:
    """`name`, if it can be a run's. Raises BadName saying what is wrong with it."""
    problem = None
    if not name or not name.strip():
        problem = "it is empty"
    elif re.search(r"[/\\]", name):
        problem = "it contains a slash"
    elif name.startswith((".", "-", "~")):
        problem = f"it starts with {name[0]!r}"
    elif any(unicodedata.category(c)[0] == "C" or unicodedata.category(c) in ("Zl", "Zp") for c in name):
        problem = "it contains control or invisible characters"
    elif name != name.strip():
        problem = "it starts or ends with a space"
    elif RUN_SUFFIX in name.lower():
        problem = f"it contains {RUN_SUFFIX}, which is added by itself"
    elif name.lower().endswith(MODEL_SUFFIX):
        problem = f"it ends in {MODEL_SUFFIX}, as the folders of results about a model do"
    elif len(name.encode()) > NAME_BYTES:
        problem = f"it has {len(name.encode())} bytes, {NAME_BYTES} at most"
    if problem:
        raise BadName(f"expected a run name such as gpt2-tulips, found {name[:60]!r}: {problem}")
    return name
