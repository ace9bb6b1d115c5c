"""What a user has set for the app: keys (keys.json) and own words for `:` (aliases.json)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textual.app import App


@dataclass(frozen=True)
class Own:
    """keys: by binding id. wrong: what is wrong with the files, in one line; empty if nothing is."""

    keys: Mapping[str, str]
    aliases: Mapping[str, str]
    wrong: str


def read_own(app: type[App[Any]]) -> Own:
    """Both files. app: the app's class, whose keys are among those that can be changed."""
    from nfinspect.tui.aliases import aliases_file, read_aliases
    from nfinspect.tui.keymap import Known, keys_file, read_keymap
    from nfinspect.tui.navigate import TAKEN

    def known() -> Known:
        from nfinspect.tui.bindings import known_bindings

        return known_bindings(app)

    keys, line = read_keymap(keys_file(), known)
    aliases, wrong = read_aliases(aliases_file(), TAKEN)
    return Own(keys, aliases, line or wrong or "")
