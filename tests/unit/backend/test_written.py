"""The tokens that a job has written: numbered, bounded, and told in answers that fit."""

import pytest

from nfinspect.backend import written
from nfinspect.backend.protocol import LINE, MOST_TOKENS, BadMessage, ReadTokens, Token, Tokens, decoded, encoded


def token(text: str, strongest: int = 0) -> Token:
    rows = tuple((layer, 7, -1.5) for layer in range(strongest))
    return Token(0, 0, 0, text, True, "edited", 2.5, "mlp", rows)


def test_tokens_are_numbered_and_read_on_from_where_one_stopped() -> None:
    found = written.Written()
    assert not found.followed
    for i in range(MOST_TOKENS + 10):
        found.add(token(f"t{i}"))
    first = found.read(0)
    assert found.followed
    assert (first.start, first.count, len(first.rows)) == (0, MOST_TOKENS + 10, MOST_TOKENS)
    second = found.read(len(first.rows))
    assert [row.index for row in second.rows] == list(range(MOST_TOKENS, MOST_TOKENS + 10))
    assert second.rows[-1].text == f"t{MOST_TOKENS + 9}"
    assert found.read(10**9) == Tokens(MOST_TOKENS + 10, MOST_TOKENS + 10)
    found.clear()
    assert found.read(0) == Tokens(MOST_TOKENS + 10, MOST_TOKENS + 10)


def test_the_oldest_go_first_and_an_answer_fits_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written, "KEPT", 20)
    found = written.Written()
    for i in range(50):
        found.add(token(f"t{i}"))
    assert [row.text for row in found.read(0).rows] == [f"t{i}" for i in range(30, 50)]
    monkeypatch.setattr(written, "KEPT_STRONGEST", 100)
    found = written.Written()
    for i in range(50):
        found.add(token(f"t{i}", 30))
    assert [row.index for row in found.read(0).rows] == [47, 48, 49]
    monkeypatch.setattr(written, "KEPT_STRONGEST", 10**9)
    found = written.Written()
    for _ in range(20):
        found.add(token("x", 6000))
    answer = found.read(0)
    assert len(answer.rows) == 3
    assert len(encoded(answer)) < LINE


def test_tokens_come_back_as_they_were() -> None:
    for message in (ReadTokens(1, 5), Tokens(3, 9, (token("\x1b[31m é", 2), token("", 0)))):
        assert decoded(encoded(message)) == message
    line = encoded(Tokens(0, 1, (token("a", 1),)))
    with pytest.raises(BadMessage, match=r"Token.strongest"):
        decoded(line.replace(b"[0, 7, -1.5]", b"[0, 7]"))
