"""Text from models, files and tokenizers is hostile: it is shown, never interpreted.

Escape sequences would move the cursor or retitle the terminal, bidi controls would reorder a table, zero-width
characters would hide. Nobody has to remember that: whatever draws text (the streams and tables of `nfinspect.output`,
the widgets of the app, the reports) sends it through `visible`, whoever wrote it.
"""

import re
import unicodedata
from collections.abc import Iterator

# Letters by category, yet drawn as nothing: Unicode's Default_Ignorable_Code_Point outside Cf, and the blank
# braille cell.
_BLANK = frozenset(
    [0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0]
    + [*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)]
)
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_SKIN_TONES = range(0x1F3FB, 0x1F400)
"""Modifiers of an emoji: some terminals draw them into it, others as cells of their own."""

_MARKS = frozenset({"Mn", "Me"})
_STACK = 3
"""Combining marks drawn on one character; Vietnamese needs two, "zalgo" text has dozens and climbs over other
lines.
"""

_JOINED = 6
"""Vowel signs and conjoining jamo in a row: letters without a cell of their own; no syllable has more."""


def counted(count: int, of: str) -> str:
    """`1 layer`, `12000 layers`: for texts in a document (JSON); for people use `present.numbers.counted`."""
    return f"{count} {of}" + ("" if count == 1 else "s")


def model_name(model: str) -> str:
    """A hub name as it is; of a local directory the last part, which distinguishes models."""
    local = model.startswith(("/", ".", "~"))
    return (model.rstrip("/").rpartition("/")[2] or model) if local else model


_PLAIN = re.compile(
    "[\x20-\x7e\xa1-\xac\xae-\u02ff\u0400-\u0482\u048a-\u052f\u2010-\u2027\u2030-\u205e\u2190-\u23ff\u2400-\u2421"
    "\u2440-\u244a\u2460-\u27ff\u2801-\u2b73\u3041-\u3096\u309b-\u30ff\u4e00-\u9fff\uac00-\ud7a3\uff01-\uff9f]*"
)
"""Characters that are shown as they are: nearly all that is ever drawn, so that the rest may be slow."""

_ASCII = re.compile(r"[\x20-\x7e]*")


def is_plain(text: str, *, ascii_only: bool = False) -> bool:
    """Whether `text` surely contains only characters that are shown as they are; if False, it may still."""
    return (_ASCII if ascii_only else _PLAIN).fullmatch(text) is not None


def _escaped(character: str) -> str:
    code = ord(character)
    if 0x2400 <= code <= 0x2421:  # already made visible: use what it stands for
        code = 0x7F if code == 0x2421 else code - 0x2400
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _control(character: str) -> str:
    """A control picture for C0 and DEL (one cell: ␛ ␊ ␉), an escape for the rest."""
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else _escaped(character)


def pieces(text: str, *, ascii_only: bool = False) -> Iterator[tuple[str, str]]:
    """Each character, and what is shown for it."""
    base, stack = False, 0  # a mark at the very start has nothing to stand on
    for character in text:
        if " " <= character <= "~":
            base, stack = True, 0
            yield character, character
            continue
        if ascii_only:
            yield character, _escaped(character)
            continue
        category = unicodedata.category(character)
        code = ord(character)
        if category in _HIDDEN_CATEGORIES or code in _BLANK or code in _SKIN_TONES:
            base, stack = False, 0
            yield character, _control(character)
        elif category in _MARKS:
            yield character, character if base and stack < _STACK else _escaped(character)
            stack += 1
        elif category == "Mc" or 0x1160 <= code <= 0x11FF or 0xD7B0 <= code <= 0xD7FF:
            yield character, character if stack < _JOINED else _escaped(character)
            base, stack = True, stack + 1
        else:
            base, stack = True, 0
            yield character, character


def visible(text: str, *, ascii_only: bool = False) -> str:
    """`text` with everything that a terminal would act on or hide turned into visible characters, on one
    line.

    C0 controls become control pictures (`\\x1b` → `␛`, `\\n` → `␊`); bidi and other format controls, zero-width
    characters (joiners and skin tones of emoji among them: terminals disagree on the cells of what is joined), C1
    controls, surrogates, private-use and unassigned characters become `\\u202e`-style escapes. Letters of every
    script, wide characters and ordinary combining marks stay. With `ascii_only` everything outside printable ASCII is
    escaped. Text that is visible already stays as it is. Markup is left alone: nothing that draws interprets any.
    """
    if is_plain(text, ascii_only=ascii_only):
        return text
    return "".join(shown for _, shown in pieces(text, ascii_only=ascii_only))


def visible_lines(text: str) -> str:
    """`visible`, except that line breaks stay."""
    return "\n".join(map(visible, text.split("\n")))
