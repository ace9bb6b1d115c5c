"""All that the app asks of the store and the analyses, as one small protocol, so that panes are tested
without either.

Every method may be called from any worker thread, may block, and raises NfinspectError for whatever a user
can meet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from nfinspect.analyses.kind_overlap import KindOverlap
    from nfinspect.analysis.health import NetworkReport
    from nfinspect.analysis.history import LiveHistory
    from nfinspect.analysis.neuron import NeuronDetail
    from nfinspect.analysis.neurons import NeuronPage
    from nfinspect.analysis.overlap import Overlap
    from nfinspect.analysis.trace import Trace
    from nfinspect_store.addresses import Address
    from nfinspect_store.results import Result
    from nfinspect_store.types import Layer, Progress, RunEntry, RunInfo

CLASSES = ("dead", "saturated", "sporadic", "missing", "weak", "normal")
RANKS = ("difference", "effect", "auroc")


@dataclass(frozen=True)
class NeuronQuery:
    """Which neurons a list holds, and in which order."""

    site: str
    cls: str | None = None
    layer: int | None = None
    sort: str = "max"
    descending: bool = True
    filter: str | None = None


@dataclass(frozen=True)
class TraceRequest:
    """What a trace, and each side of an overlap, is made from.

    `tokens` None: what the run has (methods §3).
    """

    site: str
    concept: str
    baseline: str | None
    tokens: str | None = None
    top: int = 10
    rank: str = "difference"


class SqlResult(Protocol):
    """A checked statement whose rows are computed page by page; its methods block like the session's."""

    @property
    def columns(self) -> Sequence[SqlColumn]: ...
    @property
    def rows(self) -> int | None: ...
    def count(self) -> int: ...
    def page(self, offset: int = 0, limit: int = 100) -> list[tuple[Any, ...]]: ...
    def __iter__(self) -> Iterator[tuple[Any, ...]]: ...


class SqlColumn(Protocol):
    """A column of a result, with DuckDB's name for its type."""

    @property
    def name(self) -> str: ...
    @property
    def type(self) -> str: ...


class Session(Protocol):
    """One open run."""

    name: str
    info: RunInfo
    layers: tuple[Layer, ...]
    sites: tuple[str, ...]
    default_site: str
    concepts: tuple[str, ...]
    tokens: int
    prompts: int
    has_values: bool
    has_generated: bool
    results_folder: Path

    def health(self, site: str) -> NetworkReport: ...
    def neurons(self, query: NeuronQuery, offset: int, limit: int) -> NeuronPage: ...
    def neuron(self, address: Address) -> NeuronDetail: ...
    def trace(self, request: TraceRequest) -> Trace: ...
    def overlap(self, request: TraceRequest, concepts: tuple[str, ...]) -> Overlap: ...
    def prompt(self, prompt_idx: int, address: Address) -> PromptReading: ...
    def texts(self, most: int) -> tuple[PromptText, ...]: ...
    def results(self, kind: str | None = None) -> tuple[Result, ...]: ...
    def kinds(self, site: str) -> KindOverlap | None: ...
    def write_inputs(self, arguments: Sequence[str], marked: Sequence[str]) -> None: ...
    def sql(self, statement: str) -> SqlResult: ...
    def sql_tables(self) -> Mapping[str, tuple[str, ...]]: ...
    def warm_up(self) -> None: ...
    def interrupt(self) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class PromptText:
    """The text of one of the run's prompts."""

    prompt_idx: int
    concept: str
    text: str


@dataclass(frozen=True)
class PromptReading:
    """A whole prompt as one neuron read it. `values` is empty where the run keeps no values.

    pieces: the text, cut into one piece for each token; tokens: the whole characters that each has a part of.
    """

    prompt_idx: int
    concept: str
    pieces: tuple[str, ...]
    tokens: tuple[str, ...]
    generated: tuple[bool, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class JobState:
    """How far a command is. line: what it said last; status: its exit status, None while it runs."""

    line: str = ""
    seconds: float = 0.0
    status: int | None = None
    cancelled: bool = False


class Job(Protocol):
    """A command under way. Its methods return at once; output: what it has printed, once it has ended."""

    def state(self) -> JobState: ...
    def cancel(self) -> None: ...
    def output(self) -> str: ...


class Engine(Protocol):
    """One store."""

    store: Path

    def runs(self) -> tuple[RunEntry, ...]: ...
    def progress(self, run: str) -> Progress | None: ...
    def open(self, run: str) -> Session: ...
    def delete(self, run: str) -> None: ...
    def history(self, run: str) -> LiveHistory: ...
    def delete_history(self, run: str) -> None: ...
    def start(self, arguments: Sequence[str]) -> Job: ...
    def close(self) -> None: ...
