"""A tokenizer for the tiny models: words w3 … w100, each its own id."""

from families import VOCAB
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Words w3 … w100 separated by spaces, each its own id."""
    # Special tokens are found inside words too: they must not be the beginning of one.
    words = {"<pad>": 0, "<bos>": 1, "<eos>": 2, **{f"w{i}": i for i in range(3, VOCAB)}}
    inner = Tokenizer(models.WordLevel(words, unk_token="w3"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")


CHAT = (
    "{{ '<bos> ' }}{% for m in messages %}{{ 'w90 ' if m.role == 'user' else 'w91 ' }}{{ m.content }}{{ ' <eos> ' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'w91 ' }}{% endif %}"
)
"""Begins with BOS by itself, marks who speaks, and ends every turn with EOS."""


def special_tokenizer(around: str = "<bos> $A", chat: str | None = CHAT) -> PreTrainedTokenizerFast:
    """The same words; `around` says what the tokenizer puts around a text: `$A <eos>`, `<bos> $A <eos>`, …."""
    found = word_tokenizer()
    found.backend_tokenizer.post_processor = TemplateProcessing(
        single=around, pair=f"{around} $B", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    found.chat_template = chat
    return found
