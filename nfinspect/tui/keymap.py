"""Remapped keys: `$XDG_CONFIG_HOME/nfinspect/keys.json` (else `~/.config/…`) maps binding ids to keys.

    {"app.quit": "ctrl+q", "neurons.filter": "f,slash"}

The help screen (`?`) shows the ids. A file that cannot be read costs a message in the app, never the app.
"""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from textual.binding import Binding
from textual.dom import DOMNode


def config_file(name: str) -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "nfinspect" / name


def keys_file() -> Path:
    return config_file("keys.json")


def known_ids(classes: Iterable[type[DOMNode]]) -> frozenset[str]:
    """The ids of every binding of these classes and of what they inherit from."""
    return frozenset(
        binding.id
        for cls in classes
        for base in cls.__mro__
        for binding in base.__dict__.get("BINDINGS", ())
        if isinstance(binding, Binding) and binding.id is not None
    )


def read_keymap(path: Path, known: Callable[[], frozenset[str]]) -> tuple[dict[str, str], str | None]:
    """The keymap, and one line about what is wrong with the file, if anything is.

    known: every binding id, called only if there is a file: it imports all panes and analyses.
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
    ids = known()
    unknown = sorted(set(entries) - ids)
    line = f"{path}: no binding has the id {unknown[0]!r}: press ? for the ids" if unknown else None
    return {key: value for key, value in entries.items() if key in ids}, line
