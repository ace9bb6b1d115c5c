"""The names of runs and of the files next to them."""

import re
import unicodedata

from nfinspect_store.errors import BadName

RUN_SUFFIX = ".duckdb"
HISTORY_SUFFIX = ".history.jsonl"
MODEL_SUFFIX = ".model"
"""Appended to a model's name for its folder of results, before `.results`, which is appended to a run's name too."""
NAME_BYTES = 128
"""Longest run name in bytes: file systems allow 255, and companions add suffixes."""


def check_name(name: str) -> str:
    """`name`, if it is a valid run name. Raises BadName saying what is wrong with it."""
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
        problem = f"it contains {RUN_SUFFIX}, which is added automatically"
    elif name.lower().endswith(MODEL_SUFFIX):
        problem = f"it ends in {MODEL_SUFFIX}, as the folders of results about a model do"
    elif len(name.encode()) > NAME_BYTES:
        problem = f"it has {len(name.encode())} bytes, the limit is {NAME_BYTES}"
    if problem:
        raise BadName(f"expected a run name such as gpt2-tulips, found {name[:60]!r}: {problem}")
    return name
