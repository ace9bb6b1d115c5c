"""The values that pass between the store and what is built on it. Frozen, so that threads can share them.

Numpy is not imported here: catalogues and clients of a backend have no arrays.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Keep = Literal["all", "stats"]
Precision = Literal["float32", "float16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("float32", "float16", "int8")
Status = Literal["capturing", "complete", "interrupted", "failed"]
Selection = Literal["last", "generated", "all"]
SELECTIONS: tuple[Selection, ...] = ("last", "generated", "all")
Rank = Literal["difference", "effect", "auroc"]
RANKS: tuple[Rank, ...] = ("difference", "effect", "auroc")
RANK_ORDER: dict[Rank, str] = {"difference": "occurrences, then difference", "effect": "effect size", "auroc": "AUROC"}
"""What a trace's table is ordered by, in words (methods §3)."""
RAW_ORDER = "occurrences, then raw mean"
"""The same without a baseline."""
SIGNIFICANT = 0.05
"""The q up to which a neuron of a trace is counted as different from the baseline; it hides none."""

SITES = ("mlp", "shared", "mixer", "attn", "resid")

MLP_SITES = ("mlp", "shared")
"""Those whose neurons are of an MLP."""

CLASSES = ("dead", "saturated", "sporadic", "missing", "weak", "normal")
"""In the order in which the rules of methods §2 are applied."""

ABSENT = "absent"
"""In place of a class: a neuron of an expert that no token of the run was routed to."""

RELU_FAMILY = frozenset({"relu", "relu2", "relu6", "relu_squared"})
"""Activation functions that are exactly 0 where they do not fire: only with these does 0 on every token mean dead."""


def utc_now() -> dt.datetime:
    """Now in UTC, without a zone, as run files store it."""
    return dt.datetime.now(dt.UTC).replace(tzinfo=None)


@dataclass(frozen=True)
class RunInfo:
    """The one row of the table `run`."""

    run_id: str
    name: str
    kind: str  # capture | record | simulated | monitor | arrays
    model: str
    model_type: str
    dtype: str
    device: str
    seed: int
    created_at: dt.datetime  # UTC, without a zone
    finished_at: dt.datetime | None = None
    status: Status = "capturing"
    nfinspect_version: str = ""
    torch_version: str = ""
    transformers_version: str = ""
    schema_version: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Layer:
    """One layer at one site. layer_id numbers them site by site, and layer by layer within a site."""

    layer_id: int
    site: str
    layer: int
    module: str
    neurons: int
    activation: str  # relu, gelu_new, silu …; empty where a site has none (resid, attn)
    fires: str  # positive: a > 0 | gate: gate pre-activation > 0 | scale: |a| >= 0.1 × layer scale
    experts: int = 0  # of a mixture of experts: neuron `expert * width + i` is neuron i of one of them; else 0

    @property
    def width(self) -> int:
        """Neurons of each expert; of the layer where it is no mixture of experts."""
        return self.neurons // self.experts if self.experts else self.neurons


@dataclass(frozen=True)
class Prompt:
    """One prompt of a run with its recorded tokens: token_idx from `first_token` to `first_token + tokens - 1`."""

    prompt_idx: int
    concept: str
    text: str
    first_token: int
    prompt_tokens: int  # how many of these tokens are the prompt's own; the others were generated
    tokens: int


@dataclass(frozen=True)
class TokenRows:
    """Tokens in order: one row each of the table `tokens`, or of `unrecorded`, as columns."""

    token_idx: NDArray[np.int64]  # -1: not recorded
    prompt_idx: NDArray[np.int64]
    position: NDArray[np.int64]
    token_id: NDArray[np.int64]
    token: list[str]
    generated: NDArray[np.bool_]
    raw: list[bytes | None]  # the column `bytes`: of a piece of a character; None where the text is enough
    role: list[str | None]  # of the chat message that the token is in; None where there is none

    def between(self, start: int, stop: int) -> TokenRows:
        """The tokens at the places start <= place < stop."""
        return TokenRows(**{f.name: getattr(self, f.name)[start:stop] for f in fields(self)})

    def take(self, chosen: NDArray[np.bool_]) -> TokenRows:
        """Some of the tokens: bool[tokens]."""
        columns: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, column in columns.items():
            columns[name] = list(compress(column, chosen)) if isinstance(column, list) else column[chosen]
        return TokenRows(**columns)


@dataclass(frozen=True)
class BeyondRows:
    """Some values of one layer, chosen one by one: [values] in every array."""

    layer_id: int
    neuron: NDArray[np.int32]
    token_idx: NDArray[np.int64]
    value: NDArray[np.float32]


@dataclass(frozen=True)
class MeanRows:
    """Means of prompts in one layer, each over a selection of a prompt's tokens: one entry per mean in every field."""

    layer_id: int  # of all of them
    prompt_idx: NDArray[np.int64]
    selection: Sequence[Selection]
    n: NDArray[np.int64]  # tokens
    values: NDArray[np.float32]  # [means, neurons]; NaN where none of these tokens passed the neuron's expert
    absent: bool = False  # whether there may be NaN


@dataclass(frozen=True)
class PromptMeans:
    """Each prompt's mean activation over a selection of its tokens, without position 0.

    Prompts that have no such token are absent. The columns of `values` are the neurons of the site, in layer order.
    NaN: none of the tokens was routed to the neuron's expert; the mean of such a neuron is over those that were.
    """

    prompt_idx: NDArray[np.int64]  # [prompts]
    concept: NDArray[np.str_]  # [prompts]
    values: NDArray[np.float32]  # [prompts, neurons of the site]


@dataclass(frozen=True)
class NeuronIndex:
    """The neuron of each column of a site-wide array."""

    layer: NDArray[np.int64]  # [neurons of the site]
    neuron: NDArray[np.int64]


@dataclass(frozen=True)
class Example:
    """A neuron's value on a token. kind: top | min | random."""

    kind: str
    token_idx: int
    value: float


@dataclass(frozen=True)
class Progress:
    """What the heartbeat file of a running capture says."""

    pid: int
    host: str
    started_at: float  # seconds since the epoch
    updated_at: float
    tokens_done: int
    tokens_total: int | None
    tokens_per_second: float
    bytes: int
    phase: str  # loading | generating | reading | finishing
    alive: bool = False  # set by the reader: whether the process still runs
    edits: str = ""  # of the model, in one line


@dataclass(frozen=True)
class RunEntry:
    """One line of the list of runs. Facts that are unknown, as of an unreadable file, are None or empty."""

    name: str
    path: Path
    status: str  # capturing | complete | interrupted | failed; empty where unknown
    model: str
    created_at: dt.datetime | None  # UTC, without a zone
    tokens: int | None
    bytes: int
    progress: Progress | None  # of a capture that is running
    problem: str | None = None  # why the file cannot be read as a run, in one line
    kind: str = "run"  # run | history (of a training that is watched)
    edits: str = ""  # of the model that it was captured with, in one line
    parts: tuple[str, ...] = ()  # in which its values are, each a path from the folder of the run
