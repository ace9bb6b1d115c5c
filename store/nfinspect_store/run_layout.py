"""What a run is: its sites and layers, how many prompts and tokens, how values are stored, and which neuron is where.

Every method takes a fresh cursor, so threads may share one RunLayout.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from decimal import Decimal
from functools import cached_property

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfinspect_store import precision
from nfinspect_store.addresses import Address, parse_address
from nfinspect_store.attached import AttachedPart, attached_parts
from nfinspect_store.connect import CATALOG
from nfinspect_store.edits import edits_text
from nfinspect_store.errors import NotARun, RequestError
from nfinspect_store.part_settings import part_notes
from nfinspect_store.schema import EXPERTS, ROUTED, quoted
from nfinspect_store.snapshot import LayerSnapshot
from nfinspect_store.statements import listened
from nfinspect_store.types import PRECISIONS, Layer, NeuronIndex, Precision, RunInfo

COUNT_OF_EXPERTS = f"""
SELECT coalesce(sum(s.n), 0)::BIGINT
FROM statistics s JOIN layers l USING (layer_id) JOIN {EXPERTS} e USING (site, layer)
"""
"""How many values the neurons of experts had."""


class RunLayout:
    """What a run is. `connection` has the run attached (nfinspect_store.connect).

    in_transaction: use `connection` itself, to read what its open transaction has written; then for one thread only.
    hide_values: behave as a run that kept only statistics.
    streaming: returns another connection to the run, with a low memory limit, for values that are read once.
    at_hand: what the caller has just written, by layer_id: its statistics and histograms are not read back.
    catalog: under which the run is attached.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        *,
        in_transaction: bool = False,
        hide_values: bool = False,
        streaming: Callable[[], duckdb.DuckDBPyConnection] | None = None,
        at_hand: Mapping[int, LayerSnapshot] | None = None,
        catalog: str = CATALOG,
    ) -> None:
        self._connection = connection
        self._catalog = catalog
        self._in_transaction = in_transaction
        self._hide_values = hide_values
        self._streaming = streaming
        self._at_hand = at_hand or {}
        self._near: Mapping[int, Mapping[bool, NDArray[np.int64]]] = {}

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A new connection to the same run for the caller's thread: `FROM neurons` finds the run's table."""
        return listened(self._connection if self._in_transaction else _cursor(self._connection, self._catalog))

    def _arrow(self, query: str, parameters: Mapping[str, object]) -> pa.Table:
        # A relation streams into Arrow; the result of execute() would be copied again.
        return self.cursor().sql(query, params=dict(parameters)).to_arrow_table()

    def streamed(self, query: str, parameters: Mapping[str, object], rows: int) -> Iterator[pa.RecordBatch]:
        """The result of a query over values, `rows` at a time, without keeping in memory what was yielded."""
        # Without `streaming`: a writer's memory limit is low anyway.
        cursor = self.cursor() if self._streaming is None else listened(_cursor(self._streaming(), self._catalog))
        yield from cursor.sql(query, params=dict(parameters)).to_arrow_reader(rows)

    # What the run is

    @cached_property
    def info(self) -> RunInfo:
        names = [f.name for f in fields(RunInfo)]
        rows = self.cursor().execute(f"SELECT {', '.join(names)} FROM run").fetchall()
        if not rows:
            raise NotARun("expected one row in the table run, found none: the file's creation was never finished")
        values = dict(zip(names, rows[0], strict=True))
        values["settings"] = json.loads(values["settings"] or "{}")
        return RunInfo(**values)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the capture found that every reader of the run's figures must know, a line each."""
        settings = self.info.settings
        notes = settings.get("notes", ())
        told = [str(note) for note in notes] if isinstance(notes, list) else []
        return (*told, *self.value_notes)

    @property
    def value_notes(self) -> tuple[str, ...]:
        """What every reader of figures from single values must know: what they are of, and how far they may be off."""
        rounded = self.has_values and self.rounds_values
        return (*self.figure_notes, *((precision.note(self.precision, self.worst_error),) if rounded else ()))

    @property
    def figure_notes(self) -> tuple[str, ...]:
        """What every reader of any figure of the run must know: the edits of its model, and where_notes."""
        edited = (f"captured with edits ({self.edits}): every figure is of the edited model",) if self.edits else ()
        return (*edited, *self.where_notes)

    @property
    def where_notes(self) -> tuple[str, ...]:
        """Which prompts and tokens of its capture, and which of their values, the run holds; empty if all of them."""
        return (*part_notes(self.info.settings), *self._tokens_notes, *self._beyond_notes)

    @property
    def edits(self) -> str:
        """The edits of the model that the run was captured with, in one line; empty without any."""
        return edits_text(self.info.settings)

    @property
    def _tokens_notes(self) -> tuple[str, ...]:
        if not self.unrecorded:
            return ()
        start = "" if self.at_start else ", none of them at position 0"
        every = self.tokens + self.unrecorded
        return (
            f"recorded are {self.tokens:,} of {every:,} tokens{start} (--where {self.where}): every count, mean and "
            "class is of these, and the last token of a prompt is the last one recorded",
        )

    @property
    def _beyond_notes(self) -> tuple[str, ...]:
        if self.beyond is None:
            return ()
        every = self.tokens * sum(layer.neurons for layer in self.layers if not layer.experts)
        if any(layer.experts for layer in self.layers):
            every += int(self._one(COUNT_OF_EXPERTS))
        return (
            f"kept are {self.beyond_rows:,} of {every:,} values, those beyond their neuron's running p{self.beyond:f} "
            f"(--where {self.where}): statistics, histograms, examples, means and classes are of every value",
        )

    @property
    def where(self) -> str:
        """What --where the run was captured with; '' if without."""
        return str(self.info.settings.get("where") or "")

    @cached_property
    def beyond(self) -> Decimal | None:
        """X of a run that keeps only the values beyond each neuron's running pX (--where beyond=pX)."""
        found = re.search(r"(?:^| and )beyond=p(\d{1,2}(?:\.\d{1,9})?)$", self.where)
        return None if found is None else Decimal(found[1])

    @cached_property
    def beyond_rows(self) -> int:
        """How many such values it keeps."""
        return int(self._one("SELECT count(*) FROM beyond"))

    @property
    def kept(self) -> str:
        """What the run keeps of its values, after "it keeps" or "this run holds"."""
        if self.beyond is not None:
            return f"only the values beyond each neuron's p{self.beyond:f} (--where {self.where})"
        parts = f", in the {len(self.attached)} parts that it is attached to" if self.attached else ""
        return f"every value{parts}" if self.has_values else "statistics only (--keep stats)"

    @property
    def rounds_values(self) -> bool:
        """Whether single values are stored in fewer bytes than they were computed in."""
        return self.precision != "float32"

    @property
    def precision(self) -> Precision:
        """How values are stored. Raises NotARun where that is not known."""
        told = self.info.settings.get("precision", "float32")
        for known in PRECISIONS:
            if told == known:
                return known
        raise NotARun(f"the values of this run are stored as {str(told)[:40]!r}: it is damaged, or was changed")

    @property
    def worst_error(self) -> Mapping[str, float]:
        """By site, how far any stored value may be from the value as computed; 0 for float32."""
        if not self.rounds_values:
            return dict.fromkeys(self.sites, 0.0)
        told = self.info.settings.get("worst_error", {})
        if not isinstance(told, dict) or not all(isinstance(error, (int, float)) for error in told.values()):
            raise NotARun(f"the worst errors of this run are {str(told)[:40]!r}: it is damaged, or was changed")
        return {site: float(error) for site, error in told.items()}

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        query = "SELECT layer_id, site, layer, module, neurons, activation, fires FROM layers ORDER BY layer_id"
        experts = self._experts()
        rows = self.cursor().execute(query).fetchall()
        return tuple(Layer(*(*row, experts.get((row[1], row[2]), 0))) for row in rows)

    def _experts(self) -> dict[tuple[str, int], int]:
        """How many experts a layer has, by site and layer, where it is a mixture of them."""
        query = """SELECT table_name FROM duckdb_tables()
                   WHERE database_name = current_database() AND list_contains($names, table_name)"""
        there = [name for (name,) in self.cursor().execute(query, {"names": [EXPERTS, ROUTED]}).fetchall()]
        if EXPERTS not in there:
            return {}
        if self.has_values and ROUTED not in there:
            raise NotARun(f"the run is damaged: it keeps values of experts, and has no table {ROUTED}")
        query = f"""SELECT e.site, e.layer, e.experts FROM {EXPERTS} e JOIN layers l USING (site, layer)
                    WHERE e.experts > 0 AND e.experts * e.width = l.neurons"""
        return {(site, layer): experts for site, layer, experts in self.cursor().execute(query).fetchall()}

    @cached_property
    def sites(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(layer.site for layer in self.layers))

    @property
    def default_site(self) -> str:
        """mlp, or mixer for Mamba; else the first site; resid only if the run holds nothing else."""
        order = ["mlp", "mixer", *(s for s in self.sites if s != "resid"), "resid"]
        return next(site for site in order if site in self.sites)

    @cached_property
    def concepts(self) -> tuple[str, ...]:
        """In order of first appearance."""
        query = "SELECT concept FROM prompts GROUP BY concept ORDER BY min(prompt_idx)"
        found = tuple(row[0] for row in self.cursor().execute(query).fetchall())
        if None in found:
            raise NotARun("a prompt of this run has no concept: the file is damaged, or was changed")
        return found

    @cached_property
    def tokens(self) -> int:
        return int(self._one("SELECT count(*) FROM tokens"))

    @cached_property
    def prompts(self) -> int:
        return int(self._one("SELECT count(*) FROM prompts"))

    @cached_property
    def unrecorded(self) -> int:
        """How many tokens of its prompts the run does not hold."""
        return int(self._one("SELECT count(*) FROM unrecorded"))

    @cached_property
    def at_start(self) -> int:
        """How many recorded tokens are at position 0."""
        return int(self._one("SELECT count(*) FROM tokens WHERE position = 0"))

    @property
    def has_values(self) -> bool:
        """Whether every value was kept (`--keep all`), not only the statistics, nor those beyond a percentile."""
        return not self._hide_values and self.info.settings.get("keep", "all") == "all" and self.beyond is None

    @cached_property
    def attached(self) -> tuple[AttachedPart, ...]:
        """The parts that hold the run's values, in order; empty for a run that holds them itself. Raises NotARun."""
        return attached_parts(self.info.settings)

    @cached_property
    def has_generated(self) -> bool:
        return bool(self._one("SELECT count(*) > 0 FROM tokens WHERE generated"))

    def _one(self, query: str) -> int | bool:
        # Always fetchall: a connection runs nothing else while a result is unfinished.
        value: int | bool = self.cursor().execute(query).fetchall()[0][0]
        return value

    # Finding layers and neurons

    def resolve_site(self, site: str | None) -> str:
        """`site`, or the default site if None. Raises RequestError naming the run's sites."""
        if site is None:
            return self.default_site
        if site not in self.sites:
            raise RequestError(f"no site {site!r} in this run: it holds {', '.join(self.sites)}")
        return site

    def site_layers(self, site: str | None = None) -> tuple[Layer, ...]:
        """The layers of a site, in order."""
        site = self.resolve_site(site)
        return tuple(layer for layer in self.layers if layer.site == site)

    def resolve_layer(self, layer: int, site: str | None = None) -> Layer:
        """The layer of that number at a site. Raises RequestError naming the site's layers."""
        layers = self.site_layers(site)
        for candidate in layers:
            if candidate.layer == layer:
                return candidate
        numbers = [candidate.layer for candidate in layers]
        contiguous = numbers == list(range(numbers[0], numbers[-1] + 1))
        held = f"{numbers[0]}-{numbers[-1]}" if contiguous else ", ".join(map(str, numbers))
        raise RequestError(f"no layer {layer} at site {self.resolve_site(site)}: the run holds layers {held}")

    def resolve(self, address: Address | str) -> tuple[Layer, int]:
        """The layer and the neuron's number in it. Raises RequestError if there is no such neuron."""
        if isinstance(address, str):
            address = parse_address(address)
        layer = self.resolve_layer(address.layer, address.site)
        if address.neuron >= layer.neurons:
            raise RequestError(
                f"no neuron {address.neuron} in layer {layer.layer} at site {layer.site}: "
                f"it has neurons 0-{layer.neurons - 1}"
            )
        return layer, address.neuron

    def index(self, site: str | None = None) -> NeuronIndex:
        """The neuron of each column of site-wide arrays."""
        layers = self.site_layers(site)
        return NeuronIndex(
            layer=np.repeat([x.layer for x in layers], [x.neurons for x in layers]).astype(np.int64),
            neuron=np.concatenate([np.arange(x.neurons, dtype=np.int64) for x in layers]),
        )

    def _id_range(self, layers: Sequence[Layer]) -> dict[str, int]:
        """The ids of a site's layers, which are consecutive."""
        return {"low": layers[0].layer_id, "high": layers[-1].layer_id}


def _cursor(connection: duckdb.DuckDBPyConnection, catalog: str) -> duckdb.DuckDBPyConnection:
    cursor = connection.cursor()
    cursor.execute(f"USE {quoted(catalog)}")  # a cursor starts with the in-memory catalog
    return cursor
