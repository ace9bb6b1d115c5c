"""Runs of consecutive prompts become one run: values, tables and statistics, a part at a time.

Values are cut into the blocks of the whole run again, so that those of reduced precision are rounded as the whole would
have been. Counts, histograms and examples are exactly those of the whole; moments merge by the formulas that a capture
uses (statistics.py), in the order of the prompts, so that they agree up to the rounding of float64.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfinspect_store.atomic import alone, replaced
from nfinspect_store.attached import contents_digest
from nfinspect_store.blocks import THREAD_BYTES
from nfinspect_store.digests import VALUES, Digest, read_digests, values_digest
from nfinspect_store.errors import CannotMerge, NotARun
from nfinspect_store.examples import KEPT, drawn, places
from nfinspect_store.histogram import BINS
from nfinspect_store.mamba_delta import DeltaMoments, read_mamba_delta
from nfinspect_store.open_parts import OPEN_TOGETHER, Each, OpenRun, runs_together
from nfinspect_store.part_settings import prompts_digest
from nfinspect_store.parts import Part, prompts_of
from nfinspect_store.schema import BLOCK, ROUTED, quoted
from nfinspect_store.snapshot import LayerSnapshot
from nfinspect_store.statistics import ConceptStatistics, NeuronStatistics
from nfinspect_store.types import Layer, RunInfo, utc_now
from nfinspect_store.verify import caught, check_digests
from nfinspect_store.writer import Derive, RunWriter

VALUES_BYTES = 16 * 2**20
"""About the bytes of a layer's values in a piece: one is read while the one before is written [own]."""

QUEUE_BYTES = 64 * 2**20
"""Of blocks that wait to be written, unless there are many threads that write: a merge reads as steadily [own]."""

SHIFTED: Mapping[str, tuple[str, ...]] = {
    "prompts": ("prompt_idx", "first_token"),
    "tokens": ("token_idx", "prompt_idx"),
    "unrecorded": ("prompt_idx",),
    "prompt_means": ("prompt_idx",),
}
"""Tables whose rows stay, and their columns that count from the run's first prompt or token."""

ROWS_READ: Mapping[str, int] = {
    "prompts": 4096,
    "tokens": 65_536,
    "unrecorded": 65_536,
    "prompt_means": 8192,
    ROUTED: 65_536,
}
"""Rows that are read at a time: at most a few MiB, unless prompts are long."""

OF_TOKENS = ("first_token", "token_idx")
"""Those of these columns that count tokens."""

READ_IDENTITY = "SELECT run_id, (SELECT count(*) FROM prompts), (SELECT count(*) FROM tokens) FROM run"

SIGNS = {"top": np.float32(1), "min": np.float32(-1)}

Told = Callable[[int], None]
"""Is told how many tokens of the whole have been copied."""


@dataclass(frozen=True)
class OpenParts:
    """Parts that are open for a merge, in order, none twice. Goes through them: each part, its run, and how many
    prompts and tokens of the merged run come before it.
    """

    parts: Sequence[Part]
    each: Each

    def __iter__(self) -> Iterator[tuple[Part, OpenRun, int, int]]:
        prompts = tokens = 0
        for part, run in zip(self.parts, self.each(), strict=True):
            found = run.cursor().execute(READ_IDENTITY).fetchall()[0]
            if found != (part.info.run_id, part.stop - part.first, part.tokens):
                raise NotARun(f"{part.path} was replaced by another run while it was merged")
            run.layers = part.layers
            yield part, run, prompts, tokens
            prompts += part.stop - part.first
            tokens += part.tokens

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.parts[0].layers


@contextmanager
def opened(parts: Sequence[Part], *, attach: bool) -> Iterator[OpenParts]:
    """Open parts to be merged. attach: all at the same time, as the classes of a run that is attached to them need."""
    widest = max(layer.neurons for layer in parts[0].layers)
    paths = [part.path for part in parts]
    with runs_together(paths, widest=widest, most=len(parts) if attach else OPEN_TOGETHER) as each:
        yield OpenParts(parts, each)


def check_parts(parts: OpenParts, *, whole: bool) -> list[str]:
    """Read every table of the parts but the values, once; returns the digest of the contents of each.

    whole: they hold every prompt of the capture, which must be those that it planned. Raises NotARun for a part that
    holds other rows than were written, CannotMerge for other prompts.
    """
    contents: list[str] = []

    def prompts() -> Iterator[tuple[str, str, tuple[int, ...]]]:
        for _, run, _, _ in parts:
            if problems := caught("digests", check_digests, run):
                raise _damaged(run, problems[0])
            contents.append(contents_digest(run.cursor()))
            if whole:
                yield from prompts_of(run)

    one = parts.parts[0]
    if prompts_digest(prompts()) != one.settings.get("prompts_sha256") and whole:
        raise CannotMerge(
            f"the prompts of the parts of {one.name} are not those that were planned: a part was changed "
            "(nfinspect verify says more)"
        )
    return contents


def write_merged(
    path: Path,
    info: RunInfo,
    parts: OpenParts,
    derive: Derive,
    *,
    writers: int = 1,
    told: Told = lambda tokens: None,
    complete: Callable[[], object] = lambda: None,
) -> None:
    """Write the run at `path`, replacing any that is there once it is complete. parts: as `check_parts` has found them.
    A run whose settings say that it is attached to them leaves the values there.

    complete: is called when it is, and before it takes its name; what it raises leaves `path` as it is. No other merge
    into the same folder gives a run its name in between.

    Takes the memory of a capture of the same model, however long the parts are. Raises StorageFull, NotARun for a part
    whose values are not those that were written (digests.py).
    """
    with ExitStack() as until_named, replaced(path) as new:
        writer = RunWriter.create(new, info, parts.layers, writers=writers)
        writer.queue = max(QUEUE_BYTES, writers * THREAD_BYTES)
        try:
            tables = writer.tables()
            merged = _Merged(parts.layers, info.seed, apart=not tables.has_values)
            for part, run, _, before in parts:
                if writer.keeps_values:
                    _copy_values(writer, run, before, told)
                merged.add(run, part.first, before)
            rows = {table: _rows(parts, table) for table in SHIFTED}
            if writer.keeps_values and any(layer.experts for layer in writer.layers):
                rows[ROUTED] = _routed_rows(parts)
            writer.add_rows(
                rows,
                prompts=sum(part.stop - part.first for part in parts.parts),
                tokens=sum(part.tokens for part in parts.parts),
            )
            if tables.attached:
                holders = [(run, before) for _, run, _, before in parts]
                derive = _with_values(derive, holders)
            writer.commit(merged.snapshots(), derive, {"status": "complete", "finished_at": utc_now()})
        except BaseException:
            writer.discard()
            raise
        writer.close()
        until_named.enter_context(alone(path))
        complete()


def _with_values(derive: Derive, holders: Sequence[tuple[OpenRun, int]]) -> Derive:
    """As `derive`, for a run whose values are in these parts."""
    return lambda tables: derive(tables.with_values_of(holders))


@dataclass(frozen=True)
class _Piece:
    """All values of a layer on some of a part's tokens, in whole blocks; of a mixture of experts on some of the tokens
    routed to each expert.
    """

    layer: Layer
    stop: int  # the first token past them
    counts: NDArray[np.int64]  # of each expert how many tokens it has here
    values: NDArray[np.float32]  # [neurons, tokens]
    fired: NDArray[np.bool_] | None
    digest: Digest  # as the part has them


def _copy_values(writer: RunWriter, run: OpenRun, before: int, told: Told) -> None:
    """Put every value of a run. before: tokens of earlier parts."""
    digest = Digest()
    last = next((layer for layer in reversed(run.layers) if not layer.experts), None)
    with closing(_one_ahead(_pieces(run))) as pieces:
        for piece in pieces:
            digest += piece.digest
            if piece.layer.experts:
                _put_experts(writer, piece)
            else:
                writer.put(piece.layer.layer_id, piece.values, piece.fired)
            if piece.layer == last:
                told(before + piece.stop)
    if digest != read_digests(run.cursor()).get(VALUES, Digest()):
        raise _damaged(run, "blocks: the values are not those that were written: their digest differs")
    told(before + run.tokens)


def _put_experts(writer: RunWriter, piece: _Piece) -> None:
    width = piece.layer.width
    for expert, held in enumerate(piece.counts.tolist()):
        part = slice(expert * width, (expert + 1) * width), slice(0, held)
        if held:
            gates = None if piece.fired is None else piece.fired[part]
            writer.put(piece.layer.layer_id, piece.values[part], gates, expert)


def _pieces(run: OpenRun) -> Iterator[_Piece]:
    """Every value of a run, whole blocks at a time, tokens in order."""
    widest = max(layer.neurons for layer in run.layers)
    step = max(1, VALUES_BYTES // (4 * widest * BLOCK)) * BLOCK
    for start in range(0, run.tokens, step):
        for layer in run.layers:
            if not layer.experts:
                yield _values(run, layer, start, min(start + step, run.tokens))
    for layer in run.layers:
        if layer.experts:
            most = int(run.routes(layer).counts.max())
            for start in range(0, most, step):
                yield _values(run, layer, start, min(start + step, most))


def _one_ahead(pieces: Iterator[_Piece]) -> Generator[_Piece, None, None]:
    """The same pieces; each is read in a thread while the one before it is written."""
    with ThreadPoolExecutor(1, "nfinspect-reader") as beside:
        waiting = beside.submit(next, pieces, None)
        while (piece := waiting.result()) is not None:
            waiting = beside.submit(next, pieces, None)
            yield piece


def _damaged(run: OpenRun, problem: str) -> NotARun:
    return NotARun(f"{run.path} is damaged: {problem} (nfinspect verify says more)")


def _values(run: OpenRun, layer: Layer, start: int, stop: int) -> _Piece:
    """A layer's values on the tokens from `start`, which begins a block. Of a mixture of experts on the places from
    `start`, as far as an expert has tokens. Raises NotARun unless each is there once.
    """
    counts = np.zeros(0, np.int64)
    expected = (stop - start) * layer.neurons
    if layer.experts:
        counts = (run.routes(layer).counts - start).clip(0, stop - start)
        expected = int(counts.sum()) * layer.width
    shape = (layer.neurons, stop - start)
    values, there = np.empty(shape, np.float32), np.zeros(shape, np.bool_)
    digest = Digest()
    fired = np.empty(shape, np.bool_) if layer.fires == "gate" else None
    found = 0
    place = f"{layer.site} layer {layer.layer}"
    for rows in run.stored_blocks(layer, tokens=(start, stop), fired=True):
        if rows.tokens.stop > stop:
            raise _damaged(run, f"{place} has values past those of its tokens")
        here = slice(rows.first - start, rows.first - start + rows.values.shape[1])
        neuron: NDArray[np.int32] | slice = rows.neuron
        if (np.diff(rows.neuron) == 1).all():
            neuron = slice(int(rows.neuron[0]), int(rows.neuron[0]) + len(rows.neuron))
        values[neuron, here], there[neuron, here] = rows.values, True
        if fired is not None and rows.fired is not None:
            fired[neuron, here] = rows.fired
        digest += values_digest(layer.layer_id, rows.neuron, rows.first, rows.values, rows.fired)
        found += rows.values.size
    if found != expected:
        raise _damaged(run, f"{place} holds {found} values on tokens {start}-{stop - 1}, expected {expected}")
    if absent := expected - int(np.count_nonzero(there)):
        raise _damaged(run, f"{place} holds {absent} values on tokens {start}-{stop - 1} twice, and as many not at all")
    return _Piece(layer, stop, counts, values, fired, digest)


def _rows(parts: OpenParts, table: str) -> Iterator[pa.Table]:
    """The rows of a table in all parts, with the numbers of the merged run."""
    for _, run, prompts, tokens in parts:
        before = {column: str(tokens if column in OF_TOKENS else prompts) for column in SHIFTED[table]}
        yield from _moved(run, table, before)


def _routed_rows(parts: OpenParts) -> Iterator[pa.Table]:
    """The rows of `routed` in all parts: an expert's places go on from part to part."""
    mixtures = [layer for layer in parts.layers if layer.experts]
    places = {layer.layer_id: np.zeros(layer.experts, np.int64) for layer in mixtures}
    for _, run, _, tokens in parts:
        before = {"token_idx": str(tokens), "place": "($places::BIGINT[])[expert + 1]"}
        for layer in mixtures:
            asked = {"site": layer.site, "layer": layer.layer, "places": places[layer.layer_id].tolist()}
            yield from _moved(run, ROUTED, before, "site = $site AND layer = $layer", asked)
            places[layer.layer_id] += run.route_counts(layer)


def _moved(
    run: OpenRun, table: str, before: Mapping[str, str], where: str = "true", asked: Mapping[str, object] | None = None
) -> Iterator[pa.Table]:
    """Rows of a part's table, some at a time. before: SQL of what is added to a column; asked: the values in it."""
    shifts = ", ".join(f"{quoted(column)} + {more} AS {quoted(column)}" for column, more in before.items())
    query = f"SELECT * REPLACE ({shifts}) FROM {quoted(table)} WHERE {where}"
    for batch in run.streamed(query, asked or {}, ROWS_READ[table]):
        yield pa.Table.from_batches([batch])


class _Merged:
    """What is known of the layers after the parts so far."""

    def __init__(self, layers: Sequence[Layer], seed: int, *, apart: bool) -> None:
        """apart: with what is stored only where values are not, or of experts: examples, and statistics by concept."""
        self._layers = [_MergedLayer(layer, seed, apart=apart or layer.experts > 0) for layer in layers]

    def add(self, run: OpenRun, prompts: int, tokens: int) -> None:
        """Add the next part. prompts: how many of the capture come before it, tokens: how many of the merged run."""
        if not run.tokens:
            return
        delta = read_mamba_delta(run.cursor())
        starts, prompt_idx = run.starts()
        for one in self._layers:
            one.add(run, tokens, delta.get(one.layer.layer) if one.layer.site == "mixer" else None)
            one.add_random(run, tokens, starts, prompt_idx + prompts)

    def snapshots(self) -> list[LayerSnapshot]:
        return [one.snapshot() for one in self._layers]


class _MergedLayer:
    def __init__(self, layer: Layer, seed: int, *, apart: bool) -> None:
        self.layer = layer
        self._seed = seed
        self._apart = apart
        self._statistics: dict[bool, NeuronStatistics] = {}
        self._concepts: dict[str, ConceptStatistics] = {}
        self._histograms = {first: np.zeros((layer.neurons, BINS), np.int64) for first in (False, True)}
        self._extremes = {kind: _no_examples(layer.neurons) for kind in SIGNS}
        self._random = _no_examples(layer.neurons)
        self._places = np.full((layer.neurons, KEPT), -1, np.int64)
        self._delta: DeltaMoments | None = None

    def add(self, run: OpenRun, tokens: int, delta: DeltaMoments | None) -> None:
        """Add the next part. tokens: how many of the merged run come before it. Raises NotARun for a damaged one."""
        layer = self.layer
        statistics, concepts = run.statistics_apart(layer), run.concept_statistics(layer) if self._apart else {}
        lengths = {len(told.n) for told in statistics.values()} | {len(told.n) for told in concepts.values()}
        if lengths - {layer.neurons}:
            raise _damaged(
                run, f"the statistics of {layer.site} layer {layer.layer} are not of {layer.neurons} neurons"
            )
        for first, told in statistics.items():
            held = self._statistics.get(first)
            self._statistics[first] = told if held is None else held.merge(told)
        rest = run.histograms(layer.site, layer.layer, skip_first=True)
        self._histograms[False] += rest
        self._histograms[True] += run.histograms(layer.site, layer.layer) - rest
        if delta is not None:
            if self._delta is not None and len(self._delta.n) != len(delta.n):
                raise _damaged(run, f"mamba_delta: layer {layer.layer} has {len(delta.n)} channels")
            self._delta = delta if self._delta is None else self._delta.merge(delta)
        if not self._apart:
            return
        for concept, of_concept in concepts.items():
            before = self._concepts.get(concept)
            self._concepts[concept] = of_concept if before is None else before.merge(of_concept)
        for kind, sign in SIGNS.items():
            self._extremes[kind] = _best(self._extremes[kind], run.layer_examples(layer, kind, KEPT), tokens, sign)

    def add_random(self, run: OpenRun, tokens: int, starts: NDArray[np.int64], prompt_idx: NDArray[np.int64]) -> None:
        """Draw from the random examples so far and those of the next part. starts, prompt_idx: the part's first tokens,
        and the prompts of the whole capture that they are of, as the part drew them.
        """
        if not self._apart:
            return
        token_idx, values = run.layer_examples(self.layer, "random", KEPT)
        there = token_idx >= 0
        at = np.where(there, places(token_idx, starts, prompt_idx), -1)
        offered = np.concatenate([self._places, at], axis=1)
        numbers = np.where(offered >= 0, drawn(self._seed, offered), np.iinfo(np.uint64).max)
        order = np.argsort(numbers, axis=1, kind="stable")[:, :KEPT]
        found = np.concatenate([self._random[0], np.where(there, token_idx + tokens, -1)], axis=1)
        held = np.concatenate([self._random[1], values], axis=1)
        self._random = np.take_along_axis(found, order, axis=1), np.take_along_axis(held, order, axis=1)
        self._places = np.take_along_axis(offered, order, axis=1)

    def snapshot(self) -> LayerSnapshot:
        examples: dict[str, tuple[NDArray[np.int64], NDArray[np.float32]]] = {}
        if self._apart:
            examples = {kind: self._extremes[kind] for kind in SIGNS}
            examples["random"] = self._random
        return LayerSnapshot(
            layer_id=self.layer.layer_id,
            statistics=self._statistics,
            concepts=self._concepts,
            histograms=self._histograms,
            examples=examples,
            delta=self._delta,
        )


def _no_examples(neurons: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    return np.full((neurons, KEPT), -1, np.int64), np.zeros((neurons, KEPT), np.float32)


def _best(
    held: tuple[NDArray[np.int64], NDArray[np.float32]],
    other: tuple[NDArray[np.int64], NDArray[np.float32]],
    tokens: int,
    sign: np.float32,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The KEPT strongest of two lists of examples, [neurons, KEPT] each: token_idx, -1 where there is none, and values.

    other: of later prompts, its tokens counted from `tokens`; ties go to the earlier token.
    """
    token_idx = np.concatenate([held[0], np.where(other[0] >= 0, other[0] + tokens, -1)], axis=1)
    values = np.concatenate([held[1], other[1]], axis=1)
    scores = np.where(token_idx >= 0, values * sign, -np.inf)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :KEPT]
    return np.take_along_axis(token_idx, order, axis=1), np.take_along_axis(values, order, axis=1)
