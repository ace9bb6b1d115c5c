"""The text that token ids stand for.

A token of a byte-level or byte-fallback vocabulary may be a piece of a character: decoded alone it gives U+FFFD. Its
name in the vocabulary says which bytes it is, and what the tokenizer itself decodes says whether to read the name like
that: no list of tokenizers is needed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from nfinspect_store.token_text import readable

_UNKNOWN = re.compile("\ufffd+")
_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")

_AS_THEY_ARE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_BYTE_OF = {chr(byte): byte for byte in _AS_THEY_ARE} | {
    chr(0x100 + i): byte for i, byte in enumerate(sorted(set(range(0x100)) - set(_AS_THEY_ARE)))
}
"""The alphabet of byte-level vocabularies since GPT-2: printable bytes are themselves, the others start at 0x100."""


@dataclass(frozen=True)
class TokenPieces:
    """The tokens of one sequence. texts: joined they are its text, except that pieces of characters are written as
    `<E4 B8>`; raw: the bytes of tokens that hold such a piece, else None.
    """

    texts: list[str]
    raw: list[bytes | None]


class TokenTexts:
    """The text that each token id stands for, a leading space included."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, tuple[str, bytes | None]] = {}
        self._after: dict[tuple[int, int], str] = {}

    def __call__(self, token_ids: Sequence[int]) -> list[str]:
        """The text of each token of a sequence, as in TokenPieces."""
        return self.pieces(token_ids).texts

    def alone(self, token_id: int) -> str:
        """The text of a token without context, pieces of characters as `<E4 B8>`."""
        return self._of(token_id)[0]

    def pieces(self, token_ids: Sequence[int]) -> TokenPieces:
        """The tokens of a whole sequence. Their context matters: some tokenizers decode a token differently after
        another (WordPiece's `##`), or drop the space before the first.
        """
        ids = [int(i) for i in token_ids]
        if not ids:
            return TokenPieces([], [])
        texts, raw = [list(column) for column in zip(*map(self._of, ids), strict=True)]
        if texts[0].startswith(" ") and not self._decode(ids[:1]).startswith(" "):
            texts[0] = texts[0][1:]
        decoded = self._decode(ids)
        if _comparable(_joined(texts, raw)) != _comparable(decoded):
            behind = [texts[0], *(self._behind(a, b) for a, b in zip(ids[:-1], ids[1:], strict=True))]
            behind = [text if piece is not None else b for text, piece, b in zip(texts, raw, behind, strict=True)]
            if _comparable(_joined(behind, raw)) == _comparable(decoded):
                texts = behind
        return TokenPieces(texts, raw)

    def _of(self, token_id: int) -> tuple[str, bytes | None]:
        known = self._known.get(token_id)
        if known is None:
            known = self._known[token_id] = self._read(token_id)
        return known

    def _read(self, token_id: int) -> tuple[str, bytes | None]:
        text = self._decode([token_id])
        piece = self._tokenizer.convert_ids_to_tokens(token_id)
        if "\ufffd" in text:
            raw = _bytes_of(piece, text)
            if raw is not None:
                text = readable(raw)
                return text, None if text.encode("utf-8", "surrogatepass") == raw else raw
        if isinstance(piece, str) and piece.startswith("▁"):
            # SentencePiece tokenizers drop the first space before a word that is decoded alone.
            spaces = len(piece) - len(piece.lstrip("▁"))
            text = " " * spaces + text.lstrip(" ")
        return text, None

    def _behind(self, before: int, token_id: int) -> str:
        """The text of a token that follows another."""
        key = before, token_id
        if key not in self._after:
            first, both = self._decode([before]), self._decode([before, token_id])
            self._after[key] = both.removeprefix(first) if both.startswith(first) else self._of(token_id)[0]
        return self._after[key]

    def _decode(self, token_ids: list[int]) -> str:
        return str(self._tokenizer.decode(token_ids, clean_up_tokenization_spaces=False))


def _bytes_of(piece: object, text: str) -> bytes | None:
    """The bytes that a token's name in the vocabulary stands for, if they decode to the tokenizer's own text for it."""
    if isinstance(piece, bytes):
        return piece
    if not isinstance(piece, str):
        return None
    fallback = _FALLBACK.fullmatch(piece)
    if fallback:
        return bytes.fromhex(fallback[1])
    if not all(character in _BYTE_OF for character in piece):
        return None
    raw = bytes(_BYTE_OF[character] for character in piece)
    return raw if _comparable(raw.decode("utf-8", "replace")) == _comparable(text) else None


def _joined(texts: Sequence[str], raw: Sequence[bytes | None]) -> str:
    if not any(raw):
        return "".join(texts)
    parts = (t.encode("utf-8", "surrogatepass") if r is None else r for t, r in zip(texts, raw, strict=True))
    return b"".join(parts).decode("utf-8", "replace")


def _comparable(text: str) -> str:
    """With runs of U+FFFD as one: decoders differ in how many they write for bytes that are not a character."""
    return _UNKNOWN.sub("\ufffd", text)
