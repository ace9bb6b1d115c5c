"""Runs one batch of sequences through the model and reads every layer's values on every real token.

In two ways that agree within rounding. Replay: generate without hooks at full speed, then one teacher-forced pass over
the finished sequences. Live: hooks in every decoding step. Either way the values of a sequence are those of one
unpadded pass over it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nfinspect.capturing.mamba_delta import DeltaReader, with_delta
from nfinspect.capturing.recorder import LayerValues
from nfinspect.capturing.transfer import to_workplace
from nfinspect.models import LayerSite, LoadedModel, SiteReader, body, forward_batch

Values = dict[int, LayerValues]
"""By layer_id: all tokens of a batch, one sequence after the other, without padding."""


@dataclass(frozen=True)
class _Part:
    """One layer's values from one pass: [tokens, neurons], or [batch, tokens, neurons] from a step of a generation."""

    values: Tensor
    fired: Tensor | None


class BatchReader:
    """Reads batches through hooks that are attached only while it reads: generation before a replay has none."""

    def __init__(self, loaded: LoadedModel, sites: Sequence[LayerSite], device: torch.device) -> None:
        """device: where statistics are computed, to which the values are moved."""
        self._loaded = loaded
        self._device = device
        self._ids = {site: layer_id for layer_id, site in enumerate(sites)}
        self._reader = SiteReader(loaded.model, sites, self._take)
        self._delta = DeltaReader(loaded.model, sites)
        self._rows: Tensor | None = None
        self._values: Values = {}
        self._steps: dict[int, list[_Part]] = {}

    def replay(self, sequences: Sequence[Sequence[int]], padding_side: str = "right") -> Values:
        """Values of finished sequences, from one forward pass."""
        model = self._loaded.model
        batch = forward_batch(model, sequences, pad_id=self._loaded.pad_id, padding_side=padding_side)
        width = batch.input_ids.shape[1]
        device = batch.input_ids.device
        self._values = {}
        self._rows = _rows([batch.columns(i) for i in range(len(sequences))], width).to(device)
        with self._reader, self._delta, torch.inference_mode():
            self._delta.begin()
            self._reader.begin(len(sequences), width, batch.valid)
            body(model)(**batch.inputs())
            self._reader.end()
            moments = self._delta.moments(batch.input_ids, batch.valid)
        values, self._values = self._values, {}
        return with_delta(values, moments)

    def live(
        self, generate: Callable[[], list[list[int]]], prompts: Sequence[Sequence[int]]
    ) -> tuple[list[list[int]], Values]:
        """The sequences that `generate` makes of `prompts`, padded on the left, and the values from all its passes."""
        width = max(len(prompt) for prompt in prompts)
        valid = torch.stack([torch.arange(width) >= width - len(prompt) for prompt in prompts])
        model = body(self._loaded.model)

        def before(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            # A multimodal model passes embeddings to its text part.
            given = args[0] if args else kwargs.get("input_ids")
            batch, tokens = (given if given is not None else kwargs["inputs_embeds"]).shape[:2]
            self._reader.begin(batch, tokens, valid if tokens == width else None)

        def after(module: nn.Module, args: object, output: object) -> None:
            self._reader.end()

        self._steps, self._rows = {}, None
        handles = [
            model.register_forward_pre_hook(before, with_kwargs=True),
            model.register_forward_hook(after),
        ]
        self._delta.begin()
        try:
            with self._reader, self._delta:
                sequences = generate()
        finally:
            for handle in handles:
                handle.remove()
        places = [
            slice(width - len(prompt), width - len(prompt) + len(sequence))
            for prompt, sequence in zip(prompts, sequences, strict=True)
        ]
        steps, self._steps = self._steps, {}
        values = {layer_id: self._placed(_joined(parts, places)) for layer_id, parts in steps.items()}
        return sequences, with_delta(values, self._delta.moments_of(sequences, places))

    def _take(self, site: LayerSite, values: Tensor, fired: Tensor | None) -> None:
        """Copies what a hook saw, as the model goes on using the memory."""
        layer_id = self._ids[site]
        if self._rows is None:
            part = _Part(values.clone(), None if fired is None else fired.clone())
            self._steps.setdefault(layer_id, []).append(part)
        else:
            self._values[layer_id] = self._placed(
                _Part(self._real(values), None if fired is None else self._real(fired))
            )

    def _placed(self, part: _Part) -> LayerValues:
        fired = None if part.fired is None else to_workplace(part.fired, self._device)
        return LayerValues(to_workplace(part.values.float(), self._device), fired)

    def _real(self, values: Tensor) -> Tensor:
        """[batch, tokens, neurons] -> a copy of the real tokens' values, [tokens, neurons]."""
        assert self._rows is not None
        return values.reshape(-1, values.shape[-1]).index_select(0, self._rows)


def _rows(columns: Sequence[slice], width: int) -> Tensor:
    """Indices of the real tokens in a [batch · width] layout, sequence after sequence."""
    return torch.cat([torch.arange(i * width + c.start, i * width + c.stop) for i, c in enumerate(columns)])


def _joined(parts: Sequence[_Part], places: Sequence[slice]) -> _Part:
    """Steps of a generation, [batch, tokens, neurons] each, concatenated to [tokens of all sequences, neurons]."""

    def joined(tensors: list[Tensor]) -> Tensor:
        whole = torch.cat(tensors, dim=1)
        return torch.cat([whole[i, place] for i, place in enumerate(places)])

    fired = [part.fired for part in parts if part.fired is not None]
    return _Part(joined([part.values for part in parts]), joined(fired) if fired else None)
