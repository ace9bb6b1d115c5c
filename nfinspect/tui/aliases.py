"""Own words for `:`: `$XDG_CONFIG_HOME/nfinspect/aliases.json` (else `~/.config/…`) maps words to what they stand for.

{"v": "trace vietnam", "hot": "sql SELECT * FROM neurons WHERE max > 10"}
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from nfinspect.tui.keymap import config_file


def aliases_file() -> Path:
    return config_file("aliases.json")


def read_aliases(path: Path, taken: Collection[str]) -> tuple[dict[str, str], str | None]:
    """The aliases, and one line about what is wrong with the file, if anything is.

    taken: words that have a meaning already: they keep it.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}, None
    except (OSError, UnicodeDecodeError) as error:
        return {}, f"{path} cannot be read ({type(error).__name__}): there are no aliases"
    except ValueError as error:
        return {}, f"{path} is not JSON ({error}): there are no aliases"
    if not isinstance(entries, dict) or not all(isinstance(v, str) and v.strip() for v in entries.values()):
        return {}, f'{path}: expected {{"word": "what is typed after :"}}: there are no aliases'
    usable = {word: text for word, text in entries.items() if word and " " not in word and word.lower() not in taken}
    left = sorted(set(entries) - set(usable))
    return usable, f"{path}: {left[0]!r} is no alias: it has a meaning, or a space" if left else None


def expanded_alias(text: str, aliases: Mapping[str, str]) -> str:
    """What was typed, with an alias at its beginning replaced, once: an alias of an alias is none."""
    head, space, rest = text.strip().partition(" ")
    return aliases[head] + space + rest if head in aliases else text
