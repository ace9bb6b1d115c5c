"""Statements typed in the console, kept across sessions as one JSON string per line."""

import json
import os
from pathlib import Path

from nfinspect.tui.output import state_dir

KEPT = 500


def history_file() -> Path:
    return state_dir() / "sql-history.jsonl"


def read_history(path: Path) -> list[str]:
    """Oldest first. A file or a line that cannot be read counts as empty."""
    try:
        rows = path.read_text(encoding="utf-8", errors="replace").splitlines()[-KEPT:]
    except OSError:
        return []
    found = []
    for row in rows:
        try:
            statement = json.loads(row)
        except ValueError:
            continue
        if isinstance(statement, str):
            found.append(statement)
    return found


def append_history(path: Path, statement: str) -> None:
    """Never raises: a full disk must not cost a query its result."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            os.chmod(path, 0o600)
            file.write(json.dumps(statement, ensure_ascii=False) + "\n")
    except (OSError, UnicodeEncodeError):
        return
