"""Runs one batch of sequences through the model and reads every layer's values on every real token.

In two ways that agree within rounding. Replay: generate without hooks at full speed, then one teacher-forced pass over
the finished sequences. Live: hooks in every decoding step. Either way the values of a sequence are those of one
unpadded pass over it.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nfinspect.capturing.compiled_steps import CompiledSteps
from nfinspect.capturing.expert_record import CPU
from nfinspect.capturing.mamba_delta import DeltaReader, with_delta
from nfinspect.capturing.recorder import LayerValues
from nfinspect.capturing.transfer import to_workplace, workplace
from nfinspect.models import (
    LayerSite,
    LoadedModel,
    Routing,
    SiteReader,
    StepBuffers,
    body,
    embedding_device,
    forward_batch,
    to_device,
)

Values = dict[int, LayerValues]
"""By layer_id: the recorded tokens of a batch, one sequence after the other, without padding."""

Chosen = Sequence[NDArray[np.bool_]] | None
"""Which tokens of each sequence are recorded, bool[tokens or more]; None: all of them."""


@dataclass(frozen=True)
class _Part:
    """One layer's values from one pass: [tokens, neurons], or [batch, tokens, neurons] from a step of a generation."""

    values: Tensor
    fired: Tensor | None
    experts: Tensor | None = None  # of a mixture of experts: which of them the values are of, [… chosen]


class BatchReader:
    """Reads batches through hooks that are attached only while it reads: generation before a replay has none."""

    def __init__(self, loaded: LoadedModel, sites: Sequence[LayerSite], edits: str = "") -> None:
        """edits: those in force while it reads, in words."""
        self._loaded = loaded
        self._ids = {site: layer_id for layer_id, site in enumerate(sites)}
        self._reader = SiteReader(loaded.model, sites, self._take, routing=self._route, edits=edits)
        self._delta = DeltaReader(loaded.model, sites)
        self._rows: Tensor | None = None
        self._routed: Tensor | None = None  # of the site that is taken next
        self._values: Values = {}
        self._steps: dict[int, list[_Part]] | None = None
        self._in_prompts = False
        self._reads_steps = True

    @property
    def reads_in_graphs(self) -> bool:
        """Whether what it reads in a decoding step could be read in a compiled one: no expert, no step size Δ."""
        return not self._delta.reads and not any(site.experts for site in self._ids)

    def replay(self, sequences: Sequence[Sequence[int]], padding_side: str = "right", chosen: Chosen = None) -> Values:
        """Values of finished sequences, from one forward pass."""
        model = self._loaded.model
        batch = forward_batch(model, sequences, pad_id=self._loaded.pad_id, padding_side=padding_side)
        width = batch.input_ids.shape[1]
        device = batch.input_ids.device
        self._values, self._steps = {}, None
        columns = [batch.columns(i) for i in range(len(sequences))]
        self._rows = to_device(_rows(columns, width, chosen), device)
        with self._reader, self._delta, torch.inference_mode():
            self._delta.begin()
            self._reader.begin(len(sequences), width, batch.valid)
            body(model)(**batch.inputs())
            self._reader.end()
            kept = None if chosen is None else _marked(self._rows, batch.valid)
            moments = self._delta.moments(batch.input_ids, batch.valid, kept)
        values, self._values = self._values, {}
        return with_delta(values, moments)

    def live(
        self,
        generate: Callable[[], list[list[int]]],
        prompts: Sequence[Sequence[int]],
        chosen: Chosen = None,
        compiled: CompiledSteps | None = None,
    ) -> tuple[list[list[int]], Values]:
        """The sequences that `generate` makes of `prompts`, padded on the left, and the values from all its passes.

        compiled: what `generate` decodes with: its buffers are then read, and hooks read the prompts alone.
        """
        width = max(len(prompt) for prompt in prompts)
        valid = torch.stack([torch.arange(width) >= width - len(prompt) for prompt in prompts])
        model = body(self._loaded.model)
        of_prompts = [slice(width - len(prompt), width) for prompt in prompts]
        self._rows = to_device(_rows(of_prompts, width, chosen), embedding_device(self._loaded.model))
        self._steps, self._in_prompts = {}, True
        self._reads_steps = chosen is None or any(
            one[len(prompt) :].any() for one, prompt in zip(chosen, prompts, strict=True)
        )

        def before(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            # A multimodal model passes embeddings to its text part.
            given = args[0] if args else kwargs.get("input_ids")
            batch, tokens = (given if given is not None else kwargs["inputs_embeds"]).shape[:2]
            self._reader.begin(batch, tokens, valid if self._in_prompts and tokens == width else None)

        def after(module: nn.Module, args: object, output: object) -> None:
            self._reader.end(settle=False)  # nothing waits for the device in a step
            self._in_prompts = False

        self._delta.begin()
        with ExitStack() as hooks:
            hooks.enter_context(self._reader)
            hooks.enter_context(self._delta)
            hooks.callback(model.register_forward_pre_hook(before, with_kwargs=True).remove)
            hooks.callback(model.register_forward_hook(after).remove)

            def prompts_read() -> None:
                assert compiled is not None and self._steps is not None
                self._reader.settle()
                hooks.close()
                like = {site: self._steps[layer_id][0].values for site, layer_id in self._ids.items()}
                compiled.buffers.attach(len(prompts), like)

            with nullcontext() if compiled is None else compiled.before_first(prompts_read):
                sequences = generate()
            self._reader.settle()
        if compiled is not None:
            self._read_buffers(compiled.buffers)
        written = [len(sequence) - len(prompt) for prompt, sequence in zip(prompts, sequences, strict=True)]
        kept = chosen or [np.ones(len(sequence), np.bool_) for sequence in sequences]
        recorded = [
            (int(one[: len(prompt)].sum()), np.flatnonzero(one[len(prompt) :][:new]))
            for one, prompt, new in zip(kept, prompts, written, strict=True)
        ]
        steps, self._steps = self._steps, None
        # Layer by layer, so that the steps and what is made of them are not all in memory at once.
        values = {layer_id: self._placed(_joined(steps.pop(layer_id), recorded)) for layer_id in list(steps)}
        places = [slice(of.start, width + new) for of, new in zip(of_prompts, written, strict=True)]
        return sequences, with_delta(values, self._delta.moments_of(sequences, places, chosen))

    def _read_buffers(self, buffers: StepBuffers) -> None:
        """Take the steps' values, all steps as one part."""
        buffers.settle()
        assert self._steps is not None
        for site, layer_id in self._ids.items() if buffers.steps and self._reads_steps else ():
            self._steps[layer_id].append(_Part(*buffers.take(site)))

    def _route(self, site: LayerSite, routing: Routing) -> None:
        self._routed = routing.experts

    def _take(self, site: LayerSite, values: Tensor, fired: Tensor | None) -> None:
        """Copies what a hook saw, as the model goes on using the memory."""
        layer_id = self._ids[site]
        experts, self._routed = self._routed, None
        part = _Part(values, fired, experts)
        if self._steps is None:
            self._values[layer_id] = self._placed(self._chosen(part))
        elif self._in_prompts:
            self._steps[layer_id] = [self._chosen(part)]
        elif self._reads_steps:
            self._steps[layer_id].append(_each(torch.clone, part))

    def _placed(self, part: _Part) -> LayerValues:
        """Where its statistics are computed: on a GPU, in the precision in which the layer was computed there."""
        place = workplace(part.values) if part.experts is None else CPU
        fired, experts = (None if x is None else to_workplace(x, place) for x in (part.fired, part.experts))
        values = part.values.float() if place.type == "cpu" else part.values
        return LayerValues(to_workplace(values, place), fired, experts=experts)

    def _chosen(self, part: _Part) -> _Part:
        """[batch, tokens, neurons] -> a copy of the recorded tokens' values, [tokens, neurons]."""
        rows = self._rows
        assert rows is not None

        def taken(tensor: Tensor) -> Tensor:
            return tensor.reshape(-1, tensor.shape[-1]).index_select(0, rows.to(tensor.device))

        return _each(taken, part)


def _each(change: Callable[[Tensor], Tensor], part: _Part) -> _Part:
    """The same change of all its tensors."""
    fired, experts = (None if x is None else change(x) for x in (part.fired, part.experts))
    return _Part(change(part.values), fired, experts)


def _rows(columns: Sequence[slice], width: int, chosen: Chosen) -> Tensor:
    """Indices of the recorded tokens in a [batch · width] layout, sequence after sequence."""
    rows = [torch.arange(i * width + c.start, i * width + c.stop) for i, c in enumerate(columns)]
    if chosen is not None:
        rows = [row[torch.from_numpy(one[: len(row)])] for row, one in zip(rows, chosen, strict=True)]
    return torch.cat(rows)


def _marked(rows: Tensor, like: Tensor) -> Tensor:
    """bool of the shape of `like`, [batch, width], true at these indices of its flat layout."""
    marked = torch.zeros(like.numel(), dtype=torch.bool, device=like.device)
    marked[rows] = True
    return marked.reshape(like.shape)


def _joined(parts: Sequence[_Part], recorded: Sequence[tuple[int, NDArray[np.int64]]]) -> _Part:
    """The prompts' values, [their recorded tokens, neurons], and those of the steps, [batch, 1, neurons] each, as
    [tokens of all sequences, neurons]. recorded: of each sequence, how many of the prompt's tokens and which steps.
    """

    def joined(tensors: list[Tensor]) -> Tensor:
        of_prompts = torch.split(tensors[0], [number for number, _ in recorded])
        if len(tensors) == 1:
            return torch.cat(of_prompts)
        steps = torch.cat(tensors[1:], dim=1)
        pairs = enumerate(zip(of_prompts, recorded, strict=True))
        return torch.cat([one for i, (own, (_, new)) in pairs for one in (own, _rows_of(steps[i], new))])

    fired = [part.fired for part in parts if part.fired is not None]
    experts = [part.experts for part in parts if part.experts is not None]
    values = joined([part.values for part in parts])
    return _Part(values, joined(fired) if fired else None, joined(experts) if experts else None)


def _rows_of(steps: Tensor, chosen: NDArray[np.int64]) -> Tensor:
    """The chosen rows of [steps, neurons], in order; a view if they are the first ones, as they mostly are."""
    first = len(chosen) == 0 or chosen[-1] == len(chosen) - 1
    return steps[: len(chosen)] if first else steps[torch.from_numpy(chosen)]
