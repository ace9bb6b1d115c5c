"""A tiny model directory for the fault tests."""

import sys
from pathlib import Path

import pytest

UNIT = Path(__file__).parent.parent / "unit"
for folder in (UNIT / "models", UNIT / "capture", UNIT / "backend"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from families import FAMILIES  # noqa: E402  (its folder has just been put on the path)
from words import word_tokenizer  # noqa: E402


@pytest.fixture(scope="session")
def gpt2_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "gpt2"
    FAMILIES["gpt2"]().save_pretrained(path)
    word_tokenizer().save_pretrained(path)
    return path
