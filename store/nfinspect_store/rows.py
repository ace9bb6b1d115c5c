"""Arrow tables from the writer's values, one function for each table of a run that is written in bulk."""

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfinspect_store.arrow_numbers import numbers
from nfinspect_store.blob_columns import cut
from nfinspect_store.precision import FLOAT32
from nfinspect_store.schema import EXPERTS, MEANS_WIDTH
from nfinspect_store.statistics import ConceptStatistics, NeuronStatistics
from nfinspect_store.types import BeyondRows, Layer, MeanRows, Prompt, TokenRows


def layers_table(layers: Sequence[Layer]) -> pa.Table:
    names = [f.name for f in fields(Layer) if f.name != EXPERTS]
    return pa.table({name: [getattr(layer, name) for layer in layers] for name in names})


def experts_table(layers: Sequence[Layer]) -> pa.Table:
    """As rows of the table `experts`: those of the layers that are mixtures of experts."""
    mixtures = [layer for layer in layers if layer.experts]
    return pa.table(
        {
            "site": pa.array([layer.site for layer in mixtures], pa.string()),
            "layer": pa.array([layer.layer for layer in mixtures], pa.int32()),
            "experts": pa.array([layer.experts for layer in mixtures], pa.int32()),
            "width": pa.array([layer.width for layer in mixtures], pa.int32()),
        }
    )


def routed_table(layer: Layer, parts: Sequence[tuple[int, int, NDArray[np.int64]]]) -> pa.Table:
    """As rows of the table `routed`: of each part an expert, the place of its first token, and its tokens."""
    sizes = [len(tokens) for _, _, tokens in parts]
    rows, starts = sum(sizes), np.cumsum([0, *sizes[:-1]])
    before = np.array([first for _, first, _ in parts], np.int64) - starts
    return pa.table(
        {
            "site": _repeated(layer.site, rows),
            "layer": np.full(rows, layer.layer, np.int32),
            "expert": np.repeat(np.array([expert for expert, _, _ in parts], np.int32), sizes),
            "place": np.arange(rows) + np.repeat(before, sizes),
            "token_idx": np.concatenate([tokens for _, _, tokens in parts]),
        }
    )


def prompts_table(prompts: Sequence[Prompt]) -> pa.Table:
    return pa.table({f.name: [getattr(p, f.name) for p in prompts] for f in fields(Prompt)})


def tokens_table(tokens: TokenRows) -> pa.Table:
    """As rows of the table `tokens`."""
    columns = {f.name: getattr(tokens, f.name) for f in fields(TokenRows)}
    columns["role"] = pa.array(tokens.role, pa.string())
    columns["bytes"] = pa.array(columns.pop("raw"), pa.binary())
    return pa.table(columns)


def unrecorded_table(tokens: TokenRows) -> pa.Table:
    """As rows of the table `unrecorded`."""
    return tokens_table(tokens).drop_columns(["token_idx"])


def beyond_table(parts: Sequence[BeyondRows]) -> pa.Table:
    """Values of one layer, by neuron and then in the order of the parts: what is alike is stored side by side."""
    neuron, token_idx, value = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("neuron", "token_idx", "value")
    )
    order = np.argsort(neuron, kind="stable")
    return pa.table(
        {
            "layer_id": np.full(len(order), parts[0].layer_id, np.int16),
            "neuron": neuron[order],
            "token_idx": token_idx[order],
            "value": value[order],
        }
    )


def means_table(means: MeanRows) -> pa.Table:
    """As rows of the table `prompt_means`; there is none for neurons whose means are all absent."""
    rows, neurons = means.values.shape
    first = np.arange(0, neurons, MEANS_WIDTH, dtype=np.int32)
    starts = np.add.outer(np.arange(rows, dtype=np.int64) * neurons, first).reshape(-1)
    selection = pa.array(means.selection, pa.string()).dictionary_encode()
    each = len(first)
    table = pa.table(
        {
            "layer_id": np.full(rows * each, means.layer_id, np.int16),
            "prompt_idx": np.repeat(means.prompt_idx, each),
            "selection": pa.DictionaryArray.from_arrays(
                np.repeat(numbers(selection.indices), each), selection.dictionary
            ),
            "n": np.repeat(means.n, each),
            "first_neuron": np.tile(first, rows),
            "values": cut(means.values.astype(FLOAT32), 4 * np.append(starts, rows * neurons)),
        }
    )
    if not means.absent:
        return table
    there = np.add.reduceat(~np.isnan(means.values), first, axis=1, dtype=np.int64) > 0
    return table.filter(pa.array(there.reshape(-1)))


def statistics_table(layer_id: int, first: bool, statistics: NeuronStatistics) -> pa.Table:
    neurons = len(statistics.n)
    return pa.table(
        {
            "layer_id": np.full(neurons, layer_id, np.int16),
            "first": np.full(neurons, first),
            "neuron": np.arange(neurons, dtype=np.int32),
            **{f.name: getattr(statistics, f.name) for f in fields(NeuronStatistics)},
        }
    )


def concept_statistics_table(layer_id: int, concept: str, statistics: ConceptStatistics) -> pa.Table:
    neurons = len(statistics.n)
    return pa.table(
        {
            "layer_id": np.full(neurons, layer_id, np.int16),
            "concept": _repeated(concept, neurons),
            "neuron": np.arange(neurons, dtype=np.int32),
            **{f.name: getattr(statistics, f.name) for f in fields(ConceptStatistics)},
        }
    )


def examples_table(layer_id: int, kind: str, token_idx: NDArray[np.int64], values: NDArray[np.float32]) -> pa.Table:
    """Both [neurons, kept]; a token_idx of -1: there is no example of that rank, nor of later ranks."""
    there = token_idx >= 0
    neurons = len(token_idx)
    offsets = np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int32)
    return pa.table(
        {
            "layer_id": np.full(neurons, layer_id, np.int16),
            "neuron": np.arange(neurons, dtype=np.int32),
            "kind": _repeated(kind, neurons),
            "token_idx": pa.ListArray.from_arrays(offsets, pa.array(token_idx[there])),
            "values": pa.ListArray.from_arrays(offsets, pa.array(values[there])),
        }
    )


def _repeated(text: str, rows: int) -> pa.Array:
    """A column that repeats one text."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([text]))
