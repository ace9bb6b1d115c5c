"""Text made to harm a terminal, a run that consists of it, and what must never reach a screen."""

import re
from pathlib import Path

import duckdb

HOSTILE = (
    "\x1b]0;pwned\x07\x1b[2J\x9b31m\x90q\x9c\r\b\x7f\x00"  # a title, erasing, C1 forms of the same, line ends
    "\u202egnp\u2066x\u2069\u200b\u2060\ufeff\U000e0041"  # right to left, isolates, what cannot be seen
    "[red]m[/red][@click=app.quit]x[/][/x]"  # markup
    "a\u0301\u0301\u0301\u0301\u0301\u0301\n"  # marks that climb over other lines
    "PROBLEM forged\u2028\u3164 漢字 é"
)
"""Without the zero character where a command line or DuckDB cannot hold it: `spoken`."""

UNSAFE = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff"
    "\U000e0000-\U000e0fff]|\u0301{4}"
)


def spoken(text: str = HOSTILE) -> str:
    return text.replace("\x00", "")


def poison(path: Path) -> None:
    """Put hostile text into every cell of text of a run file, but for what it is known by: its id, sites, status."""
    with duckdb.connect(str(path)) as connection:
        columns = connection.execute(
            "SELECT table_name, column_name FROM duckdb_columns() JOIN duckdb_tables() USING (table_name) "
            "WHERE data_type = 'VARCHAR' AND NOT duckdb_columns.internal"
        ).fetchall()
        for table, column in columns:
            if column not in ("run_id", "settings", "keep", "site", "selection", "kind", "status", "fires"):
                connection.execute(f'UPDATE "{table}" SET "{column}" = ? || coalesce("{column}", \'\')', [spoken()])
        connection.execute("UPDATE run SET settings = json_object(?, ?)", [spoken(), spoken()])
