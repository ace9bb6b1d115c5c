"""Tiny models of every family, saved as directories with a tokenizer of words w3 … w100."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

MODELS = Path(__file__).parent.parent / "models"
if str(MODELS) not in sys.path:
    sys.path.insert(0, str(MODELS))

from families import FAMILIES, VOCAB  # noqa: E402  (its folder has just been put on the path)


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Words w3 … w100 separated by spaces, each its own id."""
    # Special tokens are found inside words too: they must not be the beginning of one.
    words = {"<pad>": 0, "<bos>": 1, "<eos>": 2, **{f"w{i}": i for i in range(3, VOCAB)}}
    inner = Tokenizer(models.WordLevel(words, unk_token="w3"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")


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
