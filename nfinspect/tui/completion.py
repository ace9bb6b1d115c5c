"""Completion for the SQL console: tables after FROM and JOIN, otherwise columns of the tables in the statement, tables
and keywords.
"""

import re
from collections.abc import Mapping

WORDS = (
    "SELECT",
    "FROM",
    "WHERE",
    "GROUP BY",
    "ORDER BY",
    "LIMIT",
    "JOIN",
    "USING",
    "HAVING",
    "DESC",
    "COUNT(*)",
    "AVG(",
    "MAX(",
    "MIN(",
    "SUM(",
    "DISTINCT",
    "DESCRIBE",
    "SUMMARIZE",
    "AND",
    "NOT",
    "BETWEEN",
    "WITH",
    "AS",
)

_WORD = re.compile(r'[\w."*]*$')
_AFTER_TABLE = re.compile(r"\b(?:from|join|describe|summarize)\s+(?:[\w.\"]+\s*,\s*)*$", re.IGNORECASE)


def complete(text: str, tables: Mapping[str, tuple[str, ...]]) -> tuple[str, list[str]]:
    """The unfinished word at the end of `text`, and its completions. tables: their columns by name."""
    match = _WORD.search(text)
    word = match.group() if match else ""
    before = text[: len(text) - len(word)]
    lowered = word.lower()
    if _AFTER_TABLE.search(before):
        return word, [name for name in tables if name.lower().startswith(lowered)]
    prefix, dot, rest = word.rpartition(".")
    if dot:
        columns = tables.get(prefix) or tables.get(_alias(text, prefix), ())
        return word, [f"{prefix}.{c}" for c in columns if c.lower().startswith(rest.lower())]
    if not word:
        return word, []
    named = [name for name in tables if re.search(rf"\b{re.escape(name)}\b", text, re.IGNORECASE)]
    known = dict.fromkeys(c for name in named or tables for c in tables[name])
    found = [c for c in known if c.lower().startswith(lowered)]
    found += [name for name in tables if name.lower().startswith(lowered) and name not in found]
    found += [w for w in WORDS if w.lower().startswith(lowered)]
    return word, found


def _alias(text: str, alias: str) -> str:
    """The table that has this alias, as in `FROM table alias`."""
    match = re.search(rf"\b(\w+)\s+(?:as\s+)?{re.escape(alias)}\b", text, re.IGNORECASE)
    return match[1] if match else ""
