"""What the token walk takes from the model of a run: the lengths of output weights, and the surprisal of every token.

Both are computed once and saved with the run, so that the app, which loads no model, can rank and colour by them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from nfinspect.analysis.ticks import Tick, silent
from nfinspect.experiments.perplexity import LOGIT_BYTES
from nfinspect.experiments.projection_weights import projection_weight
from nfinspect.experiments.run_model import without_edits
from nfinspect.experiments.substitution import matching_sites
from nfinspect.models import (
    LoadedModel,
    ModelError,
    UnsupportedModel,
    check_ids,
    forward_batch,
    require_causal,
    vocabulary,
)
from nfinspect_store.reader import RunFile
from nfinspect_store.schema import EVERY_TOKEN
from nfinspect_store.tables import RunTables
from nfinspect_store.types import Layer

MOST_LOGITS = 4 * 2**30
"""Bytes of a prompt's logits beyond which it is left out: those of 21,000 tokens and a vocabulary of 50,257 [own]."""

READ_IDS = f"SELECT token_id, prompt_idx FROM {EVERY_TOKEN} ORDER BY prompt_idx, position"


@dataclass(frozen=True)
class WalkFigures:
    """norms: site, layer, neuron, norm of every neuron whose output weights are known. surprisal: prompt_idx, place (in
    the prompt, from 0), surprisal (nats, float32) of every token but the first of each prompt, recorded or not. notes:
    on what is left out.
    """

    model: str
    norms: pa.Table
    surprisal: pa.Table
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        told = self.surprisal.column("surprisal").to_numpy().astype(np.float64)
        layers = self.norms.group_by(["site", "layer"], use_threads=False).aggregate(
            [("norm", "count"), ("norm", "mean"), ("norm", "max")]
        )
        return {
            "model": self.model,
            "tokens": len(told),
            "mean_surprisal": float(told.mean()) if len(told) else None,
            "layers": [
                {"site": row["site"], "layer": row["layer"], "neurons": row["norm_count"],
                 "mean_norm": row["norm_mean"], "max_norm": row["norm_max"]}
                for row in layers.to_pylist()
            ],
            "notes": list(self.notes),
        }  # fmt: skip


def walk_figures(run: RunFile, loaded: LoadedModel, tick: Tick = silent) -> WalkFigures:
    """Of all sites and prompts of a run. tick: prompts done, of all.

    Raises RequestError if the model does not fit the run, ModelError for a model that is not causal.
    """
    require_causal(loaded.model, "the surprisal of a token")
    norms, notes = _norms(run, loaded)
    surprisal, left_out = _surprisal(run, loaded, tick)
    return WalkFigures(loaded.name, norms, surprisal, (*without_edits(run), *notes, *left_out))


def output_norms(loaded: LoadedModel, layers: Sequence[Layer]) -> list[NDArray[np.float32]]:
    """‖w_out‖ of every neuron of some layers of one site: float32[neurons] each, 1 at `resid`. Raises RequestError if
    the model has other layers, UnsupportedModel for packed weights.
    """
    if layers[0].site == "resid":
        return [np.ones(layer.neurons, np.float32) for layer in layers]
    found = []
    for site in matching_sites(loaded, layers):
        weight = projection_weight(loaded.model.get_submodule(site.module), site.module)
        parts = [part.float().norm(dim=0) for part in torch.split(weight, 4096, dim=1)]  # [out, neurons]
        found.append(torch.cat(parts).cpu().numpy())
    return found


def _norms(run: RunTables, loaded: LoadedModel) -> tuple[pa.Table, list[str]]:
    columns: dict[str, list[object]] = {"site": [], "layer": [], "neuron": [], "norm": []}
    notes = []
    for site in run.sites:
        layers = run.site_layers(site)
        try:
            norms = output_norms(loaded, layers)
        except UnsupportedModel as error:
            notes.append(f"lengths of output weights at {site} are left out: {error}")
            continue
        for layer, norm in zip(layers, norms, strict=True):
            columns["site"] += [site] * layer.neurons
            columns["layer"] += [layer.layer] * layer.neurons
            columns["neuron"] += range(layer.neurons)
            columns["norm"] += norm.tolist()
    kinds = {"site": pa.string(), "layer": pa.int32(), "neuron": pa.int32(), "norm": pa.float32()}
    return pa.table({name: pa.array(columns[name], kind) for name, kind in kinds.items()}), notes


def _surprisal(run: RunTables, loaded: LoadedModel, tick: Tick) -> tuple[pa.Table, list[str]]:
    columns = run.cursor().execute(READ_IDS).fetchnumpy()
    ids = np.asarray(columns["token_id"], np.int64)
    prompts, first, size = np.unique(columns["prompt_idx"], return_index=True, return_counts=True)
    if len(ids):
        check_ids(loaded.model, [int(ids.min()), int(ids.max())], "the run")
    each = 4 * vocabulary(loaded.model)
    short = size * each <= MOST_LOGITS
    found: dict[str, list[NDArray[np.generic]]] = {"prompt_idx": [], "place": [], "surprisal": []}
    done = 0
    for batch in _alike(size, np.flatnonzero(short & (size > 1)), each):
        length = int(size[batch[0]])
        rows = [ids[first[i] : first[i] + length].tolist() for i in batch]
        for i, nats in zip(batch, _nats(loaded, rows), strict=True):
            found["prompt_idx"].append(np.full(length - 1, prompts[i], np.int32))
            found["place"].append(np.arange(1, length, dtype=np.int32))
            found["surprisal"].append(nats)
        done += len(batch)
        tick(done, int((short & (size > 1)).sum()))
    kinds = {"prompt_idx": np.int32, "place": np.int32, "surprisal": np.float32}
    table = pa.table({name: np.concatenate([np.empty(0, kinds[name]), *parts]) for name, parts in found.items()})
    left = int((~short).sum())
    limit = MOST_LOGITS // each
    return table, [f"the surprisal of {left:,} prompts of more than {limit:,} tokens is left out"] if left else []


def _alike(size: NDArray[np.int64], chosen: NDArray[np.int64], each: int) -> Iterator[NDArray[np.int64]]:
    """Prompts of the same length, so that nothing is padded; as many as LOGIT_BYTES of logits allow."""
    for length in np.unique(size[chosen]):
        same = chosen[size[chosen] == length]
        step = max(1, LOGIT_BYTES // (each * int(length)))
        for start in range(0, len(same), step):
            yield same[start : start + step]


def _nats(loaded: LoadedModel, rows: list[list[int]]) -> NDArray[np.float32]:
    """−ln p of each token but the first given those before it: float32[prompts, tokens - 1]."""
    batch = forward_batch(loaded.model, rows, pad_id=0)
    with torch.inference_mode():
        logits = loaded.model(**batch.inputs()).logits[:, :-1]
        targets = torch.as_tensor(rows, device=logits.device)[:, 1:]
        parts = [
            torch.nn.functional.cross_entropy(one.float(), ids, reduction="none")
            for one, ids in zip(logits, targets, strict=True)
        ]
    nats: NDArray[np.float32] = torch.stack(parts).cpu().numpy()
    if not np.isfinite(nats).all():
        raise ModelError("expected finite logits, found NaN or infinite ones: try --dtype float32")
    return nats
