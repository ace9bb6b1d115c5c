"""What is recorded of a layer of experts: of each expert, over the tokens that were routed to it (decision 19).

A token that was not routed to an expert is absent from its neurons: it counts in none of their figures. So each expert
is recorded as a layer of its own would be, with its own tokens, and the results are put side by side. Always on the
CPU: many experts have few tokens each.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from decimal import Decimal
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from nfinspect.capturing.batch import PromptRows
from nfinspect.capturing.beyond import values_beyond
from nfinspect.capturing.statistics import LayerStatistics
from nfinspect_store.examples import KEPT, draw, places
from nfinspect_store.snapshot import LayerSnapshot
from nfinspect_store.statistics import ConceptStatistics, NeuronStatistics
from nfinspect_store.tables import RunTables
from nfinspect_store.types import BeyondRows, Layer

ROW = 1 << 62
"""Added to the rows of a batch that become examples, until they have the index of their token."""

CPU = torch.device("cpu")

Put: TypeAlias = Callable[[int, NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_] | None], None]
"""Takes an expert, the next tokens routed to it, and its neurons on them: values [width, tokens], and which fired."""


class ExpertLayer:
    """The recorder's state for one layer of experts, in the order of its neurons."""

    def __init__(
        self,
        layer: Layer,
        seed: int,
        first_prompt: int = 0,
        *,
        put: Put | None = None,
        percentile: Decimal | None = None,
    ) -> None:
        """first_prompt: as a Recorder takes it. put: is given every value, of one expert at a time. percentile: the
        values beyond each neuron's are kept (beyond.py).
        """
        self._layer = layer
        self._seed = seed
        self._first_prompt = first_prompt
        self._put = put
        self._percentile = percentile
        self._beyond: list[BeyondRows] = []
        self._experts = [LayerStatistics(layer.width, layer.fires) for _ in range(layer.experts)]
        none = np.empty(0, np.int64)
        self._random = [(none, none, np.empty((0, layer.width), np.float32)) for _ in range(layer.experts)]

    def add(
        self,
        prompts: PromptRows,
        values: NDArray[np.float32],
        fired: NDArray[np.bool_] | None,
        experts: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Add a batch. values, fired: [tokens, chosen * width], the neurons of the experts in `experts`, int64[tokens,
        chosen], -1 where none was chosen. Returns its means, float32[means, neurons], in the order of PromptRows.means;
        NaN where no token was routed to the expert.
        """
        tokens, chosen = experts.shape
        width = self._layer.width
        slots = values.reshape(tokens * chosen, width)
        flags = None if fired is None else fired.reshape(tokens * chosen, width)
        of_slot = experts.reshape(-1)
        order = np.argsort(of_slot, kind="stable")  # by expert, and by token of each
        ends = np.searchsorted(of_slot[order], np.arange(self._layer.experts + 1))
        means = np.full((int(prompts.written.sum()), self._layer.neurons), np.nan, np.float32)
        for expert in np.flatnonzero(np.diff(ends)).tolist():
            rows = order[ends[expert] : ends[expert + 1]]
            part = means[:, expert * width : (expert + 1) * width]
            self._add(expert, prompts, rows // chosen, slots[rows], None if flags is None else flags[rows], part)
        return means

    def _add(
        self,
        expert: int,
        prompts: PromptRows,
        tokens: NDArray[np.int64],
        values: NDArray[np.float32],
        fired: NDArray[np.bool_] | None,
        means: NDArray[np.float32],
    ) -> None:
        """Add an expert's tokens, rows of the batch in order, and write its means where it has any."""
        start, stop = np.searchsorted(tokens, prompts.start), np.searchsorted(tokens, prompts.stop)
        there = start < stop
        of_expert = PromptRows(
            start=start[there],
            rest=np.searchsorted(tokens, prompts.rest[there]),
            stop=stop[there],
            generated=np.searchsorted(tokens, prompts.generated[there]),
            token=ROW + start[there],
            prompt_idx=prompts.prompt_idx[there],
            concept=[concept for concept, one in zip(prompts.concept, there.tolist(), strict=True) if one],
        )
        statistics = self._experts[expert]
        found = statistics.add(of_expert, values, fired)
        first, own = (_first_means(rows) for rows in (prompts, of_expert))
        first = first[there]
        # The mean over the last token is there if the expert saw the prompt's last token.
        last = tokens[of_expert.stop - 1] == prompts.stop[there] - 1
        for place, has in enumerate((of_expert.written > 0, (of_expert.written > 0) & last, of_expert.written == 3)):
            means[first[has] + place] = found[own[has] + place]
        token_idx = prompts.token[0] - prompts.start[0] + tokens
        if self._put is not None:
            self._put(expert, token_idx, values.T, None if fired is None else fired.T)
        if self._percentile is not None:
            beyond = values_beyond(self._layer.layer_id, values, statistics.limits(self._percentile), 0)
            neuron = beyond.neuron + np.int32(expert * self._layer.width)
            self._beyond.append(replace(beyond, neuron=neuron, token_idx=token_idx[beyond.token_idx]))
        assert statistics.extremes is not None
        kept = statistics.extremes.token_idx
        new = kept >= ROW
        kept[new] = token_idx[kept[new] - ROW]
        at = places(token_idx, prompts.token, prompts.prompt_idx + self._first_prompt)
        self._keep_random(expert, token_idx, at, values)

    def _keep_random(
        self, expert: int, token_idx: NDArray[np.int64], at: NDArray[np.int64], values: NDArray[np.float32]
    ) -> None:
        """Of all the expert's tokens those with the smallest numbers, by their places (nfinspect_store.examples)."""
        held, held_at, held_values = self._random[expert]
        offered, offered_at = np.concatenate([held, token_idx]), np.concatenate([held_at, at])
        order = draw(self._seed, offered_at)
        if len(held) == len(order) and (order < len(held)).all():
            return
        rows = [held_values[i] if i < len(held) else values[i - len(held)] for i in order.tolist()]
        self._random[expert] = offered[order], offered_at[order], np.stack(rows)

    def take_beyond(self) -> BeyondRows | None:
        """The values of the batches added since the last call that are beyond their neurons' percentiles."""
        parts, self._beyond = self._beyond, []
        if not parts:
            return None
        columns = {name: np.concatenate([getattr(p, name) for p in parts]) for name in ("neuron", "token_idx", "value")}
        return BeyondRows(self._layer.layer_id, **columns)

    def snapshot(self) -> LayerSnapshot:
        groups = [one.groups() for one in self._experts]
        told = [one.concepts() for one in self._experts]
        none, no_concept = NeuronStatistics.empty(self._layer.width), _no_tokens(self._layer.width)
        histograms = [one.histograms() for one in self._experts]
        return LayerSnapshot(
            layer_id=self._layer.layer_id,
            statistics={
                first: NeuronStatistics.concatenate([group.get(first, none) for group in groups])
                for first in (False, True)
                if any(first in group for group in groups)
            },
            concepts={
                concept: ConceptStatistics(
                    **{
                        f.name: np.concatenate([getattr(one.get(concept, no_concept), f.name) for one in told])
                        for f in fields(ConceptStatistics)
                    }
                )
                for concept in dict.fromkeys(name for one in told for name in one)
            },
            histograms={first: np.concatenate([one[first] for one in histograms]) for first in (False, True)},
            examples={"top": self._extremes("top"), "min": self._extremes("min"), "random": self._random_examples()},
        )

    def _extremes(self, kind: Literal["top", "min"]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        kept = [one.extremes.get(kind) for one in self._experts if one.extremes is not None]
        return np.concatenate([tokens for tokens, _ in kept]), np.concatenate([values for _, values in kept])

    def _random_examples(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        tokens = np.full((self._layer.neurons, KEPT), -1, np.int64)
        found = np.zeros((self._layer.neurons, KEPT), np.float32)
        for expert, (token_idx, _, values) in enumerate(self._random):
            rows = self._neurons(expert)
            tokens[rows, : len(token_idx)] = token_idx
            found[rows, : len(token_idx)] = values.T
        return tokens, found

    def restore(self, tables: RunTables) -> None:
        """Continue from the last segment."""
        layer = self._layer
        rest = tables.histograms(layer.site, layer.layer, skip_first=True)
        histograms = {False: rest, True: tables.histograms(layer.site, layer.layer) - rest}
        groups, concepts = tables.statistics_apart(layer), tables.concept_statistics(layer)
        kept = {kind: tables.layer_examples(layer, kind, KEPT) for kind in ("top", "min", "random")}
        starts, prompt_idx = tables.starts()
        for expert, statistics in enumerate(self._experts):
            rows = self._neurons(expert)
            of_expert = {
                concept: ConceptStatistics(**{f.name: getattr(one, f.name)[rows] for f in fields(ConceptStatistics)})
                for concept, one in concepts.items()
            }
            statistics.restore(
                {first: one.take(rows) for first, one in groups.items()},
                {concept: one for concept, one in of_expert.items() if one.n.any()},
                {first: counts[rows] for first, counts in histograms.items()},
            )
            assert statistics.extremes is not None
            statistics.extremes.restore("top", kept["top"][0][rows], kept["top"][1][rows])
            statistics.extremes.restore("min", kept["min"][0][rows], kept["min"][1][rows])
            tokens, values = kept["random"][0][rows], kept["random"][1][rows]
            there = tokens[0] >= 0
            found = tokens[0][there]
            at = places(found, starts, prompt_idx + self._first_prompt)
            self._random[expert] = found, at, values[:, there].T.copy()

    def _neurons(self, expert: int) -> slice:
        return slice(expert * self._layer.width, (expert + 1) * self._layer.width)


def _first_means(prompts: PromptRows) -> NDArray[np.int64]:
    """Of each prompt the row of its first mean."""
    first: NDArray[np.int64] = np.cumsum(prompts.written) - prompts.written
    return first


def _no_tokens(neurons: int) -> ConceptStatistics:
    counts = np.zeros(neurons, np.int64)
    return ConceptStatistics(counts, counts, np.zeros(neurons), np.full(neurons, -np.inf, np.float32))
