"""Tiny models of every family, saved as directories with a tokenizer of words."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
for folder in (HERE, HERE.parent / "models"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from families import FAMILIES  # noqa: E402  (its folder has just been put on the path)
from whole_and_parts import loaded, prompts, request_  # noqa: E402, F401  (fixtures)
from words import word_tokenizer  # noqa: E402


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """model_dir(family) -> a directory that holds a tiny model of it."""
    made: dict[str, Path] = {}

    def directory(family: str) -> Path:
        if family not in made:
            path = tmp_path_factory.mktemp("models") / family
            FAMILIES[family]().save_pretrained(path)
            word_tokenizer().save_pretrained(path)
            made[family] = path
        return made[family]

    return directory
