"""What a kept result was made from, so that changed prompts are not answered from before."""

import hashlib
from pathlib import Path


def file_stamp(path: Path) -> str:
    """A digest of a file's bytes, '' where it cannot be read: reading it later says why.

    '' for a pipe, too, which says only once what is in it: nothing kept can be told to be of that.
    """
    if not path.is_file():
        return ""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        return ""
