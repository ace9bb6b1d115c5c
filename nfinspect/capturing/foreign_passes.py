"""Recording the forward passes of other people's code: each row of input_ids becomes a prompt."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nfinspect.capturing.errors import CaptureError
from nfinspect.capturing.expert_record import CPU
from nfinspect.capturing.left_padding import note_on_left_padding
from nfinspect.capturing.mamba_delta import DeltaReader, with_delta
from nfinspect.capturing.recorder import LayerValues, RecordedPrompt, Recorder
from nfinspect.capturing.transfer import Array, to_workplace, workplace
from nfinspect.models import LayerSite, Routing, SiteReader, TokenTexts, body, one_line, run_as_python, uncompiled
from nfinspect_store.token_text import whole_text


@contextmanager
def recorded_passes(
    model: nn.Module,
    sites: Sequence[LayerSite],
    recorder: Recorder,
    texts: TokenTexts,
    concept: str,
    tell: Callable[[], None],
) -> Iterator["_Passes"]:
    """Inside this context every forward pass of `model` is recorded. Raises, inside the pass, what SiteReader raises.

    attention_mask says which tokens are real. A pass that continues from a cache is refused with CaptureError: its
    tokens alone are not a sequence. Compiled code runs as plain Python. tell: called after each pass is recorded. The
    yielded object has its `note`, if any, when the context ends.
    """
    passes = _Passes(sites, recorder, texts, concept, tell)
    inner = body(model)
    passes.names = list(inspect.signature(uncompiled(inner).forward).parameters)
    reader = SiteReader(model, sites, passes.take, routing=passes.route)
    with reader as passes.reader, DeltaReader(model, sites) as passes.delta:
        handles = [
            inner.register_forward_pre_hook(passes.before, with_kwargs=True),
            inner.register_forward_hook(passes.after),
        ]
        try:
            with run_as_python():
                yield passes
        finally:
            for handle in handles:
                handle.remove()
    if passes.left_padded is not None:
        passes.note = _note(model, *passes.left_padded, takes_positions="position_ids" in passes.names)


def _note(model: nn.Module, token_ids: list[int], pads: int, *, takes_positions: bool) -> str | None:
    try:
        with run_as_python():
            return note_on_left_padding(model, token_ids, pads, takes_positions=takes_positions)
    except Exception as error:  # an extra pass that fails must cost a note, not what was recorded
        return (
            "left-padded rows were recorded as the model read them; whether that is what it makes of a lone prompt is "
            f"not known: it could not be asked ({one_line(error)})"
        )


class _Passes:
    """One pass at a time: announced before it runs, recorded after."""

    reader: SiteReader
    delta: DeltaReader
    names: list[str]

    def __init__(
        self,
        sites: Sequence[LayerSite],
        recorder: Recorder,
        texts: TokenTexts,
        concept: str,
        tell: Callable[[], None],
    ) -> None:
        self._tell = tell
        self._ids = {site: layer_id for layer_id, site in enumerate(sites)}
        self._recorder = recorder
        self._texts = texts
        self._concept = concept
        self._input_ids = torch.empty(0)
        self._valid = torch.empty(0)
        self._real = torch.empty(0)
        """Indices of the tokens that are no padding in the flat layout, int64[tokens]."""
        self._values: dict[int, LayerValues] = {}
        self._routed: Tensor | None = None  # of the site that is taken next
        self.left_padded: tuple[list[int], int] | None = None
        """Of the first left-padded row without position_ids: its ids, and the amount of padding."""
        self.note: str | None = None
        """What the user should know about the recording."""

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = {**dict(zip(self.names, args, strict=False)), **kwargs}
        ids = given.get("input_ids")
        if ids is None:
            raise CaptureError("expected a forward pass over input_ids, found one over embeddings: pass token ids")
        mask = given.get("attention_mask")
        if _goes_on(given) or (mask is not None and mask.shape != ids.shape):
            raise CaptureError(
                "expected forward passes over whole sequences, found a decoding step that continues from a cache: "
                "record generations with nfinspect.capture(…, generate=N)"
            )
        self._input_ids = ids.detach()
        self._valid = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        self._real = self._valid.reshape(-1).nonzero()[:, 0]  # once: it waits for the device
        self._values = {}
        if self.left_padded is None and given.get("position_ids") is None:
            self.left_padded = _first_left_padded(self._input_ids, self._valid)
        batch, tokens = ids.shape
        self.delta.begin()
        self.reader.begin(batch, tokens, self._valid)

    def route(self, site: LayerSite, routing: Routing) -> None:
        self._routed = routing.experts

    def take(self, site: LayerSite, values: Tensor, fired: Tensor | None) -> None:
        experts, self._routed = self._routed, None
        place = workplace(values) if experts is None else CPU

        def taken(tensor: Tensor) -> Array:
            rows = tensor.reshape(-1, tensor.shape[-1]).index_select(0, self._real.to(tensor.device))
            return to_workplace(rows, place)

        self._values[self._ids[site]] = LayerValues(
            taken(values.float()),
            None if fired is None else taken(fired),
            experts=None if experts is None else taken(experts),
        )

    def after(self, module: nn.Module, args: object, output: object) -> None:
        self.reader.end()
        rows = [ids[valid].tolist() for ids, valid in zip(self._input_ids, self._valid, strict=True)]
        prompts = []
        for row in rows:
            words = self._texts.pieces(row)
            text = whole_text(words.texts, words.raw).text
            prompts.append(RecordedPrompt(self._concept, text, row, words.texts, prompt_tokens=len(row), raw=words.raw))
        values = with_delta(self._values, self.delta.moments(self._input_ids, self._valid))
        self._recorder.add([p for p in prompts if p.token_ids], values)
        self._tell()
        self._values = {}


def _first_left_padded(ids: Tensor, valid: Tensor) -> tuple[list[int], int] | None:
    rows = (valid.any(-1) & ~valid[:, 0]).nonzero()
    if not len(rows):
        return None
    row = int(rows[0])
    return ids[row][valid[row]].tolist(), int(valid[row].int().argmax())


def _goes_on(given: dict[str, Any]) -> bool:
    cache = given.get("past_key_values")
    length = getattr(cache, "get_seq_length", lambda: 0)()
    return bool(length) or given.get("cache_params") is not None
