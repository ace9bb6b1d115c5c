"""What a token id stands for, as text."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase


class TokenTexts:
    """The text that each token id stands for, a leading space included."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}

    def __call__(self, token_ids: Sequence[int]) -> list[str]:
        return [self._known.get(i) or self._decode(i) for i in token_ids]

    def _decode(self, token_id: int) -> str:
        text = str(self._tokenizer.decode([token_id], clean_up_tokenization_spaces=False))
        piece = self._tokenizer.convert_ids_to_tokens(token_id)
        # SentencePiece tokenizers drop the space before a word that stands alone.
        if isinstance(piece, str) and piece.startswith("▁") and not text.startswith(" "):
            text = " " + text
        self._known[token_id] = text
        return text
