"""Paths as people write them. What is there is asked with os.path, which takes names that no file can have, too."""

from pathlib import Path


def expanded(path: str | Path) -> Path:
    """`~/x` and `~user/x` as a shell has them: as it is where there is no such user, or none has a home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
