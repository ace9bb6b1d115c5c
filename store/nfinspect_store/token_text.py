"""Text from tokens that are pieces of characters.

A Chinese character, an accented letter or an emoji is often several tokens, which cannot be decoded one by one. So
their bytes are joined before decoding, and a token belongs to every character that it has a byte of.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

_LOOSE = range(0xDC80, 0xDD00)
"""What `surrogateescape` turns a byte that belongs to no character into: 0xDC00 plus the byte."""

_LOOSE_RUN = re.compile(f"[{chr(_LOOSE.start)}-{chr(_LOOSE.stop - 1)}]+")


@dataclass(frozen=True)
class WholeText:
    """The text of consecutive tokens. spans[i]: start and stop of token i in `text`, in characters.

    Tokens that share a character overlap. A byte that belongs to no character is written as `<E4>`.
    """

    text: str
    spans: tuple[tuple[int, int], ...]

    def token(self, i: int) -> str:
        """The characters, whole, of which token i has a part."""
        return self.text[slice(*self.spans[i])]

    def pieces(self, at: int | None = None) -> list[str]:
        """The text, cut into one piece for each token; '' for tokens whose characters go to another.

        A character goes to token `at` if that has a part of it, else to the first token that does.
        """
        found, done = [], 0
        first, last = (len(self.text), len(self.text)) if at is None else self.spans[at]
        for i, (start, stop) in enumerate(self.spans):
            if i != at and (at is None or i < at):
                stop = min(stop, first)
            start = max(start, done)
            found.append(self.text[start:stop])
            done = max(done, stop)
        return found


def readable(raw: bytes) -> str:
    """The bytes of one token as text: whole characters, and pieces of characters as `<E4 B8>`."""
    return _shown(raw.decode("utf-8", "surrogateescape"))


def whole_text(tokens: Sequence[str], raw: Sequence[bytes | None]) -> WholeText:
    """The text of consecutive tokens. raw: the bytes of a token whose own text does not represent them; else None."""
    if not any(raw):
        ends = [0]
        for token in tokens:
            ends.append(ends[-1] + len(token))
        return WholeText("".join(tokens), tuple(pairwise(ends)))
    of_tokens = [t.encode("utf-8", "surrogatepass") if r is None else r for t, r in zip(tokens, raw, strict=True)]
    token_of = [i for i, one in enumerate(of_tokens) for _ in one]  # of each byte
    starts, stops = [-1] * len(tokens), [-1] * len(tokens)
    shown: list[str] = []
    length = byte = 0
    for part in _parts(b"".join(of_tokens).decode("utf-8", "surrogateescape"), token_of):
        size, length_before = _size(part), length
        shown.append(_shown(part))
        length += len(shown[-1])
        for i in range(token_of[byte], token_of[byte + size - 1] + 1):
            starts[i] = length_before if starts[i] < 0 else starts[i]
            stops[i] = length
        byte += size
    for i in range(len(tokens)):  # a token without bytes is placed where the one before it ends
        if starts[i] < 0:
            starts[i] = stops[i] = stops[i - 1] if i else 0
    return WholeText("".join(shown), tuple(zip(starts, stops, strict=True)))


def _parts(text: str, token_of: Sequence[int]) -> Iterator[str]:
    """The characters of a text; adjacent loose bytes of one token as one part."""
    loose, byte = "", 0
    for character in text:
        is_loose = ord(character) in _LOOSE
        if loose and not (is_loose and token_of[byte] == token_of[byte - 1]):
            yield loose
            loose = ""
        if is_loose:
            loose += character
        else:
            yield character
        byte += _size(character)
    if loose:
        yield loose


def _size(part: str) -> int:
    return len(part.encode("utf-8", "surrogateescape"))


def _shown(text: str) -> str:
    return _LOOSE_RUN.sub(lambda run: f"<{run[0].encode('utf-8', 'surrogateescape').hex(' ').upper()}>", text)
