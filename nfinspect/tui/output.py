"""What leaves the app: exported files, and a copy of the clipboard."""

import csv
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from nfinspect.json_values import jsonable
from nfinspect_store.atomic import replaced
from nfinspect_store.paths import expanded


def state_dir() -> Path:
    """The directory of what the app remembers: $XDG_STATE_HOME/nfinspect, else ~/.local/state/nfinspect."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "nfinspect"


def prompts_folder() -> Path:
    """Where prompts are kept that were typed in the app and captured."""
    return state_dir() / "prompts"


def write_json(name: str, document: Any) -> str:
    """Write a document. Returns the line to show. Raises StorageFull when it cannot be written."""
    text = json.dumps(jsonable(document), indent=1, ensure_ascii=False, allow_nan=False)
    return _written(name, text + "\n")


def write_lines(name: str, lines: Iterable[str]) -> str:
    """Write lines of text. Returns the line to show. Raises StorageFull when it cannot be written."""
    return _written(name, "".join(f"{line}\n" for line in lines))


def write_rows(name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Write rows as CSV, or as JSON if the name ends in .json. Returns the line to show. Raises StorageFull."""
    if name.endswith(".json"):
        return write_json(name, [dict(zip(columns, row, strict=True)) for row in rows])
    path = expanded(name)
    written = 0
    with replaced(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in rows:  # one by one: a result may be larger than memory
            writer.writerow(row)
            written += 1
    return f"wrote {written:,} rows to {path}"


def _written(name: str, text: str) -> str:
    path = expanded(name)
    with replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return f"wrote {path}"


def keep_copy(text: str) -> Path | None:
    """The copied text as a file, for terminals that drop OSC 52. None where it cannot be written."""
    path = state_dir() / "clipboard.txt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", errors="replace")
    except OSError:
        return None
    return path
