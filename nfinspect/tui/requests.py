"""What the app asks of a run, and what it gets if the analyses have no type for it. Quick to import."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nfinspect.analysis.classes import HealthOptions
    from nfinspect_store.types import Progress, Rank

Completer = Callable[[str], tuple[str, Sequence[str]]]
"""What Tab offers: from the text before the cursor its unfinished end, and what can stand in the place of that."""

MARKED = "marked.txt"
"""The file among a run's results that lists the marked neurons, for a command that reads neurons."""


@dataclass(frozen=True)
class NeuronQuery:
    """Which neurons a list holds, and in which order. options: the thresholds of the classes, None for the defaults."""

    site: str
    cls: str | None = None
    layer: int | None = None
    sort: str = "max"
    descending: bool = True
    filter: str | None = None
    options: HealthOptions | None = None


@dataclass(frozen=True)
class TraceRequest:
    """What a trace, and each side of an overlap, is computed from. tokens: None for the default (methods §3)."""

    site: str
    concept: str
    baseline: str | None
    tokens: str | None = None
    top: int = 10
    rank: Rank = "difference"


@dataclass(frozen=True)
class PromptText:
    """The text of one of the run's prompts."""

    prompt_idx: int
    concept: str
    text: str


@dataclass(frozen=True)
class Standing:
    """How far a run under way is. commits: that have been made, None once its capture has ended; tokens: that are
    committed.
    """

    progress: Progress | None
    commits: int | None
    tokens: int


@dataclass(frozen=True)
class JobState:
    """How far a command is. line: what it said last; status: its exit status, None while it runs."""

    line: str = ""
    seconds: float = 0.0
    status: int | None = None
    cancelled: bool = False
