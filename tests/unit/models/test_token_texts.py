"""Texts of tokens, for every kind of tokenizer and many scripts: put together they are the tokenizer's own text."""

from functools import cache

import pytest
from tokenizers_of_kinds import KINDS, SCRIPTS
from transformers import PreTrainedTokenizerBase

from nfinspect.models import TokenTexts
from nfinspect_store.token_text import readable, whole_text


@cache
def tokenizer(kind: str) -> PreTrainedTokenizerBase:
    return KINDS[kind]()


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("script", range(len(SCRIPTS)))
def test_the_tokens_together_are_the_text(kind: str, script: int) -> None:
    made, text = tokenizer(kind), SCRIPTS[script]
    ids = made(text, add_special_tokens=False)["input_ids"]
    found = TokenTexts(made).pieces(ids)
    whole = whole_text(found.texts, found.raw)
    assert whole.text == made.decode(ids, clean_up_tokenization_spaces=False)
    if kind != "word pieces":  # which loses spaces, and characters that are not in its vocabulary
        assert whole.text == text
        assert "\ufffd" in text or not any("\ufffd" in one for one in found.texts)
    data, at = whole.text.encode(), 0
    for i, (own, raw) in enumerate(zip(found.texts, found.raw, strict=True)):
        # The token's bytes lie where they should, and what is marked covers them to whole characters, no more.
        size = len(own.encode() if raw is None else raw)
        start, stop = whole.spans[i]
        assert data[at : at + size] == (own.encode() if raw is None else raw)
        covered = len(whole.text[:start].encode()), len(whole.text[:stop].encode())
        assert covered[0] <= at and at + size <= covered[1]
        if size:
            assert len(whole.text[: start + 1].encode()) > at and len(whole.text[: stop - 1].encode()) < at + size
        at += size
        assert "".join(whole.pieces(i)) == whole.text and whole.pieces(i)[i] == whole.token(i)
    assert at == len(data) and "".join(whole.pieces()) == whole.text


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "word pieces"])
def test_a_piece_of_a_character_is_readable_alone_and_has_its_bytes(kind: str) -> None:
    made = tokenizer(kind)
    texts = TokenTexts(made)
    ids = made("𠮷", add_special_tokens=False)["input_ids"]
    found = texts.pieces(ids)
    assert b"".join(raw or b"" for raw in found.raw) == "𠮷".encode()
    assert [texts.alone(i) for i in ids][-1] == found.texts[-1] == f"<{(found.raw[-1] or b'').hex(' ').upper()}>"
    # Cut within the character, what there is of it is said; with the rest it is whole.
    cut = texts.pieces(ids[:-1])
    assert whole_text(cut.texts, cut.raw).text == "".join(cut.texts) == "".join(found.texts[:-1])


def test_pieces_beside_whole_characters() -> None:
    raw: list[bytes | None] = [b" \xe4", b"\xb8\xad\xe6", b"\x96\x87", None, b"\xf0\x9f", b"\x98", None]
    tokens = [readable(one) if one else t for one, t in zip(raw, ["", "", "", " a", "", "", "b"], strict=True)]
    assert tokens == [" <E4>", "<B8 AD E6>", "<96 87>", " a", "<F0 9F>", "<98>", "b"]
    whole = whole_text(tokens, raw)
    assert whole.text == " 中文 a<F0 9F><98>b"
    assert [whole.token(i) for i in range(7)] == [" 中", "中文", "文", " a", "<F0 9F>", "<98>", "b"]
    assert whole.pieces() == [" 中", "文", "", " a", "<F0 9F>", "<98>", "b"]
    assert whole.pieces(1) == [" ", "中文", "", " a", "<F0 9F>", "<98>", "b"]
    assert whole.pieces(2) == [" 中", "", "文", " a", "<F0 9F>", "<98>", "b"]


def test_the_space_before_the_first_word_is_dropped_where_the_tokenizer_drops_it() -> None:
    made = tokenizer("byte fallback")
    texts = TokenTexts(made)
    ids = made("the cafe", add_special_tokens=False)["input_ids"]
    assert "".join(texts(ids)) == "the cafe" and "".join(texts([1, *ids])) == "<s> the cafe"
    assert texts.alone(ids[-1]).startswith(" ") or texts.alone(ids[0]).startswith(" ")


def test_a_word_piece_is_written_as_where_it_stands() -> None:
    made = tokenizer("word pieces")
    ids = made("naive cafe cafes", add_special_tokens=False)["input_ids"]
    assert "".join(TokenTexts(made)(ids)) == "naive cafe cafes"
