"""What was typed after `:`, `/` and in the SQL console, kept across sessions as one JSON string per line."""

import json
import os
from pathlib import Path

from nfinspect.tui.output import state_dir
from nfinspect_store.atomic import replaced
from nfinspect_store.errors import NfinspectError

KEPT = 500


def history_file(kind: str) -> Path:
    """kind: what the lines are, such as sql, goto or filter."""
    return state_dir() / f"{kind}-history.jsonl"


def read_history(path: Path) -> list[str]:
    """Oldest first. A file or a line that cannot be read counts as empty. A long file is cut to its newest lines."""
    try:
        rows = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    if len(rows) > 2 * KEPT:
        _cut(path, rows[-KEPT:])
    found = []
    for row in rows[-KEPT:]:
        try:
            line = json.loads(row)
        except ValueError:
            continue
        if isinstance(line, str):
            found.append(line)
    return found


def _cut(path: Path, rows: list[str]) -> None:
    try:
        with replaced(path) as temporary:
            temporary.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
            os.chmod(temporary, 0o600)
    except (OSError, NfinspectError, UnicodeEncodeError):
        return


def append_history(path: Path, line: str) -> None:
    """Never raises: a full disk must not cost a query its result."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            os.chmod(path, 0o600)
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    except (OSError, UnicodeEncodeError):
        return
