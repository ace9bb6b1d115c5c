"""The values that pass between the store and what is built on it. Frozen, so that a thread may hand them to another."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Keep = Literal["all", "stats"]
Status = Literal["capturing", "complete", "interrupted", "failed"]
Selection = Literal["last", "generated", "all"]
SELECTIONS: tuple[Selection, ...] = ("last", "generated", "all")
Rank = Literal["difference", "effect", "auroc"]
RANKS: tuple[Rank, ...] = ("difference", "effect", "auroc")
SITES = ("mlp", "mixer", "attn", "resid")

CLASSES = ("dead", "saturated", "sporadic", "missing", "weak", "normal")
"""In the order of the rules."""

RELU_FAMILY = frozenset({"relu", "relu2", "relu6", "relu_squared"})
"""Activations that are exactly 0 off their region: only for these does 0 on every token mean dead."""


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
    """One layer at one site, in the order in which layer_id counts (sites in order, then layers)."""

    layer_id: int
    site: str
    layer: int
    module: str
    neurons: int
    activation: str  # relu, gelu_new, silu …; empty where a site has none (resid, attn)
    fires: str  # positive: a > 0 | gate: gate pre-activation > 0 | scale: |a| >= 0.1 × layer scale


@dataclass(frozen=True)
class Prompt:
    """One prompt of a run with its tokens: token_idx from `first_token` to `first_token + tokens - 1`."""

    prompt_idx: int
    concept: str
    text: str
    first_token: int
    prompt_tokens: int  # how many of its tokens were read, the others were generated
    tokens: int


@dataclass(frozen=True)
class TokenRows:
    """Tokens in the order of their index: one row each of the table `tokens`, as columns."""

    token_idx: NDArray[np.int64]
    prompt_idx: NDArray[np.int64]
    position: NDArray[np.int64]
    token_id: NDArray[np.int64]
    token: list[str]
    generated: NDArray[np.bool_]
    raw: list[bytes | None]  # the column `bytes`: of a piece of a character; None where the text says all
    role: list[str | None]  # whose message of a chat it stands in; None where the prompt is no chat


@dataclass(frozen=True)
class PromptMean:
    """One prompt's mean over a selection of its `n` tokens in one layer: float32[neurons]."""

    layer_id: int
    prompt_idx: int
    selection: Selection
    n: int
    values: NDArray[np.float32]


@dataclass(frozen=True)
class PromptMeans:
    """Each prompt's mean activation over a selection of its tokens, position 0 left out.

    Prompts that have no such token are absent. `values` has the site's layers side by side, in the order of `layers`.
    """

    prompt_idx: NDArray[np.int64]  # [prompts]
    concept: NDArray[np.str_]  # [prompts]
    values: NDArray[np.float32]  # [prompts, neurons of the site]


@dataclass(frozen=True)
class NeuronIndex:
    """Which neuron stands in which column of a site-wide array."""

    layer: NDArray[np.int64]  # [neurons of the site]
    neuron: NDArray[np.int64]


@dataclass(frozen=True)
class Example:
    """A token on which a neuron was read. kind: top | min | random."""

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
    alive: bool = False  # filled in by the reader: is that process there?


@dataclass(frozen=True)
class RunEntry:
    """One line of the list of runs. Unknown facts of a file that cannot be read are None or empty."""

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
