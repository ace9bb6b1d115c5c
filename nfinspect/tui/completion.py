"""Completion for the SQL console: tables after FROM and JOIN, otherwise columns of the tables in the statement, tables
and keywords. In strings and comments there is nothing to complete.
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
_NO_CODE = re.compile(
    r"""
      '(?:[^']|'')*(?P<string>')?
    | "(?:[^"]|"")*"?
    | \$(?P<tag>\w*)\$.*?(?P<dollar>\$(?P=tag)\$|\Z)
    | --[^\n]*(?P<line>\n)?
    | /\*.*?(?P<comment>\*/|\Z)
    """,
    re.VERBOSE | re.DOTALL,
)
"""Strings, comments, and quoted names, each up to its end or that of the text."""


def complete(text: str, tables: Mapping[str, tuple[str, ...]]) -> tuple[str, list[str]]:
    """The unfinished word at the end of `text`, and its completions. tables: their columns by name."""
    if in_string_or_comment(text):
        return "", []
    text = _NO_CODE.sub(lambda found: found[0] if found[0].startswith('"') else " ", text)
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


def in_string_or_comment(text: str) -> bool:
    """Whether what is typed after `text` goes on with a string or a comment."""
    found = list(_NO_CODE.finditer(text))
    if not found or found[-1].end() < len(text) or found[-1][0].startswith('"'):
        return False
    last = found[-1]
    return not (last["string"] or last["dollar"] or last["line"] or last["comment"])


def _alias(text: str, alias: str) -> str:
    """The table that has this alias, as in `FROM table alias`."""
    match = re.search(rf"\b(\w+)\s+(?:as\s+)?{re.escape(alias)}\b", text, re.IGNORECASE)
    return match[1] if match else ""
