"""Remapped keys: `$XDG_CONFIG_HOME/nfinspect/keys.json` (else `~/.config/…`) maps binding ids to keys.

    {"app.quit": "ctrl+q", "neurons.filter": "f,slash"}

The help screen (`?`) shows the ids. A file that cannot be read costs a message in the app, never the app.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from textual._keyboard_protocol import FUNCTIONAL_KEYS
from textual.binding import Binding
from textual.dom import DOMNode
from textual.keys import KEY_NAME_REPLACEMENTS, Keys, key_to_character

MODIFIERS = frozenset(("alt", "ctrl", "hyper", "meta", "shift", "super"))


def config_file(name: str) -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "nfinspect" / name


def keys_file() -> Path:
    return config_file("keys.json")


def known_ids(classes: Iterable[type[DOMNode]]) -> frozenset[str]:
    """The ids of every binding of these classes and of what they inherit from."""
    return frozenset(str(binding.id) for cls in classes for binding in _bindings(cls))


@dataclass(frozen=True)
class Known:
    """Every binding id, and the places in which bindings meet: classes, the one that a key reaches first in front."""

    ids: frozenset[str]
    places: tuple[tuple[type[DOMNode], ...], ...] = ()


def conflict(keymap: Mapping[str, str], places: Iterable[Sequence[type[DOMNode]]]) -> str:
    """The first key that two ids have in one place because of the keymap, and which of them it obeys; empty if there
    is none.
    """
    for place in places:
        held = [(level, binding) for level, cls in enumerate(place) for binding in _bindings(cls)]
        for level, binding in held:
            for key in _keys(keymap.get(str(binding.id), "")):
                for other_level, other in held:
                    same = {*_keys(binding.key)} & {*_keys(other.key)}
                    if other.id == binding.id or same or key not in _keys(keymap.get(str(other.id), other.key)):
                        continue
                    first = binding if level <= other_level else other
                    return f"{key} is both {binding.id} and {other.id}: it does {first.id}"
    return ""


def _bindings(cls: type[DOMNode]) -> list[Binding]:
    listed = (binding for base in cls.__mro__ for binding in base.__dict__.get("BINDINGS", ()))
    return [binding for binding in listed if isinstance(binding, Binding) and binding.id is not None]


def _keys(text: str) -> list[str]:
    return [key.strip() for key in text.split(",") if key.strip()]


def is_key(name: str) -> bool:
    """Whether a terminal may send a key of this name: a character, or what Textual calls a key, its modifiers in the
    order of the alphabet.
    """
    *modifiers, base = name.split("+")
    if len(name) == 1 or name == Keys.ControlAt:
        return True
    if modifiers != sorted(MODIFIERS.intersection(modifiers)):
        return False
    if base in FUNCTIONAL_KEYS.values() or base in KEY_NAME_REPLACEMENTS.values():
        return True
    if len(base) == 1:
        return base.isalnum()
    character = key_to_character(base)
    named = character is not None and character.isprintable() and not character.isalnum()
    return named and base == base.lower() and base not in KEY_NAME_REPLACEMENTS


def read_keymap(path: Path, known: Callable[[], Known]) -> tuple[dict[str, str], str | None]:
    """The keymap, and one line about what is wrong with the file, if anything is.

    known: called only if there is a file: it imports all panes and analyses.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}, None
    except (OSError, UnicodeDecodeError) as error:
        return {}, f"{path} cannot be read ({type(error).__name__}): default keys are used"
    try:
        entries = json.loads(text)
    except ValueError as error:
        return {}, f"{path} is not JSON ({error}): default keys are used"
    if not isinstance(entries, dict) or not all(isinstance(v, str) and v for v in entries.values()):
        return {}, f'{path}: expected {{"binding id": "keys"}}: default keys are used'
    there = known()
    unknown = sorted(set(entries) - there.ids)
    odd = [(key, name) for key, value in entries.items() for name in _keys(value) if not is_key(name)]
    usable = {key: [name for name in _keys(value) if is_key(name)] for key, value in entries.items()}
    keymap = {key: ",".join(names) for key, names in usable.items() if names and key in there.ids}
    if unknown:
        return keymap, f"{path}: no binding has the id {unknown[0]!r}: press ? for the ids"
    if odd:
        named = "keys have names such as slash, full_stop, ctrl+shift+t, f5, G"
        return keymap, f"{path}: {odd[0][0]}: there is no key {odd[0][1]!r}: {named}"
    clash = conflict(keymap, there.places)
    return keymap, f"{path}: {clash}" if clash else None
