"""Brings a run of an older schema up to date, in a new file that replaces the old one once it is complete.

Nothing in the old file is executed: its tables are checked (layout.py) and copied, and the steps of migrations.py work
on the copy. If the process is killed at any point, the old file stays as it was.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nfinspect_store.atomic import clean_leftovers, next_to, remove, replaced
from nfinspect_store.connect import (
    RUN_OPTIONS,
    WRITING,
    add_new,
    add_run,
    attach,
    attach_to_write,
    locked,
    reached,
    translated,
)
from nfinspect_store.digests import renew_digests
from nfinspect_store.errors import RunBusy
from nfinspect_store.heartbeat import being_written
from nfinspect_store.layout import definitions, make_tables
from nfinspect_store.memory import memory_for, pieces, widest_layer
from nfinspect_store.migrations import FIRST_VERSION, MIGRATIONS, SCHEMA_VERSION
from nfinspect_store.paths import file_state
from nfinspect_store.schema import OPTIONAL_TABLES, ROUTED, ROUTED_VIEW, quoted


@dataclass(frozen=True)
class Migration:
    """Schema versions of a run before and after."""

    path: Path
    before: int
    after: int


def migrate_run(path: Path) -> Migration:
    """Bring a run up to this nfinspect's schema; one that is up to date is left alone.

    Needs disk space for two more copies while it works. Raises NotARun, RunNotFound, RunBusy, SchemaTooNew,
    StorageFull.
    """
    path = reached(path)
    if being_written(path):
        raise RunBusy(f"{path.stem} is being captured: wait until it has finished")
    clean_leftovers(path)
    before = _version(path)
    if before < SCHEMA_VERSION:
        if path.with_name(f"{path.name}.wal").exists():  # left by a killed process: it must not outlive the old file
            with attach_to_write(path, older=True) as connection, translated(path):
                connection.execute("CHECKPOINT")
        with replaced(path) as new, _removed(next_to(path)) as copy:
            copy_run(path, copy, before)
            copy_run(copy, new, SCHEMA_VERSION)
    return Migration(path, before, SCHEMA_VERSION)


def _version(path: Path) -> int:
    with attach(path, older=True) as connection:
        version: int = connection.execute("SELECT schema_version FROM run").fetchall()[0][0]
    return version


def copy_run(path: Path, new: Path, version: int) -> None:
    """Copy the run at `path`, of that schema version, to a new file, and migrate the copy if it is older.

    Migration steps leave free space in a file; a copy of a run that needs no steps has none. Raises RunBusy if the run
    was changed meanwhile, as the copy lacks the change.
    """
    before = file_state(path)
    with attach(path, older=True) as checked, translated(path):
        widest = widest_layer(checked)
    with locked([path, new], threads=1, memory=memory_for(widest), changeable=WRITING) as connection:
        add_run(connection, path, "old", older=True)
        add_new(connection, new, "new", RUN_OPTIONS)
        with translated(new):
            tables = [name for kind, name in definitions(connection, ["old"], macros=False)["old"] if kind == "table"]
            connection.execute("USE new")
            make_tables(connection, version)
            connection.execute("BEGIN")  # one transaction: pieces committed one by one leave free space between them
            for name in tables:
                if name in OPTIONAL_TABLES:
                    connection.execute(OPTIONAL_TABLES[name])
                for piece in pieces(connection, name, widest, source="old.main.", version=version):
                    connection.execute(
                        f"INSERT INTO {quoted(name)} SELECT * FROM old.main.{quoted(name)} WHERE {piece}"
                    )
            if ROUTED in tables:
                connection.execute(ROUTED_VIEW)
            connection.execute("COMMIT")
            if version < SCHEMA_VERSION:
                for step in MIGRATIONS[version - FIRST_VERSION :]:
                    step(connection)
                renew_digests(connection)
                connection.execute("UPDATE run SET schema_version = ?", [SCHEMA_VERSION])
            connection.execute("CHECKPOINT")
    if file_state(path) != before:
        raise RunBusy(f"{path} was changed or moved while it was being copied: try again")


@contextmanager
def _removed(path: Path) -> Iterator[Path]:
    """Yields `path` for a file that is deleted afterwards."""
    try:
        yield path
    finally:
        remove(path)
