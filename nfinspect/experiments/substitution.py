"""How far the effect of a substituted token reaches: neurons read with a token and with another in its place
(methods §7).

A draw picks a recorded token of the run past position 0, uniformly, and replaces it with another token drawn alike
[own: position 0 holds what begins a text]. The neurons are read at the substituted position and some tokens after it.
Both readings come from the same forward pass, so that rounding adds no difference of its own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nfinspect.analysis.chosen import chosen_layers
from nfinspect.analysis.substitution import LAGS, Substitution
from nfinspect.analysis.ticks import Tick, silent
from nfinspect.experiments.run_model import require_plain
from nfinspect.models import (
    LayerSite,
    LoadedModel,
    SiteReader,
    body,
    check_ids,
    find_sites,
    forward_batch,
    require_causal,
    rope_limit,
)
from nfinspect_store.errors import RequestError
from nfinspect_store.schema import EVERY_TOKEN
from nfinspect_store.tables import RunTables
from nfinspect_store.types import Layer

DRAWS = 256
"""Substitutions by default [own]: the standard error of a mean |Δa| is then 1/16 of its spread."""

BATCH_TOKENS = 4096
"""The most tokens in a forward pass, unless one pair of sequences has more [own]."""

Places = list[tuple[list[int], list[int]]]
"""For each lag: which pairs of a batch are long enough, and the position that is read in each."""

READ_TOKENS = f"""
SELECT token_id, position, token_idx IS NOT NULL AS recorded FROM {EVERY_TOKEN} ORDER BY prompt_idx, position
"""


@dataclass(frozen=True)
class Pair:
    """A sequence, and the token that replaces the one at `position`. recorded: which of its tokens the run holds."""

    token_ids: tuple[int, ...]
    position: int
    substitute: int
    recorded: tuple[bool, ...]

    def sequences(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Unchanged, and with the substitute."""
        before, after = self.token_ids[: self.position], self.token_ids[self.position + 1 :]
        return self.token_ids, (*before, self.substitute, *after)


def substitution_sensitivity(
    run: RunTables,
    loaded: LoadedModel,
    site: str | None = None,
    layers: Sequence[int] | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    lags: Sequence[int] = LAGS,
    tick: Tick = silent,
) -> Substitution:
    """Mean |Δa| / std of every neuron of the run's site, `lags` tokens after a substituted one.

    loaded: the model that the run was captured from. std: the sample std from the run's statistics, without position 0.
    A draw whose sequence ends before t + lag, or whose token there is not recorded, is not a sample for that lag, and
    position 0 is never read. tick counts draws. The same seed gives the same draws. Raises RequestError if the model
    does not fit the run, for a run with edits, and for one without a token past position 0; ModelError as SiteReader
    does.
    """
    require_plain(run, "--substitute")
    chosen = chosen_layers(run, site, layers)
    sites = matching_sites(loaded, chosen)
    require_causal(loaded.model, "how far a substituted token reaches")  # runs the model: before hooks are attached
    pairs = draw_pairs(run, draws, seed, max(lags), rope_limit(loaded.model))
    check_ids(loaded.model, [i for pair in pairs for i in (*pair.token_ids, pair.substitute)], "the run")
    sums = {site: np.zeros((len(lags), site.neurons)) for site in sites}
    samples = np.zeros(len(lags), np.int64)
    done = 0
    for batch, places in _read(loaded, pairs, lags, sums):
        samples += [len(rows) for rows, _ in places]
        done += len(batch)
        tick(done, len(pairs))
    std = np.concatenate([run.statistics(x.site, layer=x.layer, skip_first=True).std for x in chosen])
    total = np.concatenate([sums[site] for site in sites], axis=1).T  # [neurons, lags]
    whole = samples * std[:, None]
    return Substitution(
        site=chosen[0].site,
        model=loaded.name,
        seed=seed,
        draws=len(pairs),
        unchanged=sum(pair.token_ids[pair.position] == pair.substitute for pair in pairs),
        lags=tuple(lags),
        samples=tuple(samples.tolist()),
        layer=np.repeat([x.layer for x in chosen], [x.neurons for x in chosen]).astype(np.int64),
        neuron=np.concatenate([np.arange(x.neurons, dtype=np.int64) for x in chosen]),
        sensitivity=np.divide(total, whole, out=np.full(total.shape, np.nan), where=whole > 0),
    )


def draw_pairs(run: RunTables, draws: int, seed: int, reach: int, limit: int | None = None) -> list[Pair]:
    """The substitutions, the same for the same run and seed, sorted by length.

    A sequence is cut `reach` tokens after the substituted one, as models here are causal. One longer than `limit` is
    not cut, as such a model chooses its rotary angles by the length.
    """
    columns = run.cursor().execute(READ_TOKENS).fetchnumpy()
    ids, position, recorded = (np.asarray(columns[name]) for name in ("token_id", "position", "recorded"))
    drawable: NDArray[np.int64] = np.flatnonzero((position > 0) & recorded)
    if not len(drawable):
        raise RequestError("substitution needs prompts of two tokens or more, found none in this run")
    rng = np.random.default_rng(seed)
    places, sources = rng.choice(drawable, draws), rng.choice(drawable, draws)
    starts = np.flatnonzero(position == 0)
    ends = np.append(starts[1:], len(ids))
    pairs = []
    for place, source in zip(places.tolist(), sources.tolist(), strict=True):
        start, end = place - int(position[place]), int(ends[np.searchsorted(starts, place, "right") - 1])
        stop = end if limit is not None and end - start > limit else min(end, place + max(reach, 0) + 1)
        held = tuple(recorded[start:stop].tolist())
        pairs.append(Pair(tuple(ids[start:stop].tolist()), place - start, int(ids[source]), held))
    return sorted(pairs, key=lambda pair: len(pair.token_ids))


def matching_sites(loaded: LoadedModel, layers: Sequence[Layer]) -> list[LayerSite]:
    """The model's sites of the run's layers, in the same order. Raises RequestError if they differ."""
    found = find_sites(loaded.model, [layers[0].site], [layer.layer for layer in layers])
    for layer, site in zip(layers, found, strict=True):
        if (layer.neurons, layer.module) != (site.neurons, site.module):
            raise RequestError(
                f"the run's layer {layer.layer} has {layer.neurons:,} neurons at {layer.module}, that of {loaded.name} "
                f"{site.neurons:,} at {site.module}: it was captured from another model"
            )
    return found


def _batches(pairs: Sequence[Pair], loaded: LoadedModel) -> Iterator[list[Pair]]:
    """Consecutive pairs, so of similar length; of equal length beyond the limit of a model's rotary scaling."""
    limit = rope_limit(loaded.model)
    batch: list[Pair] = []
    for pair in pairs:
        length = len(pair.token_ids)
        unlike = limit is not None and length > limit and batch and len(batch[0].token_ids) != length
        if batch and (unlike or 2 * (len(batch) + 1) * length > BATCH_TOKENS):
            yield batch
            batch = []
        batch.append(pair)
    yield batch


def _places(batch: Sequence[Pair], lags: Sequence[int]) -> Places:
    places: Places = []
    for lag in lags:
        reached = [
            (i, p.position + lag)
            for i, p in enumerate(batch)
            if 1 <= p.position + lag < len(p.token_ids) and p.recorded[p.position + lag]
        ]
        places.append(([i for i, _ in reached], [position for _, position in reached]))
    return places


def _read(
    loaded: LoadedModel, pairs: Sequence[Pair], lags: Sequence[int], sums: dict[LayerSite, NDArray[np.float64]]
) -> Iterator[tuple[list[Pair], Places]]:
    """Read the pairs batch by batch, adding Σ|Δa| to sums, float64[lags, neurons] for each site."""
    places: Places = []

    def take(site: LayerSite, values: Tensor, fired: Tensor | None) -> None:
        for lag, (rows, positions) in enumerate(places):
            index = torch.tensor([rows, positions], dtype=torch.long, device=values.device)
            as_it_is, substituted = values[0::2][*index].float(), values[1::2][*index].float()
            sums[site][lag] += (substituted - as_it_is).abs().cpu().double().sum(0).numpy()

    with SiteReader(loaded.model, list(sums), take) as reader, torch.inference_mode():
        for batch in _batches(pairs, loaded):
            places = _places(batch, lags)
            sequences = [sequence for pair in batch for sequence in pair.sequences()]
            inputs = forward_batch(loaded.model, sequences, pad_id=loaded.pad_id)
            reader.begin(len(sequences), inputs.input_ids.shape[1], inputs.valid)
            body(loaded.model)(**inputs.inputs())
            reader.end()
            yield batch, places
