import unicodedata

import pytest

from nfinspect.text import is_plain, pieces, visible


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "tiếng Việt",
        unicodedata.normalize("NFD", "tiếng Việt"),
        "日本語",
        "עברית",
        "[/red]",
        "a\u00a0b",
        "😀",
    ],
)
def test_letters_of_every_script_stay(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", "␛[31mred"),
        ("a\nb\tc\r", "a␊b␉c␍"),
        ("\x00\x7f", "␀␡"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("a\u200bb\u2060", "a\\u200bb\\u2060"),
        ("\u2028\u2029", "\\u2028\\u2029"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("\ufe0f\u3164", "\\ufe0f\\u3164"),
        ("\u0301start", "\\u0301start"),
    ],
)
def test_what_a_terminal_would_act_on_or_hide_is_shown(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_marks_do_not_pile_up() -> None:
    assert visible("a" + "\u0301" * 5) == "a" + "\u0301" * 3 + "\\u0301" * 2


@pytest.mark.slow
def test_every_character_comes_out_on_one_line_and_harmless() -> None:
    shown = visible("".join(map(chr, range(0x110000))))
    assert len(shown.splitlines()) == 1
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn") for c in shown)
    assert shown.encode()


def test_ascii_only() -> None:
    assert visible("é\n日", ascii_only=True) == "\\xe9\\x0a\\u65e5"


@pytest.mark.slow
def test_what_is_visible_stays_as_it_is() -> None:
    every = visible("".join(f"a{chr(i)}" for i in range(0x110000)))
    assert visible(every) == every
    assert visible(visible("é\n\x7f"), ascii_only=True) == visible("é\n\x7f", ascii_only=True)


def test_letters_without_a_cell_of_their_own_do_not_pile_up() -> None:
    for letter in ("\u1161", "\u093e"):
        assert visible("x" + letter * 50).count(letter) == 6
    assert visible("ां") == "ां", "a token may begin with a vowel sign"


def test_only_what_is_shown_as_it_is_takes_the_short_way() -> None:
    taken = [c for c in map(chr, range(0x110000)) if is_plain(c)]
    assert [c for c in taken if "".join(shown for _, shown in pieces(c)) != c] == []
    assert len(taken) > 30_000
