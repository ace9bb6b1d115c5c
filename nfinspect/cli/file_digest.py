"""What a saved result was made from, so that changed prompts do not get the old result."""

import hashlib
from pathlib import Path


def file_stamp(path: Path) -> str:
    """A digest of a file's bytes; '' if it cannot be read: reading it later says why.

    '' for a pipe, too: it can be read only once, so no saved result can be matched with it.
    """
    if not path.is_file():
        return ""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        return ""
