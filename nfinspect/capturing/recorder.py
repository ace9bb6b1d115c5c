"""Between the hooks and the store: takes the values of finished prompts, updates statistics and passes values on.

The recorder knows nothing about models: capture_run feeds it from hooks, write_run from arrays.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import TypeVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from nfinspect.capturing.batch import PromptRows
from nfinspect.capturing.beyond import values_beyond
from nfinspect.capturing.classification import classify_tables
from nfinspect.capturing.examples import RandomTokens
from nfinspect.capturing.expert_record import ExpertLayer
from nfinspect.capturing.segments import Segment
from nfinspect.capturing.statistics import LayerStatistics
from nfinspect.capturing.transfer import Array, begin_copy, rows_of, start_copy, to_host
from nfinspect_store.examples import KEPT, places
from nfinspect_store.mamba_delta import DeltaMoments, read_mamba_delta
from nfinspect_store.processors import unbind
from nfinspect_store.snapshot import LayerSnapshot
from nfinspect_store.tables import RunTables
from nfinspect_store.types import BeyondRows, Layer, MeanRows, Prompt, TokenRows
from nfinspect_store.writer import RunWriter

Done = TypeVar("Done")

ON_THE_WAY = 4
"""Layers of a batch that are copied from a GPU and written while others are still computed there [own]: the next one
waits for the first of them, so that a slow disk slows the capture and fills no memory."""


@dataclass(frozen=True)
class RecordedPrompt:
    """A prompt with all its tokens; the first `prompt_tokens` are its own, the others were generated. chosen: which of
    them are recorded, bool[tokens]; None: all.
    """

    concept: str
    text: str
    token_ids: Sequence[int]
    tokens: Sequence[str]
    prompt_tokens: int
    raw: Sequence[bytes | None] = ()  # as in TokenRows; empty: the texts are enough
    roles: Sequence[str | None] = ()  # as in TokenRows; empty: not a chat
    chosen: NDArray[np.bool_] | None = None

    @property
    def recorded(self) -> NDArray[np.bool_]:
        """bool[tokens]: which are recorded."""
        return np.ones(len(self.token_ids), np.bool_) if self.chosen is None else self.chosen


@dataclass(frozen=True)
class LayerValues:
    """One layer on the recorded tokens of a batch of prompts, one prompt after the other, without padding."""

    values: Array  # [tokens, neurons]: a float32 numpy array, or on a GPU a tensor of any precision
    fired: Array | None  # bool[tokens, neurons] where the layer fires by its gate
    delta: DeltaMoments | None = None  # of a Mamba's mixer: its Δ over these tokens
    experts: Array | None = None
    """int64[tokens, chosen] of a mixture of experts: values and fired are then of the neurons of these experts,
    [tokens, chosen * width], on the CPU; -1: none."""


class Recorder:
    """Feeds one RunWriter, and commits whenever a segment ends (segments.py). Use from one thread."""

    def __init__(
        self,
        writer: RunWriter,
        seed: int,
        device: torch.device,
        *,
        commits: bool = True,
        writers: int = 1,
        watched: Callable[[], bool] = lambda: False,
        first_prompt: int = 0,
    ) -> None:
        """device: where the model is. commits=False: commit only when `commit` is called. writers: threads that record
        layers on a CPU; on a GPU they merge and write what it has copied. watched: whether somebody reads the run
        meanwhile, and commits should come often. first_prompt: of a part of a capture, how many prompts of the whole
        come before it.
        """
        self.writer = writer
        self._on_gpu = device.type == "cuda"
        many = writers > 1 or self._on_gpu
        self._threads = ThreadPoolExecutor(writers, "nfinspect-record", initializer=unbind) if many else None
        self._random = RandomTokens(seed)
        self._first_prompt = first_prompt
        # Examples and statistics by concept follow from the values: they are kept only if values are not. Those of
        # experts always are: their values are of other tokens in each expert.
        self._layers = [
            _ExpertRecord(layer, seed, first_prompt, writer)
            if layer.experts
            else _LayerRecord(layer, apart=not writer.keeps_values)
            for layer in writer.layers
        ]
        self.tokens = writer.tokens
        self.prompts = writer.prompts
        if self.tokens:
            self._restore(writer.tables())
        self._segment = Segment(writer, watched) if commits else None

    def add(self, prompts: Sequence[RecordedPrompt], values: Mapping[int, LayerValues]) -> None:
        """Record finished prompts. values: by layer_id. Raises StorageFull."""
        if not prompts:
            return
        placed: list[Prompt] = []
        at_start: list[bool] = []
        position = self.tokens
        for i, prompt in enumerate(prompts):
            recorded = prompt.recorded
            own, size = int(recorded[: prompt.prompt_tokens].sum()), int(recorded.sum())
            placed.append(Prompt(self.prompts + i, prompt.concept, prompt.text, position, own, size))
            at_start.append(bool(recorded[:1].any()))
            position += size
        rows = PromptRows.of(placed, at_start, self.tokens)
        means, beyond = self._add_values(rows, values, position) if position > self.tokens else ([], [])
        tokens, others = _token_rows(prompts, self.tokens, self.prompts)
        self.writer.add(placed, tokens, means, others, beyond)
        self.tokens = position
        self.prompts += len(prompts)
        # A run without a token is deleted if its capture fails: it is not worth a commit.
        if self._segment is None:
            return
        self._segment.add(means)
        if self.tokens and self._segment.is_over(self.tokens):
            start = time.monotonic()
            self.commit({"status": "capturing"}, final=False)
            self._segment.begin(self.tokens, commit_seconds=time.monotonic() - start)

    def _add_values(
        self, prompts: PromptRows, values: Mapping[int, LayerValues], stop: int
    ) -> tuple[list[MeanRows], list[BeyondRows]]:
        """Record the values of the tokens before `stop`; returns the prompts' means, and the values kept one by one."""
        at_once, behind = (None, self._threads) if self._on_gpu else (self._threads, None)
        written: deque[Future[None]] = deque()
        kept = None
        if not self.writer.keeps_values:
            tokens = np.arange(self.tokens, stop, dtype=np.int64)
            kept = self._random.add(self.tokens, places(tokens, prompts.token, prompts.prompt_idx + self._first_prompt))
        prompt_idx, selections, n = prompts.means()

        def begun(record: _LayerRecord | _ExpertRecord) -> Callable[[], tuple[MeanRows, BeyondRows | None]]:
            layer_id = record.layer.layer_id
            layer = values[layer_id]
            if self.writer.keeps_values and isinstance(record, _LayerRecord):
                if len(written) == ON_THE_WAY:
                    written.popleft().result()
                gates = None if layer.fired is None else start_copy(layer.fired)
                put = partial(self._put, layer_id, start_copy(layer.values), gates)
                if behind is None:
                    put()
                else:
                    written.append(behind.submit(put))
            keep_random = None
            if kept is not None and isinstance(record, _LayerRecord):
                keep_random = record.begin_random(kept, layer.values, self.tokens)
            finish = record.begin(prompts, layer)

            def finished() -> tuple[MeanRows, BeyondRows | None]:
                if keep_random is not None:
                    keep_random()
                means = MeanRows(layer_id, prompt_idx, selections, n, finish(), record.layer.experts > 0)
                if isinstance(record, _ExpertRecord):
                    return means, record.take_beyond()
                if self.writer.beyond is None:
                    return means, None
                return means, record.beyond(self.writer.beyond, layer.values, self.tokens)

            return finished

        try:
            if behind is not None:
                each = _behind(behind, map(begun, self._layers))
            elif at_once is not None:
                each = at_once.map(lambda record: begun(record)(), self._layers)
            else:
                each = (begun(record)() for record in self._layers)
            means, beyond = zip(*each, strict=True)
            while written:
                written.popleft().result()
        finally:
            wait(written)  # after an error: nothing may be written once the caller knows of it
        return [rows for rows in means if len(rows.n)], [rows for rows in beyond if rows is not None]

    def _put(
        self,
        layer_id: int,
        copied: Callable[[], NDArray[np.float32]],
        gates: Callable[[], NDArray[np.bool_]] | None,
    ) -> None:
        self.writer.put(layer_id, copied(), None if gates is None else gates())

    def commit(self, info: Mapping[str, object], *, final: bool) -> None:
        """End the segment. final: count what depends on the layer scale exactly, from the values, if they are kept."""
        layers = [record.snapshot(self._random) for record in self._layers]
        exact = final and self.writer.keeps_values
        if self.tokens:
            self.writer.commit(layers, lambda tables: classify_tables(tables, exact=exact), info)
        else:  # a part of a capture may record none
            self.writer.commit(layers, lambda tables: (pa.table({}), pa.table({})), info)

    def _restore(self, tables: RunTables) -> None:
        for record in self._layers:
            record.restore(tables)
        whole = [record.random_tokens for record in self._layers if isinstance(record, _LayerRecord)]
        if whole:
            starts, prompt_idx = tables.starts()
            self._random.restore(whole[0], places(whole[0], starts, prompt_idx + self._first_prompt))


class _LayerRecord:
    """The recorder's state for one layer."""

    def __init__(self, layer: Layer, *, apart: bool) -> None:
        """apart: keep examples, and statistics by concept."""
        self.layer = layer
        self._statistics = LayerStatistics(layer.neurons, layer.fires, apart=apart)
        self.random_tokens = np.empty(0, np.int64)
        self._random_values = np.empty((0, layer.neurons), np.float32)
        self._delta: DeltaMoments | None = None
        self._counts_delta = True

    def begin(self, prompts: PromptRows, layer: LayerValues) -> Callable[[], NDArray[np.float32]]:
        """Begin to add a batch; the returned function gives the prompts' means, float32[means, neurons]."""
        if layer.delta is not None and self._counts_delta:
            self._delta = layer.delta if self._delta is None else self._delta.merge(layer.delta)
        return self._statistics.begin(prompts, layer.values, layer.fired)

    def beyond(self, percentile: Decimal, values: Array, offset: int) -> BeyondRows:
        """Of the batch just added, whose first token has index `offset`, the values beyond the neurons' percentiles."""
        return values_beyond(self.layer.layer_id, values, self._statistics.limits(percentile), offset)

    def begin_random(self, kept: NDArray[np.int64], values: Array, offset: int) -> Callable[[], None] | None:
        """Begin to fetch the values of the tokens in `kept` that are in this batch, which begins at token_idx `offset`;
        the others are kept already. The returned function keeps them; None: there are none.
        """
        new = kept[kept >= offset]
        if not len(new):
            return None
        copied = begin_copy(rows_of(values, new - offset))

        def keep() -> None:
            tokens, rows = [*self.random_tokens.tolist(), *new.tolist()], [*self._random_values, *copied()]
            held = dict(zip(tokens, rows, strict=True))
            self.random_tokens = kept
            self._random_values = np.stack([held[token] for token in kept.tolist()])

        return keep

    def snapshot(self, random: RandomTokens) -> LayerSnapshot:
        return LayerSnapshot(
            layer_id=self.layer.layer_id,
            statistics=self._statistics.groups(),
            concepts=self._statistics.concepts(),
            histograms=self._statistics.histograms(),
            examples=self._examples(random),
            delta=self._delta,
        )

    def _examples(self, random: RandomTokens) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float32]]]:
        extremes = self._statistics.extremes
        if extremes is None:
            return {}
        return {
            "top": extremes.get("top"),
            "min": extremes.get("min"),
            "random": (np.tile(random.token_idx, (self.layer.neurons, 1)), self._random_values.T),
        }

    def restore(self, tables: RunTables) -> None:
        """Continue from the last segment."""
        layer = self.layer
        histograms = {
            False: tables.histograms(layer.site, layer.layer, skip_first=True),
        }
        histograms[True] = tables.histograms(layer.site, layer.layer) - histograms[False]
        self._statistics.restore(tables.statistics_apart(layer), tables.concept_statistics(layer), histograms)
        extremes = self._statistics.extremes
        if extremes is not None:
            extremes.restore("top", *tables.layer_examples(layer, "top", KEPT))
            extremes.restore("min", *tables.layer_examples(layer, "min", KEPT))
            tokens, values = tables.layer_examples(layer, "random", KEPT)
            there = tokens[0] >= 0
            self.random_tokens = tokens[0][there]
            self._random_values = values[:, there].T.copy()
        if layer.site == "mixer":
            self._delta = read_mamba_delta(tables.cursor()).get(layer.layer)
            self._counts_delta = self._delta is not None  # None: the run was begun by a version without Δ


class _ExpertRecord:
    """The same for a layer of experts."""

    def __init__(self, layer: Layer, seed: int, first_prompt: int, writer: RunWriter) -> None:
        self.layer = layer
        put = partial(writer.put_routed, layer.layer_id) if writer.keeps_values else None
        self._experts = ExpertLayer(layer, seed, first_prompt, put=put, percentile=writer.beyond)
        self.take_beyond = self._experts.take_beyond

    def begin(self, prompts: PromptRows, layer: LayerValues) -> Callable[[], NDArray[np.float32]]:
        """As of any layer; means are NaN where no token passed the expert."""
        assert layer.experts is not None
        fired = None if layer.fired is None else to_host(layer.fired)
        means = self._experts.add(prompts, to_host(layer.values), fired, to_host(layer.experts))
        return lambda: means

    def snapshot(self, random: RandomTokens) -> LayerSnapshot:
        return self._experts.snapshot()

    def restore(self, tables: RunTables) -> None:
        """Continue from the last segment."""
        self._experts.restore(tables)


def _behind(threads: ThreadPoolExecutor, begun: Iterable[Callable[[], Done]]) -> Iterator[Done]:
    """What each call gives: threads make them, which wait for the GPU, while more are begun, at most ON_THE_WAY."""
    waiting: deque[Future[Done]] = deque()
    try:
        for one in begun:
            if len(waiting) == ON_THE_WAY:
                yield waiting.popleft().result()
            waiting.append(threads.submit(one))
        while waiting:
            yield waiting.popleft().result()
    finally:
        wait(waiting)


def _token_rows(
    prompts: Sequence[RecordedPrompt], first_token: int, first_prompt: int
) -> tuple[TokenRows, TokenRows | None]:
    """The tokens that are recorded, and the others if there are any."""
    sizes = [len(prompt.token_ids) for prompt in prompts]
    position = np.concatenate([np.arange(size, dtype=np.int64) for size in sizes])
    recorded = np.concatenate([prompt.recorded for prompt in prompts])
    rows = TokenRows(
        token_idx=np.where(recorded, first_token + np.cumsum(recorded) - 1, -1).astype(np.int64),
        prompt_idx=np.repeat(np.arange(len(prompts), dtype=np.int64) + first_prompt, sizes),
        position=position,
        token_id=np.concatenate([np.asarray(prompt.token_ids, np.int64) for prompt in prompts]),
        token=[token for prompt in prompts for token in prompt.tokens],
        generated=position >= np.repeat([prompt.prompt_tokens for prompt in prompts], sizes),
        raw=[raw for prompt in prompts for raw in (prompt.raw or [None] * len(prompt.token_ids))],
        role=[role for prompt in prompts for role in (prompt.roles or [None] * len(prompt.token_ids))],
    )
    return (rows, None) if recorded.all() else (rows.take(recorded), rows.take(~recorded))
