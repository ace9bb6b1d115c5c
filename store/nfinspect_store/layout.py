"""Exactly what a file of ours may define; a file with anything else in it is not read.

A view under the name of a table, a macro under the name of a function, a generated column, a trigger: each is a program
that a stranger put where data are expected. So the definitions in a file must be those that DuckDB writes for
schema.py, and there may be no others. This module reads definitions and executes none of a checked file.
"""

import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb

from nfinspect_store.attached import activations_view, parts_in
from nfinspect_store.errors import NotARun, SchemaTooNew, SchemaTooOld
from nfinspect_store.migrations import FIRST_TABLES, FIRST_VERSION, MIGRATIONS, SCHEMA_VERSION
from nfinspect_store.schema import OPTIONAL_TABLES, RESULT_TABLE, ROUTED, ROUTED_VIEW, TABLES, quoted

Definitions = Mapping[tuple[str, str], str]
"""By kind (table, view, macro …) and name: DuckDB's SQL for it, or '' where the definition does not matter."""

SHOWN = 60
"""Characters of a foreign name that a message repeats."""

READ_DEFINITIONS = """
FROM (
    SELECT database_name, 'schema' AS kind, schema_name AS name, '' AS definition FROM duckdb_schemas()
    WHERE schema_name <> 'main' OR parent_schema IS NOT NULL
    UNION ALL SELECT database_name, 'table', table_name, sql FROM duckdb_tables()
    UNION ALL SELECT database_name, 'view', view_name, sql FROM duckdb_views()
    UNION ALL SELECT database_name, 'sequence', sequence_name, '' FROM duckdb_sequences()
    UNION ALL SELECT database_name, 'index', index_name, '' FROM duckdb_indexes()
    UNION ALL SELECT database_name, 'trigger', trigger_name, '' FROM duckdb_triggers()
    UNION ALL SELECT database_name, 'type', type_name, '' FROM duckdb_types() WHERE NOT internal
    {macros}
) WHERE database_name IN (SELECT unnest($catalogs::VARCHAR[]))
"""
"""DuckDB lists those of all attached files, whichever one asks for: of many files they are read at once."""

READ_MACROS = "UNION ALL SELECT database_name, 'macro', function_name, '' FROM duckdb_functions()"

COUNT_COMPUTED = """
SELECT (SELECT count(*) FROM duckdb_constraints() WHERE database_name = $catalog)
     + (SELECT count(*) FROM duckdb_columns()
        WHERE database_name = $catalog AND (column_default IS NOT NULL OR is_generated))
"""

SCRATCH = "layout"
"""A catalog in memory; no run may be attached under this name."""

UNION_ALL = {
    "type": "SET_OPERATION_NODE",
    "modifiers": [],
    "cte_map": {"map": []},
    "setop_type": "UNION",
    "setop_all": True,
    "children": None,
    "left": None,
    "right": None,
}
"""The node of a parse tree that does nothing else, without its branches. DuckDB brackets a chain of them anew."""

_layouts: dict[str, Definitions] = {}


def definitions(
    connection: duckdb.DuckDBPyConnection, catalogs: Iterable[str], *, macros: bool
) -> dict[str, Definitions]:
    """Everything that each of these attached databases defines. None may be the default catalog, where its names could
    shadow DuckDB's own.

    macros=False does not look for macros, which is safe if no function is called while the database is the default
    catalog: listing them takes longer than all the rest.
    """
    query = READ_DEFINITIONS.format(macros=READ_MACROS if macros else "")
    found: dict[str, dict[tuple[str, str], str]] = {catalog: {} for catalog in catalogs}
    for catalog, kind, name, definition in connection.execute(query, {"catalogs": list(found)}).fetchall():
        found[catalog][kind, name] = definition
    return dict(found)


def _expected(
    connection: duckdb.DuckDBPyConnection, what: str, make: Callable[[duckdb.DuckDBPyConnection], object]
) -> Definitions:
    """What a file of a kind and version defines: found once per process by creating an empty one in memory."""
    if what not in _layouts:
        connection.execute(f"ATTACH ':memory:' AS {SCRATCH}")
        connection.execute(f"USE {SCRATCH}")
        make(connection)
        connection.execute("USE memory")
        _layouts[what] = definitions(connection, [SCRATCH], macros=False)[SCRATCH]
        connection.execute(f"DETACH {SCRATCH}")
    return _layouts[what]


def make_tables(connection: duckdb.DuckDBPyConnection, version: int) -> None:
    """The empty tables and the view of a run of that schema version, in the default catalog."""
    if version == SCHEMA_VERSION:
        connection.execute(TABLES)
        return
    connection.execute(FIRST_TABLES)
    for step in MIGRATIONS[: version - FIRST_VERSION]:
        step(connection)


def _make_run(connection: duckdb.DuckDBPyConnection, version: int, *, routed: bool) -> None:
    make_tables(connection, version)
    connection.execute("".join(OPTIONAL_TABLES.values()))
    if routed:
        connection.execute(ROUTED_VIEW)


def check_run(connection: duckdb.DuckDBPyConnection, catalog: str, path: Path, found: Definitions) -> int:
    """Check that the database attached as `catalog`, which defines what was `found`, is a run and nothing else; returns
    its schema version. Raises NotARun, SchemaTooNew.
    """
    version = _version(connection, catalog, path, found)
    if version > SCHEMA_VERSION:
        raise SchemaTooNew(
            f"{path} has schema version {version}, this nfinspect reads up to {SCHEMA_VERSION}: upgrade nfinspect"
        )
    routed = ("table", ROUTED) in found
    what = f"run {version}" + (" with experts" if routed else "")
    expected = _expected(connection, what, lambda scratch: _make_run(scratch, version, routed=routed))
    for kind, name in found:
        if (kind, name) not in expected:
            raise NotARun(_foreign(path, kind, name))
    for (kind, name), definition in sorted(expected.items()):  # the tables first: what a view may be is in one of them
        if (kind, name) not in found:
            if name not in OPTIONAL_TABLES:
                raise NotARun(f"{path} is not a run, or is damaged: it has no {kind} {name}")
            continue
        if kind == "view":
            definition = _view(connection, catalog, path, definition)
        if not _same(connection, kind, found[kind, name], definition):
            raise NotARun(f"{path} is not a run, or was changed: its {kind} {name} is not defined as nfinspect does")
    return version


def _view(connection: duckdb.DuckDBPyConnection, catalog: str, path: Path, usual: str) -> str:
    """The definition of a run's view: another one where the run leaves its values in parts. Raises NotARun."""
    try:
        parts = parts_in(connection, catalog)
    except NotARun as error:
        raise NotARun(f"{path}: {error}") from error
    return activations_view(parts) if parts else usual


def refuse_older(path: Path, version: int) -> None:
    """Raises SchemaTooOld for a run of an earlier schema than SCHEMA_VERSION."""
    if version < SCHEMA_VERSION:
        raise SchemaTooOld(
            f"{path} has schema version {version}, this nfinspect reads {SCHEMA_VERSION}: "
            f"nfinspect migrate {shlex.quote(str(path))} brings it up to date"
        )


def check_result(connection: duckdb.DuckDBPyConnection, catalog: str, path: Path) -> None:
    """Raises NotARun unless the database attached as `catalog` is a saved result: plain tables, `result` among them.
    Macros are not looked for, as none is called.
    """
    found = definitions(connection, [catalog], macros=False)[catalog]
    for kind, name in found:
        if kind != "table":
            raise NotARun(_foreign(path, kind, name))
    if ("table", "result") not in found:
        raise NotARun(f"{path} is not a saved result: it has no table result; delete it")
    computed = connection.execute(COUNT_COMPUTED, {"catalog": catalog}).fetchall()[0][0]
    expected = _expected(connection, "result", lambda scratch: scratch.execute(RESULT_TABLE))
    if computed or found["table", "result"] != expected["table", "result"]:
        raise NotARun(f"{path} is not a saved result, or was changed: its tables are not as nfinspect makes them")


def _version(connection: duckdb.DuckDBPyConnection, catalog: str, path: Path, found: Definitions) -> int:
    definition = found.get(("table", "run"))
    if definition is None:
        instead = next((kind for kind, name in found if name == "run"), None)
        if instead is not None:
            raise NotARun(_foreign(path, instead, "run"))
        raise NotARun(f"{path} is a DuckDB file, but not a run of nfinspect: it has no table run")
    if "GENERATED" in definition:
        raise NotARun(f"{path} is not a run, or was changed: its table run computes a column")
    try:
        rows = connection.execute(f"SELECT schema_version FROM {quoted(catalog)}.main.run LIMIT 2").fetchall()
    except duckdb.BinderException as error:
        raise NotARun(f"{path} is a DuckDB file, but not a run of nfinspect: its table run has no version") from error
    if not rows or not isinstance(rows[0][0], int) or rows[0][0] < FIRST_VERSION:
        raise NotARun(f"{path} holds no run: the capture that made it stopped before its first segment; delete it")
    if len(rows) > 1:
        raise NotARun(f"{path} is not a run, or was changed: expected one row in its table run, found more")
    return int(rows[0][0])


def _same(connection: duckdb.DuckDBPyConnection, kind: str, found: str, expected: str) -> bool:
    """Whether definitions are identical but for the compression of columns, which changes no value; of views the parse
    trees, as DuckDB writes brackets in its own way.
    """
    if found == expected:
        return True
    if kind != "view":
        return _without_compression(found) == _without_compression(expected)
    trees: list[str] = []
    for definition in (found, expected):
        query = definition.partition(" AS ")[2].rstrip(";")
        tree = connection.execute("SELECT json_serialize_sql($query::VARCHAR)", {"query": query}).fetchall()[0][0]
        trees.append(re.sub(r'("query_location(?:_length)?"):\d+', r"\1:0", tree))
    if '"error":false' not in trees[0]:
        return False
    try:
        return trees[0] == trees[1] or _queries(trees[0]) == _queries(trees[1])
    except RecursionError:
        return False


def _queries(tree: str) -> list[object]:
    """The queries that one statement joins by UNION ALL, in order; of another statement itself."""
    (statement,) = json.loads(tree)["statements"]
    return [statement | {"node": None}, *_branches(statement["node"])]


def _branches(node: Any) -> Iterator[object]:
    children = [one for one in (*(node.get("children") or ()), node.get("left"), node.get("right")) if one]
    alone = node | dict.fromkeys(("children", "left", "right"))
    if alone == UNION_ALL:
        for child in children:
            yield from _branches(child)
    else:
        yield node


def _without_compression(definition: str) -> str:
    """A table's, without what DuckDB writes after the types of columns whose compression was chosen."""
    return re.sub(r" USING COMPRESSION \w+(?=[,)])", "", definition)


def _foreign(path: Path, kind: str, name: str) -> str:
    return (
        f"{path} is not a run, or was changed: it holds a {kind} {name[:SHOWN]!r}, which nfinspect does not write; "
        "it is not read, as that could be a program"
    )
