"""Text from models, files and tokenizers is hostile: it is shown, never interpreted.

Escape sequences would move the cursor or retitle the terminal, bidi controls would reorder a table,
zero-width characters would hide. Everything that prints text (commands, the app, reports) sends it through
`visible` first.
"""

import re
import unicodedata

# Letters by category, yet drawn as nothing: Unicode's Default_Ignorable_Code_Point outside Cf, and the blank
# braille cell.
_BLANK = frozenset(
    [0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0]
    + [*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)]
)
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_MARKS = frozenset({"Mn", "Me"})
_STACK = 3
"""Combining marks drawn on one character; Vietnamese needs two, "zalgo" text has dozens and climbs over other
lines.
"""


def counted(count: int, of: str) -> str:
    """`1 layer`, `12 layers`."""
    return f"{count} {of}" + ("" if count == 1 else "s")


def model_name(model: str) -> str:
    """A hub name as it is; of a local directory its last part, which is what tells models apart."""
    local = model.startswith(("/", ".", "~"))
    return (model.rstrip("/").rpartition("/")[2] or model) if local else model


_PLAIN = re.compile(r"[\x20-\x7e]*")


def _escaped(character: str) -> str:
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _control(character: str) -> str:
    """A control picture for C0 and DEL (one cell: ␛ ␊ ␉), an escape for the rest."""
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else _escaped(character)


def visible(text: str, *, ascii_only: bool = False) -> str:
    """`text` with everything that a terminal would act on or hide turned into visible characters, on one
    line.

    C0 controls become control pictures (`\\x1b` → `␛`, `\\n` → `␊`); bidi and other format controls,
    zero-width characters, C1 controls, surrogates, private-use and unassigned characters become
    `\\u202e`-style escapes. Letters of every script, wide characters and ordinary combining marks stay. With
    `ascii_only` everything outside printable ASCII is escaped. Rich markup is not this function's business:
    pass the result as plain text.
    """
    if _PLAIN.fullmatch(text):
        return text
    if ascii_only:
        return "".join(c if " " <= c <= "~" else _escaped(c) for c in text)
    shown: list[str] = []
    marks = _STACK  # a mark at the very start has nothing to stand on
    for character in text:
        if " " <= character <= "~":
            marks = 0
            shown.append(character)
            continue
        category = unicodedata.category(character)
        if category in _HIDDEN_CATEGORIES or ord(character) in _BLANK:
            marks = _STACK
            shown.append(_control(character))
        elif category in _MARKS:
            shown.append(character if marks < _STACK else _escaped(character))
            marks += 1
        else:
            marks = 0
            shown.append(character)
    return "".join(shown)
