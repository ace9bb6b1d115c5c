"""The statements that a piece of work asks of run files: what the app shows as its log, each to be run again."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, cast

import duckdb

LONGEST = 4000
"""Characters of a statement with its parameters that are kept; a longer one keeps its `?`, and cannot be repeated."""

_heard: ContextVar["list[Statement] | None"] = ContextVar("heard", default=None)

_PIECE = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/|\s+|\$(\w+)|\?", re.DOTALL)


@dataclass(frozen=True)
class Statement:
    """SQL with its parameters' values in it, in one line. whole: whether it can be run again as it is."""

    sql: str
    whole: bool = True


@contextmanager
def heard() -> Iterator[list[Statement]]:
    """Collects what this thread asks of run files meanwhile."""
    found: list[Statement] = []
    token = _heard.set(found)
    try:
        yield found
    finally:
        _heard.reset(token)


def listened(cursor: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """The cursor; while somebody listens, one that says what it is asked."""
    found = _heard.get()
    return cursor if found is None else cast(duckdb.DuckDBPyConnection, _Listened(cursor, found))


def statement(sql: str, parameters: "Mapping[str, Any] | Sequence[Any] | None" = None) -> Statement:
    """SQL as one line without comments, its parameters replaced by their values."""
    named = parameters if isinstance(parameters, Mapping) else {}
    in_turn = iter(parameters if parameters is not None and not isinstance(parameters, Mapping) else ())
    whole = True

    def replaced(match: re.Match[str]) -> str:
        nonlocal whole
        piece = match[0]
        if piece[0] in "'\"":
            return piece
        if piece.isspace() or piece.startswith(("--", "/*")):
            return " "
        try:
            value = named[match[1]] if match[1] else next(in_turn)
            return literal_of(value)
        except (KeyError, StopIteration, TypeError):
            whole = False
            return piece

    text = _PIECE.sub(replaced, sql).strip()
    if len(text) > LONGEST:
        short = " ".join(re.sub(r"--[^\n]*", " ", sql).split())
        return Statement(short if len(short) <= LONGEST else short[: LONGEST - 1] + "…", whole=False)
    return Statement(text, whole)


def literal_of(value: object) -> str:
    """A value as SQL text. Raises TypeError for what SQL text cannot say."""
    if value is None:
        return "NULL"
    if hasattr(value, "tolist"):  # of numpy
        value = value.tolist()
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value) if abs(value) < float("inf") else f"'{value}'::DOUBLE"  # NaN compares false
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(literal_of, value))}]"
    raise TypeError(f"a {type(value).__name__} cannot be written as SQL")


class _Listened:
    """A cursor that notes each statement before it runs."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, found: list[Statement]) -> None:
        self._cursor = cursor
        self._found = found

    def execute(self, query: str, parameters: Any = None) -> duckdb.DuckDBPyConnection:
        self._found.append(statement(query, parameters))
        return self._cursor.execute(query, parameters)

    def sql(self, query: str, *, params: Any = None, **options: Any) -> duckdb.DuckDBPyRelation:
        self._found.append(statement(query, params))
        return self._cursor.sql(query, params=params, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._cursor.close()
