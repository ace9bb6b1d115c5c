"""Reads a run's tables through any connection: one to a finished file, or the writer's own.

Every method takes a fresh cursor, so threads may share one RunTables.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfinspect_store.addresses import Address
from nfinspect_store.arrow_numbers import numbers
from nfinspect_store.blob_columns import blob_bytes, blob_offsets
from nfinspect_store.errors import NotARun, RequestError, StoreError
from nfinspect_store.examples import examples_of
from nfinspect_store.histogram import BINS
from nfinspect_store.histogram_rows import unpacked
from nfinspect_store.memory import NUMBER, PIECE
from nfinspect_store.precision import FLOAT32
from nfinspect_store.run_values import RunValues
from nfinspect_store.schema import MEANS_WIDTH
from nfinspect_store.statistics import ConceptStatistics, NeuronStatistics
from nfinspect_store.types import (
    Example,
    Layer,
    Prompt,
    PromptMeans,
    Selection,
    TokenRows,
)

STATISTICS_COLUMNS = tuple(f.name for f in fields(NeuronStatistics))
CONCEPT_COLUMNS = tuple(f.name for f in fields(ConceptStatistics))

READ_STATISTICS = f"""
SELECT {", ".join(STATISTICS_COLUMNS)}
FROM statistics
WHERE layer_id BETWEEN $low AND $high AND NOT ("first" AND $skip_first)
ORDER BY "first", layer_id, neuron
"""

READ_PROMPT_MEANS = """
SELECT m.prompt_idx, p.concept, m."values", m.layer_id, m.first_neuron
FROM prompt_means m JOIN prompts p USING (prompt_idx)
WHERE m.selection = $selection AND m.layer_id BETWEEN $low AND $high
  AND ($concepts IS NULL OR list_contains($concepts, p.concept))
ORDER BY m.prompt_idx, m.layer_id, m.first_neuron
"""


READ_STARTS = "SELECT first_token, prompt_idx FROM prompts WHERE tokens > 0 ORDER BY first_token"

BETWEEN = "FROM tokens WHERE token_idx >= $start AND token_idx < $stop"
AT = "FROM tokens WHERE token_idx IN (SELECT unnest($indices))"
UNRECORDED_NEAR = """
SELECT u.* FROM unrecorded u
WHERE EXISTS (FROM tokens t WHERE t.token_idx IN (SELECT unnest($near)) AND t.prompt_idx = u.prompt_idx
              AND abs(t.position - u.position) <= $reach)
"""

_MOST = 2**62


class RunTables(RunValues):
    """A run as read from its tables."""

    def without_values(self) -> "RunTables":
        """The same run, read as if it had kept only statistics."""
        return self._again(hide_values=True)

    def with_values_of(self, holders: Sequence[tuple[RunValues, int]]) -> "RunTables":
        """The same run, whose values are those of other runs. holders: as `_holders` returns them."""
        found = self._again(hide_values=self._hide_values)
        found._elsewhere = holders
        return found

    def _again(self, *, hide_values: bool) -> "RunTables":
        return RunTables(
            self._connection,
            in_transaction=self._in_transaction,
            hide_values=hide_values,
            streaming=self._streaming,
            at_hand=self._at_hand,
            catalog=self._catalog,
        )

    # Statistics

    def statistics(
        self, site: str | None = None, *, skip_first: bool = False, layer: int | None = None
    ) -> NeuronStatistics:
        """Statistics of a site's neurons in the order of `index`, or of one layer's.

        skip_first: without the tokens at position 0.
        """
        layers = self.site_layers(site) if layer is None else (self.resolve_layer(layer, site),)
        neurons = sum(x.neurons for x in layers)
        total = NeuronStatistics.empty(neurons)
        for part in self._statistics_at_hand(layers, skip_first) or self._read_statistics(layers, skip_first, neurons):
            total = total.merge(part)
        return total

    def _statistics_at_hand(self, layers: Sequence[Layer], skip_first: bool) -> list[NeuronStatistics]:
        """Of one layer: of the tokens past position 0, then of those at it; empty if they are not at hand."""
        known = self._at_hand.get(layers[0].layer_id) if len(layers) == 1 else None
        groups = known.statistics if known is not None else {}
        return [groups[first] for first in (False, True) if first in groups and not (first and skip_first)]

    def _read_statistics(self, layers: Sequence[Layer], skip_first: bool, neurons: int) -> Iterator[NeuronStatistics]:
        parameters = {"skip_first": skip_first, **self._id_range(layers)}
        columns = self.cursor().execute(READ_STATISTICS, parameters).fetchnumpy()
        arrays = {name: np.asarray(columns[name]) for name in STATISTICS_COLUMNS}
        for start in range(0, len(arrays["n"]), neurons):
            yield NeuronStatistics(**{name: array[start : start + neurons] for name, array in arrays.items()})

    def statistics_apart(self, layer: Layer) -> dict[bool, NeuronStatistics]:
        """One layer's statistics by (at position 0); a key is missing if there are no such tokens."""
        query = f"""SELECT "first", {", ".join(STATISTICS_COLUMNS)} FROM statistics
                    WHERE layer_id = ? ORDER BY "first", neuron"""
        columns = self.cursor().execute(query, [layer.layer_id]).fetchnumpy()
        return {
            bool(first): NeuronStatistics(
                **{name: columns[name][columns["first"] == first] for name in STATISTICS_COLUMNS}
            )
            for first in np.unique(columns["first"])
        }

    def concept_statistics(self, layer: Layer) -> dict[str, ConceptStatistics]:
        """Statistics of one layer's neurons for each concept; empty in a run that keeps all values."""
        query = f"""SELECT concept, {", ".join(CONCEPT_COLUMNS)} FROM concept_statistics
                    WHERE layer_id = ? ORDER BY concept, neuron"""
        columns = self.cursor().execute(query, [layer.layer_id]).fetchnumpy()
        return {
            str(concept): ConceptStatistics(
                **{name: columns[name][columns["concept"] == concept] for name in CONCEPT_COLUMNS}
            )
            for concept in np.unique(columns["concept"])
        }

    def resolve_concept(self, concept: str) -> str:
        """`concept`, if the run has it. Raises RequestError naming the run's concepts."""
        if concept not in self.concepts:
            raise RequestError(f"no concept {concept!r} in this run: it holds {', '.join(self.concepts)}")
        return concept

    def histograms(self, site: str | None, layer: int, *, skip_first: bool = False) -> NDArray[np.int64]:
        """Signed-log histograms of a layer: int64[neurons, BINS]; the edges are nfinspect_store.histogram.EDGES."""
        found = self.resolve_layer(layer, site)
        known = self._at_hand.get(found.layer_id)
        by_first = known.histograms if known is not None else self._histograms_near(found)
        parts = [counts for first, counts in by_first.items() if not (first and skip_first)]
        if len(parts) == 2:
            total: NDArray[np.int64] = parts[0] + parts[1]
            return total
        return parts[0].copy() if parts else np.zeros((found.neurons, BINS), np.int64)

    def _histograms_near(self, layer: Layer) -> Mapping[bool, NDArray[np.int64]]:
        """Of a layer, by (at position 0). DuckDB reads the rows of many layers to find one's: of a finished file the
        following layers' are kept until a layer past them is asked for.
        """
        kept = self._near.get(layer.layer_id)
        if kept is not None:
            return kept
        layers = [layer]
        if self._streaming is not None:
            most = max(1, PIECE // (2 * BINS * NUMBER * layer.neurons))
            at = self.layers.index(layer)
            layers = [x for x in self.layers[at : at + most] if x.neurons == layer.neurons]
        near = {x.layer_id: {first: np.zeros((BINS, x.neurons), np.int64) for first in (False, True)} for x in layers}
        query = """SELECT layer_id, "first", bin, counts FROM histograms WHERE layer_id BETWEEN $low AND $high"""
        table = self._arrow(query, self._id_range(layers))
        counts = unpacked(table.column("counts").combine_chunks(), layer.neurons)
        places = (table.column(name).to_pylist() for name in ("layer_id", "first", "bin"))
        for layer_id, first, place, of_bin in zip(*places, counts, strict=True):
            near[layer_id][first][place] += of_bin
        self._near = {one: {first: counts.T for first, counts in told.items()} for one, told in near.items()}
        return self._near[layer.layer_id]

    def histogram(self, site: str | None, layer: int, neuron: int, *, skip_first: bool = False) -> NDArray[np.int64]:
        """Signed-log histogram of one neuron: int64[BINS]."""
        found, neuron = self.resolve(Address(layer, neuron, site))
        query = 'SELECT bin, counts FROM histograms WHERE layer_id = $layer AND NOT ("first" AND $skip)'
        table = self._arrow(query, {"layer": found.layer_id, "skip": skip_first})
        counted = unpacked(table.column("counts").combine_chunks(), found.neurons)[:, neuron]
        total = np.zeros(BINS, np.int64)
        np.add.at(total, numbers(table.column("bin")), counted)
        return total

    def prompt_means(
        self, selection: Selection, site: str | None = None, concepts: Sequence[str] | None = None
    ) -> PromptMeans:
        """Each prompt's mean over its last token, its generated tokens or all of them, without position 0. Raises
        StoreError where they are not of every neuron.
        """
        layers = self.site_layers(site)
        parameters = {
            "selection": selection,
            "concepts": None if concepts is None else list(concepts),
            **self._id_range(layers),
        }
        table = self._arrow(READ_PROMPT_MEANS, parameters)
        if any(layer.experts for layer in layers):
            return _sparse_means(table, layers)
        every = sum(-(-x.neurons // MEANS_WIDTH) for x in layers)
        neurons = sum(x.neurons for x in layers)
        stored = [blob_bytes(chunk) for chunk in table.column("values").chunks]
        if sum(map(len, stored)) * every != 4 * neurons * table.num_rows or any(len(one) % 4 for one in stored):
            raise StoreError("means are not of every neuron: the run is damaged (nfinspect verify says more)")
        values = np.concatenate([np.empty(0, FLOAT32), *(one.view(FLOAT32) for one in stored)], dtype=np.float32)
        return PromptMeans(
            prompt_idx=numbers(table.column("prompt_idx"))[::every].astype(np.int64),
            concept=np.array(table.column("concept").to_pylist()[::every], dtype=np.str_),
            values=values.reshape(-1, neurons),
        )

    # Prompts, tokens, examples

    def prompt(self, prompt_idx: int) -> Prompt:
        query = "SELECT prompt_idx, concept, text, first_token, prompt_tokens, tokens FROM prompts WHERE prompt_idx = ?"
        rows = self.cursor().execute(query, [prompt_idx]).fetchall()
        if not rows:
            raise RequestError(f"no prompt {prompt_idx} in this run: it holds prompts 0-{self.prompts - 1}")
        return Prompt(*rows[0])

    def starts(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first tokens of the prompts that have recorded tokens, in order, and which prompts these are."""
        columns = self.cursor().execute(READ_STARTS).fetchnumpy()
        return columns["first_token"], np.asarray(columns["prompt_idx"], np.int64)

    def prompt_size(self, prompt_idx: int) -> int:
        """How many tokens a prompt has, those included that are not recorded."""
        return self.prompt(prompt_idx).tokens + self._unrecorded_of(prompt_idx)

    def prompt_tokens(self, prompt_idx: int, start: int = 0, stop: int | None = None) -> TokenRows:
        """The tokens of a prompt in order, also those that are not recorded: those at the places start <= place < stop
        among them, all if not given.
        """
        prompt = self.prompt(prompt_idx)
        first, after = prompt.first_token, prompt.first_token + prompt.tokens
        stop = _MOST if stop is None else stop
        if not self._unrecorded_of(prompt_idx):
            return self.tokens_between(first + start, min(first + stop, after))
        # Together they are at every position from 0 on: the position is the place.
        source = f"""(FROM ({BETWEEN} UNION ALL BY NAME FROM unrecorded WHERE prompt_idx = $idx)
                      WHERE position >= $low AND position < $high)"""
        return self._token_rows(source, {"idx": prompt_idx, "start": first, "stop": after, "low": start, "high": stop})

    def _unrecorded_of(self, prompt_idx: int) -> int:
        if not self.unrecorded:
            return 0
        query = "SELECT count(*) FROM unrecorded WHERE prompt_idx = ?"
        return int(self.cursor().execute(query, [prompt_idx]).fetchall()[0][0])

    def tokens_between(self, start: int, stop: int) -> TokenRows:
        """The tokens start <= token_idx < stop, in order."""
        return self._token_rows(f"({BETWEEN})", {"start": start, "stop": stop})

    def tokens_at(self, indices: Sequence[int]) -> TokenRows:
        """The tokens of those indices, in order of their index."""
        return self._token_rows(f"({AT})", {"indices": [int(i) for i in indices]})

    def tokens_near(self, indices: Sequence[int], reach: int) -> TokenRows:
        """The recorded tokens of those indices, and all others of their prompts, recorded or not, that are at most
        `reach` positions away from one of them. Recorded ones may be further away, or of another prompt.
        """
        around = {j for i in indices for j in range(max(0, i - reach), min(self.tokens, i + reach + 1))}
        return self._token_rows(
            f"({AT} UNION ALL BY NAME {UNRECORDED_NEAR})",
            {"indices": sorted(around), "near": [int(i) for i in indices], "reach": reach},
        )

    def _token_rows(self, source: str, parameters: Mapping[str, object]) -> TokenRows:
        query = f"""SELECT coalesce(token_idx, -1) AS token_idx, prompt_idx, position, token_id, token, generated,
                           bytes, role
                    FROM {source} ORDER BY prompt_idx, position"""
        table = self._arrow(query, parameters)

        def column(name: str) -> NDArray[np.int64]:
            return np.asarray(numbers(table.column(name)), dtype=np.int64)

        return TokenRows(
            token_idx=column("token_idx"),
            prompt_idx=column("prompt_idx"),
            position=column("position"),
            token_id=column("token_id"),
            token=table.column("token").to_pylist(),
            generated=np.asarray(table.column("generated").to_numpy(zero_copy_only=False), dtype=np.bool_),
            raw=table.column("bytes").to_pylist(),
            role=table.column("role").to_pylist(),
        )

    def examples(
        self, site: str | None, layer: int, neuron: int, values: NDArray[np.float32] | None = None
    ) -> list[Example]:
        """The examples of a neuron: top, min, random, each in order of rank.

        values: the neuron's, if the caller has read them already.
        """
        found, neuron = self.resolve(Address(layer, neuron, site))
        query = """SELECT kind, token_idx, "values" FROM examples WHERE layer_id = ? AND neuron = ?
                   ORDER BY CASE kind WHEN 'top' THEN 0 WHEN 'min' THEN 1 ELSE 2 END"""
        rows = self.cursor().execute(query, [found.layer_id, neuron]).fetchall()
        if rows or not self.has_values:
            return [Example(kind, *example) for kind, *lists in rows for example in zip(*lists, strict=True)]
        values = self.neuron(layer, neuron, site) if values is None else values
        return examples_of(values, *self.starts(), self.info.seed)

    def layer_examples(self, layer: Layer, kind: str, kept: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """token_idx and value of all neurons' stored examples of a kind: [neurons, kept], token_idx -1 where there is
        none. Raises NotARun unless every neuron has a row, of at most so many tokens of the run.
        """
        query = """SELECT token_idx, "values" FROM examples WHERE layer_id = $layer AND kind = $kind ORDER BY neuron"""
        table = self._arrow(query, {"layer": layer.layer_id, "kind": kind})
        columns = [table.column(name).combine_chunks() for name in ("token_idx", "values")]
        if any(column.null_count or column.flatten().null_count for column in columns):
            raise NotARun(self._no_examples(layer))
        held, of_values = (np.asarray(numbers(column.value_lengths()), np.int64) for column in columns)
        if len(held) != layer.neurons or held.max(initial=0) > kept or (held != of_values).any():
            raise NotARun(self._no_examples(layer))
        place = np.arange(kept) < held[:, None]  # row by row, the order of the flattened lists
        token_idx = np.full((layer.neurons, kept), -1, np.int64)
        values = np.zeros((layer.neurons, kept), np.float32)
        token_idx[place], values[place] = (numbers(column.flatten()) for column in columns)
        if (token_idx[place] < 0).any() or token_idx.max(initial=-1) >= self.tokens:
            raise NotARun(self._no_examples(layer))
        return token_idx, values

    @staticmethod
    def _no_examples(layer: Layer) -> str:
        return (
            f"the examples of {layer.site} layer {layer.layer} are not of its {layer.neurons} neurons and of tokens of "
            "the run: it is damaged (nfinspect verify says more)"
        )


def _sparse_means(table: pa.Table, layers: Sequence[Layer]) -> PromptMeans:
    """Means of which some neurons have none: a row may be missing, or hold NaN."""
    prompt_idx, layer_id, first = (numbers(table.column(name)) for name in ("prompt_idx", "layer_id", "first_neuron"))
    starts = np.cumsum([0, *(layer.neurons for layer in layers)])
    held, opening, prompt = np.unique(prompt_idx, return_index=True, return_inverse=True)
    place = starts[layer_id.astype(np.int64) - layers[0].layer_id] + first
    end = starts[layer_id.astype(np.int64) - layers[0].layer_id + 1]
    values = np.full((len(held), starts[-1]), np.nan, np.float32)
    blobs, row = [chunk for chunk in table.column("values").chunks if len(chunk)], 0
    for blob in blobs:
        sizes = np.diff(blob_offsets(blob)).astype(np.int64)
        here, stored = slice(row, row + len(blob)), blob_bytes(blob)
        if (sizes != 4 * np.minimum(MEANS_WIDTH, end[here] - place[here])).any():
            raise StoreError("means are not of every neuron: the run is damaged (nfinspect verify says more)")
        for size in np.unique(sizes).tolist():
            alike = sizes == size
            columns = place[here][alike][:, None] + np.arange(size // 4)
            of_size = stored[np.repeat(alike, sizes)].view(FLOAT32).reshape(-1, size // 4)
            values[prompt[here][alike][:, None], columns] = of_size
        row += len(blob)
    concepts = table.column("concept").to_pylist()
    concept = np.array([concepts[i] for i in opening.tolist()], dtype=np.str_)
    return PromptMeans(held.astype(np.int64), concept, values)
