"""Writes one run: values are streamed, and everything else is committed with them, segment by segment.

A segment is one transaction: the blocks of its tokens, the tokens and prompts themselves, and the statistics of all
tokens so far. A process that dies leaves the run as of its last segment, consistent in itself, and a capture resumes
from there with identical values.
"""

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from itertools import groupby
from pathlib import Path
from typing import NoReturn, Self

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfinspect_store.atomic import clean_leftovers, remove, replaced
from nfinspect_store.attached import attached_parts, define_view
from nfinspect_store.background_flush import BackgroundFlush
from nfinspect_store.blocks import BlockStream
from nfinspect_store.connect import (
    attach_to_write,
    create,
    reached,
    remember,
    translated,
)
from nfinspect_store.digests import (
    VALUES,
    Digest,
    digest_of,
    digest_table,
    read_digests,
    write_digests,
)
from nfinspect_store.errors import NfinspectError, RunExists, StorageFull, StoreError
from nfinspect_store.histogram_rows import histograms_table
from nfinspect_store.holes import has_holes
from nfinspect_store.mamba_delta import mamba_delta_table
from nfinspect_store.memory import PIECE, memory_for
from nfinspect_store.migrate_run import copy_run
from nfinspect_store.migrations import SCHEMA_VERSION
from nfinspect_store.precision import check_precision
from nfinspect_store.rows import (
    beyond_table,
    concept_statistics_table,
    examples_table,
    experts_table,
    layers_table,
    means_table,
    prompts_table,
    routed_table,
    statistics_table,
    tokens_table,
    unrecorded_table,
)
from nfinspect_store.schema import EXPERTS, OPTIONAL_TABLES, ROUTED, ROUTED_VIEW, quoted, run_tables
from nfinspect_store.snapshot import LayerSnapshot
from nfinspect_store.tables import RunTables
from nfinspect_store.types import BeyondRows, Layer, MeanRows, Prompt, RunInfo, Status, TokenRows
from nfinspect_store.unfinished import UnfinishedBlocks, delete_replaced

ROUTE_BYTES = 200
"""What the tokens of one expert in one batch take beside 8 bytes each: a tuple and an array."""

Derive = Callable[[RunTables], tuple[pa.Table, pa.Table]]
"""From a run's tables to the contents of `neurons` and `layer_health`."""


@dataclass
class _Segment:
    prompts: list[Prompt] = field(default_factory=list)
    tokens: list[TokenRows] = field(default_factory=list)
    unrecorded: list[TokenRows] = field(default_factory=list)
    means: list[MeanRows] = field(default_factory=list)
    beyond: dict[int, list[BeyondRows]] = field(default_factory=dict)  # by layer_id
    beyond_rows: int = 0
    routed: dict[int, list[tuple[int, int, NDArray[np.int64]]]] = field(default_factory=dict)  # by layer_id
    routed_bytes: int = 0
    rows: Mapping[str, Iterable[pa.Table]] = field(default_factory=dict)  # by table
    of_rows: tuple[int, int] = (0, 0)  # the prompts and tokens that they are of


class RunWriter:
    """The only writer of a run file. Use from one thread, but `put` from as many as there are layers.

    writers: the most threads that DuckDB writes blocks with.
    """

    queue: int | None = None
    """The most bytes of blocks that wait to be written; None: as many as a capture lets wait."""

    def __init__(
        self, path: Path, connection: duckdb.DuckDBPyConnection, tables: RunTables, *, writers: int = 1
    ) -> None:
        self.path = path
        self._writers = writers
        self._connection = connection
        self.layers = tables.layers
        self.keeps_values = tables.has_values and not tables.attached
        self.beyond = tables.beyond
        self._beyond_rows = tables.beyond_rows
        self.tokens = tables.tokens
        self.prompts = tables.prompts
        self._digests = read_digests(connection)
        self._segment = _Segment()
        self._stream: BlockStream | None = None
        self._beginning = threading.Lock()
        self._rounds = tables.rounds_values
        self._worst = dict(tables.worst_error)
        self._buffers = UnfinishedBlocks(tables if self.keeps_values else tables.without_values())
        self._replaced = self._buffers.replaced()
        # Of the values in rows that stay.
        self._values_before = self._digests.get(VALUES, Digest()) - self._buffers.digest
        self._flush = BackgroundFlush(reached(path))
        self.committing = threading.Lock()
        """Held while a segment becomes visible to others; `commits` says how many have."""
        self.commits = 0
        self._has_replaced = self.tokens > 0  # a commit leaves the place of the rows that it replaces free

    @classmethod
    def create(
        cls, path: Path, info: RunInfo, layers: Sequence[Layer], *, writers: int = 1, readers: bool = False
    ) -> Self:
        """Create a new file. `info.settings` say by `keep` whether values are stored, and by `precision` how.
        readers: others will read the run while it is written (`reading_cursor`), which takes memory of its own.

        Raises RunExists, StorageFull, RequestError for a precision of values that are not kept, and StoreError unless
        layer_id counts 0, 1, 2 …, the layers of a site together: readers select them by id ranges.
        """
        check_precision(info.settings.get("keep", "all"), info.settings.get("precision", "float32"))
        sites = [site for site, _ in groupby(layer.site for layer in layers)]
        if len(sites) != len(set(sites)) or [layer.layer_id for layer in layers] != list(range(len(layers))):
            raise StoreError(f"expected the layers of a site together, numbered from 0; found {', '.join(sites)}")
        if path.exists():
            cls.refuse_existing(path)
        clean_leftovers(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageFull(f"cannot create the store {path.parent}: {error.strerror or error}") from error
        widest = max((layer.neurons for layer in layers), default=0)
        connection = create(path, memory=memory_for(widest, readers=readers))
        try:
            cls._lay_out(path, connection, info, layers)
            return cls(path, connection, RunTables(connection), writers=writers)
        except BaseException:
            connection.close()
            remove(path)
            raise

    @staticmethod
    def _lay_out(path: Path, connection: duckdb.DuckDBPyConnection, info: RunInfo, layers: Sequence[Layer]) -> None:
        with translated(path):
            connection.execute("BEGIN")
            connection.execute(run_tables(gates=any(layer.fires == "gate" for layer in layers)))
            _insert_run(connection, replace(info, schema_version=SCHEMA_VERSION))
            rows = layers_table(layers)
            _insert(connection, "layers", rows)
            digests = {"run": digest_table(connection, "run"), "layers": digest_of(rows)}
            if any(layer.experts for layer in layers):
                connection.execute(OPTIONAL_TABLES[EXPERTS])
                mixtures = experts_table(layers)
                _insert(connection, EXPERTS, mixtures)
                digests[EXPERTS] = digest_of(mixtures)
                if RunTables(connection, in_transaction=True).has_values:
                    connection.execute(OPTIONAL_TABLES[ROUTED])
                    connection.execute(ROUTED_VIEW)
                    digests[ROUTED] = Digest()
            write_digests(connection, digests)
            connection.execute("COMMIT")
            if parts := attached_parts(info.settings):
                define_view(connection, parts)

    @staticmethod
    def refuse_existing(path: Path) -> NoReturn:
        """Raises RunExists."""
        raise RunExists(f"a run named {path.stem} already exists: choose another --run, delete it, or --resume it")

    @classmethod
    def reopen(cls, path: Path, *, writers: int = 1, readers: bool = False) -> Self:
        """Continue an unfinished run after its last segment. Raises NotARun, RunBusy, SchemaTooOld."""
        clean_leftovers(reached(path))
        connection = attach_to_write(path, readers=readers)
        try:
            return cls(path, connection, RunTables(connection), writers=writers)
        except BaseException:
            connection.close()
            raise

    def tables(self) -> RunTables:
        """The run as committed so far."""
        return RunTables(self._connection)

    @property
    def values(self) -> int:
        """How many values have been put, of this segment and those before."""
        return self._buffers.values

    @property
    def beyond_rows(self) -> int:
        """How many values `add` has been given, of this segment and those before."""
        return self._beyond_rows + self._segment.beyond_rows

    @property
    def routed_bytes(self) -> int:
        """About the memory that the routes of the open segment take until it is committed."""
        return self._segment.routed_bytes

    def reading_cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection to the same instance, for others to read what is committed. It must be closed, and every
        transaction ended, before the run is closed. Its queries share the instance's memory: see `create`.
        """
        return self._connection.cursor()

    # A segment

    def put(
        self,
        layer_id: int,
        values: NDArray[np.float32],
        fired: NDArray[np.bool_] | None = None,
        expert: int | None = None,
    ) -> None:
        """Write a layer's values on the next tokens: float32[neurons, tokens], and which of them fired if the layer
        fires by its gate.

        They are written while the caller goes on. Several threads may put layers of their own. Raises StorageFull if
        the disk is full: the segment is lost, earlier ones stay. expert: of one expert alone, float32[width, tokens];
        `add_rows` says which tokens were routed to it (`put_routed` does both).
        """
        self._streaming().put(layer_id, values, fired, expert)

    def put_routed(
        self,
        layer_id: int,
        expert: int,
        token_idx: NDArray[np.int64],
        values: NDArray[np.float32],
        fired: NDArray[np.bool_] | None = None,
    ) -> None:
        """As `put`, of one expert of a layer: float32[width, tokens] on the next tokens that were routed to it."""
        place = self._buffers.of(layer_id, expert).token
        self.put(layer_id, values, fired, expert)
        self._segment.routed.setdefault(layer_id, []).append((expert, place, token_idx))
        self._segment.routed_bytes += token_idx.nbytes + ROUTE_BYTES

    def _streaming(self) -> BlockStream:
        """The open segment's stream; begins the segment if there is none."""
        with self._beginning:
            if self._stream is None:
                with translated(self.path):
                    self._connection.execute("BEGIN")
                    if self._replaced:
                        delete_replaced(self._connection, self._replaced)
                buffers = tuple(self._buffers)
                self._stream = BlockStream(self.path, self._connection, buffers, self._writers, self.queue)
                self._flush.start()
            return self._stream

    def add(
        self,
        prompts: Sequence[Prompt],
        tokens: TokenRows,
        means: Sequence[MeanRows],
        unrecorded: TokenRows | None = None,
        beyond: Sequence[BeyondRows] = (),
    ) -> None:
        """Add prompts with all their tokens. Values have been put of `tokens`; `unrecorded`: the others, if any.
        beyond: the values on `tokens` that a run which stores no others keeps.
        """
        self._segment.prompts.extend(prompts)
        if len(tokens.token_idx):
            self._segment.tokens.append(tokens)
        if unrecorded is not None and len(unrecorded.token_idx):
            self._segment.unrecorded.append(unrecorded)
        self._segment.means.extend(means)
        for rows in beyond:
            if len(rows.neuron):
                self._segment.beyond.setdefault(rows.layer_id, []).append(rows)
                self._segment.beyond_rows += len(rows.neuron)

    def add_rows(self, rows: Mapping[str, Iterable[pa.Table]], *, prompts: int, tokens: int) -> None:
        """Add so many prompts and tokens as rows of `prompts`, `tokens`, `unrecorded`, `prompt_means` and `routed`,
        which are read at the commit: `add` for what another run holds.
        """
        self._segment.rows, self._segment.of_rows = rows, (prompts, tokens)

    def commit(
        self,
        layers: Sequence[LayerSnapshot],
        derive: Derive,
        info: Mapping[str, object],
    ) -> None:
        """Make everything added so far durable. info: columns of `run` to set, the status among them."""
        complete = info.get("status") == "complete"
        if self._stream is not None or (complete and self._replaced):
            self._streaming().finish(final=complete)
            self._stream = None
            self._flush.stop()
        else:
            self._connection.execute("BEGIN")
        tokens = self.tokens + sum(len(t.token_idx) for t in self._segment.tokens) + self._segment.of_rows[1]
        with translated(self.path):
            self._insert_segment()
            # Without new prompts they are there since the last commit.
            if self._segment.prompts or self._segment.rows or not self.commits:
                self._replace_statistics(layers)
            settings = ", ".join(f"{quoted(column)} = ?" for column in info)
            self._connection.execute(f"UPDATE run SET {settings}", list(info.values()))
            if self._rounds:
                self._write_worst_error()
            at_hand = {layer.layer_id: layer for layer in layers}
            neurons, health = derive(RunTables(self._connection, in_transaction=True, at_hand=at_hand))
            self._replace("neurons", [neurons])
            self._replace("layer_health", [health])
            if self._buffers:
                self._digests[VALUES] = self._values_before + self._buffers.digest
            self._digests["run"] = digest_table(self._connection, "run")
            write_digests(self._connection, self._digests)
            if info.get("status") != "capturing" and not self._rounds:
                # What the last commit moves, to merge row groups, leaves room that nothing fills. Where it deletes rows
                # of blocks, moving others takes their room away.
                self._connection.execute("SET max_vacuum_tasks = 0")
            with self.committing:
                self._connection.execute("COMMIT")
                self.commits += 1
        self._has_replaced = self.tokens > 0
        self.tokens = tokens
        self._replaced = self._buffers.replaced()
        self.prompts += len(self._segment.prompts) + self._segment.of_rows[0]
        self._beyond_rows = self.beyond_rows
        self._segment = _Segment()

    def _write_worst_error(self) -> None:
        for buffer in self._buffers:
            site = buffer.layer.site
            self._worst[site] = max(self._worst.get(site, 0.0), buffer.error)
        told = json.dumps({"worst_error": self._worst})
        self._connection.execute("UPDATE run SET settings = json_merge_patch(settings, ?::JSON)", [told])

    def add_table(self, name: str, rows: pa.Table) -> None:
        """Add a table that only some runs have (schema.OPTIONAL_TABLES), such as `planted`. Outside a segment."""
        with translated(self.path):
            self._connection.execute("BEGIN")
            self._connection.execute(OPTIONAL_TABLES[name])
            self._append(name, [rows])
            write_digests(self._connection, {name: self._digests[name]})
            self._connection.execute("COMMIT")

    def abandon(self) -> None:
        """Roll back to the last commit, dropping the open segment. Then call only `mark`, `close` or `discard`."""
        if self._stream is not None:
            self._stream.abandon()
            self._stream = None
        self._flush.stop()
        self._segment = _Segment()
        with suppress(duckdb.Error):  # there may be no transaction to roll back
            self._connection.execute("ROLLBACK")

    def mark(self, status: Status) -> None:
        """Record how the run ended. Outside a segment."""
        with translated(self.path):
            self._connection.execute("BEGIN")
            self._connection.execute("UPDATE run SET status = ?", [status])
            write_digests(self._connection, {"run": digest_table(self._connection, "run")})
            self._connection.execute("COMMIT")

    def close(self, copying: Callable[[int], None] = lambda size: None) -> None:
        """Checkpoint the log into the file and close it. An open segment is rolled back.

        A file with much free space is copied to drop it; copying: called before that with the file's size in bytes.
        """
        self.abandon()
        try:
            with translated(self.path):
                self._connection.execute("CHECKPOINT")
        finally:
            self._connection.close()
            self._flush.close()
        with suppress(NfinspectError, OSError):  # such as a full disk: the run is complete, with or without free space
            if self._has_replaced and has_holes(self.path):
                copying(self.path.stat().st_size)
                self._without_holes()
        remember(self.path, SCHEMA_VERSION)

    def _without_holes(self) -> None:
        """Replace the file by a copy: each commit rewrites some tables, and DuckDB reuses their old blocks but cuts off
        only those at the end.
        """
        place = reached(self.path)
        with replaced(place) as new:
            copy_run(place, new, SCHEMA_VERSION)

    def discard(self) -> None:
        """Delete the whole run."""
        self.abandon()
        self._connection.close()
        self._flush.close()
        remove(self.path)

    def _insert_segment(self) -> None:
        self._append("prompts", [prompts_table(self._segment.prompts)])
        self._append("tokens", map(tokens_table, self._segment.tokens))
        self._append("unrecorded", map(unrecorded_table, self._segment.unrecorded))
        if self._segment.means:
            self._append("prompt_means", map(means_table, self._segment.means))
        if self._segment.routed:
            of_layers = sorted(self._segment.routed.items())
            self._append(ROUTED, (routed_table(self.layers[layer_id], parts) for layer_id, parts in of_layers))
        self._append("beyond", (beyond_table(parts) for _, parts in sorted(self._segment.beyond.items())))
        for table, rows in self._segment.rows.items():
            self._append(table, rows)

    def _replace_statistics(self, layers: Sequence[LayerSnapshot]) -> None:
        self._replace(
            "statistics",
            (
                statistics_table(layer.layer_id, first, layer.statistics[first])
                for first in (False, True)  # similar rows next to each other compress best
                for layer in layers
                if first in layer.statistics
            ),
        )
        self._replace(
            "histograms",
            (
                histograms_table(layer.layer_id, first, counts)
                for layer in layers
                for first, counts in layer.histograms.items()
            ),
        )
        self._replace(
            "concept_statistics",
            (
                concept_statistics_table(layer.layer_id, concept, told)
                for layer in layers
                for concept, told in layer.concepts.items()
            ),
        )
        self._replace(
            "examples",
            (
                examples_table(layer.layer_id, kind, tokens, values)
                for layer in layers
                for kind, (tokens, values) in layer.examples.items()
            ),
        )
        self._replace(
            "mamba_delta",
            (
                mamba_delta_table(self.layers[layer.layer_id].layer, layer.delta)
                for layer in layers
                if layer.delta is not None
            ),
        )

    def _replace(self, table: str, rows: Iterable[pa.Table]) -> None:
        if self._digests.get(table, Digest()).rows:
            self._connection.execute(f"DELETE FROM {quoted(table)}")
        self._digests[table] = Digest()
        self._append(table, rows)

    def _append(self, table: str, rows: Iterable[pa.Table]) -> None:
        digest = self._digests.get(table, Digest())
        with ThreadPoolExecutor(1) as beside:  # DuckDB and the digest each take about as long, and leave Python's lock
            for piece in _pieces(rows):
                told = beside.submit(digest_of, piece)
                _insert(self._connection, table, piece)
                digest += told.result()
        self._digests[table] = digest


def _insert(connection: duckdb.DuckDBPyConnection, table: str, rows: pa.Table) -> None:
    # Not as a registered name: until the transaction ends DuckDB keeps what was dropped in it, and with it the rows.
    given = set(rows.column_names)
    columns = connection.table(quoted(table)).columns
    chosen = ", ".join(quoted(name) if name in given else f"NULL AS {quoted(name)}" for name in columns)
    connection.from_arrow(rows).project(chosen).insert_into(quoted(table))


def _pieces(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Tables of the same columns, merged or cut into pieces that fit DuckDB's memory: one statement for each of many
    small tables would take longer than inserting their rows.
    """
    waiting: list[pa.Table] = []
    held = 0
    for rows in tables:
        step = max(1, rows.num_rows * PIECE // max(1, rows.nbytes))
        for start in range(0, rows.num_rows, step):
            piece = rows.slice(start, step)
            size = piece.nbytes
            if held + size > PIECE:
                yield from _together(waiting)
                waiting, held = [], 0
            waiting.append(piece)
            held += size
    yield from _together(waiting)


def _together(tables: list[pa.Table]) -> Iterator[pa.Table]:
    """Tables of the same columns as one; nothing if there are none."""
    if tables:
        yield pa.concat_tables(tables).unify_dictionaries().combine_chunks()


def _insert_run(connection: duckdb.DuckDBPyConnection, info: RunInfo) -> None:
    row = {f.name: getattr(info, f.name) for f in fields(RunInfo)}
    row["settings"] = json.dumps(dict(info.settings))
    columns, places = ", ".join(row), ", ".join("?" * len(row))
    connection.execute(f"INSERT INTO run ({columns}) VALUES ({places})", list(row.values()))
