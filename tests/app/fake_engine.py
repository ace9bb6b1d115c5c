"""A small engine with known answers, so that the app's behaviour is tested without a store."""

import datetime as dt
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from nfinspect.analyses.analysis_spec import AnalysisSpec
from nfinspect.analysis.health import NetworkReport, report_of_layers
from nfinspect.analysis.neuron import ConceptMean, ExampleText, NeuronDetail, NeuronHistogram, WindowToken
from nfinspect.analysis.neuron_examples import QuantileExamples
from nfinspect.analysis.neurons import NeuronPage, NeuronRow
from nfinspect.analysis.overlap import Overlap, Pair, RankedNeuron, SharedNeuron
from nfinspect.analysis.prompt_text import TextPart
from nfinspect.analysis.scores import make_layer_health
from nfinspect.analysis.token_neurons import AtToken, LayerAtToken, TokenNeuron
from nfinspect.analysis.trace import Trace, TraceRow
from nfinspect.tui.requests import JobState, NeuronQuery, PromptText, TraceRequest
from nfinspect.tui.walking import Opened, Strengths, WalkPrompt
from nfinspect_store.console import Table
from nfinspect_store.errors import NotARun, QueryError, RequestError, RunBusy
from nfinspect_store.marks_file import MarksFile
from nfinspect_store.token_text import whole_text
from nfinspect_store.types import CLASSES, Layer, Progress, RunEntry, RunInfo, TokenRows

HOSTILE = "\x1b[31mred\x1b[0m [/red] \u202eabc\u200b\x07 漢"
CREATED = dt.datetime(2026, 11, 20, 12, 30)


def entry(name: str, **changes: Any) -> RunEntry:
    values: dict[str, Any] = {
        "path": Path(f"/store/{name}.duckdb"),
        "status": "complete",
        "model": "gpt2",
        "created_at": CREATED,
        "tokens": 12_345,
        "bytes": 40_000_000,
        "progress": None,
        "problem": None,
    }
    return RunEntry(name, **{**values, **changes})


def progress(done: int = 430, total: int | None = 1000) -> Progress:
    now = time.time()
    return Progress(4711, "gpubox", now - 60, now, done, total, 10.0, 5_000_000, "reading", True)


def row(layer: int, neuron: int, cls: str = "normal", site: str = "mlp") -> NeuronRow:
    value = 10.0 - neuron / 20_000
    return NeuronRow(site, layer, neuron, 500, 0.5, 1.0, 0.0, value, 0.5, 0.25, cls, 0.9, 1.5, 3.0, False, None, False)


def example(value: float, token: str = " tulip", prompt_idx: int = 0, start: int = 0) -> ExampleText:
    words = [" the", " red", token, " fields", " of", " Holland"]
    ends = [0, *accumulate(map(len, words))]
    window = tuple(
        WindowToken(i, start + i, w, i > 3, value if i == 2 else 0.1 * i, ends[i], ends[i + 1])
        for i, w in enumerate(words)
    )
    return ExampleText(2, prompt_idx, "tulip", 2, token, value, "".join(words), window, 2)


class FakeResult:
    """A result of `total` rows (i, "row i")."""

    sql = "SELECT i, text FROM rows"

    def __init__(self, total: int) -> None:
        self.columns = (FakeColumn("i", "BIGINT"), FakeColumn("text", "VARCHAR"))
        self._total = total

    @property
    def rows(self) -> int | None:
        return self._total

    def count(self) -> int:
        return self._total

    def page(self, offset: int = 0, limit: int = 100) -> list[tuple[Any, ...]]:
        return [(i, f"row {i}") for i in range(offset, min(self._total, offset + limit))]

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self.page(0, self._total))


@dataclass(frozen=True)
class FakeColumn:
    name: str
    type: str  # noqa: A003


@dataclass
class FakeWalk:
    """Prompts of three tokens, the last of them generated. The token in the middle sets everything off."""

    token: str
    prompts: int

    def beginning(self, prompt_idx: int) -> Opened:
        return Opened(WalkPrompt(prompt_idx, "tulip", 3), 0, {0: self.part(prompt_idx, 0)})

    def find(self, wanted: str) -> Opened:
        raise RequestError(f"found {wanted!r} in no prompt")

    def at_token(self, token_idx: int) -> Opened:
        return replace(self.beginning(0), place=1)

    def part(self, prompt_idx: int, number: int) -> TextPart:
        tokens, places = [" the", self.token, " x"], np.arange(3)
        none = [None] * 3
        rows = TokenRows(
            places + 3 * prompt_idx, places * 0 + prompt_idx, places, places, tokens, places == 2, none, none
        )
        return TextPart(prompt_idx, 0, rows, whole_text(tokens, none))

    def at(self, site: str, token_idx: int, rank: Any, top: int, layer: int | None, *, histograms: bool) -> AtToken:
        neurons = tuple(TokenNeuron(site, 3, 100 + i, 9.0 - i, 5.0 - i, 99.95, None) for i in range(4))
        return AtToken(token_idx, rank, neurons, tuple(LayerAtToken(i, 1.0 + i) for i in range(4)), 4, False)

    def strengths(self, colouring: Any, part: TextPart) -> Strengths:
        return Strengths((0.0, 9.0, 1.0), 9.0)

    def lens(self, prompt_idx: int) -> Any:
        raise RequestError("expected a logit lens, found none")


@dataclass
class FakeSession:
    """`total` neurons of class normal in layer order, and twelve of each other class."""

    name: str = "demo"
    sites: tuple[str, ...] = ("mlp", "resid")
    default_site: str = "mlp"
    concepts: tuple[str, ...] = ("tulip", "vietnam", "hanoi", "baseline")
    tokens: int = 12_345
    prompts: int = 48
    has_values: bool = True
    values_kept: str = "every value"
    value_notes: tuple[str, ...] = ()
    has_generated: bool = True
    under_way: bool = False
    commits: int | None = None
    thresholds: Any = None
    total: int = 120_000
    token: str = " tulip"
    result: Any = None
    notes: tuple[str, ...] = ()
    calls: list[Any] = field(default_factory=list)
    interrupted: threading.Event = field(default_factory=threading.Event)
    kept: list[Any] = field(default_factory=list)
    results_folder: Path = Path("/store/demo.results")

    def __post_init__(self) -> None:
        self._walk = FakeWalk(self.token, self.prompts)
        self.info = RunInfo("id", self.name, "capture", "gpt2", "gpt2", "float32", "cpu", 0, CREATED, status="complete")
        self.layers = tuple(
            Layer(i, site, i % 4, f"h.{i % 4}.{site}", 40_000, "relu", "positive")
            for i, site in enumerate(["mlp"] * 4 + ["resid"] * 4)
        )

    def ask_walk(self, question: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._walk, question.__name__)(*args, **kwargs)

    def health(self, site: str, options: Any = None) -> NetworkReport:
        self.calls.append(("health", site))
        layers = [
            make_layer_health(
                layer_name=f"h.{i}.{site}",
                site=site,
                layer=i,
                neurons=100,
                counts={"dead": dead, "saturated": 0, "sporadic": 1, "missing": 2, "weak": 3},
                activation_rate=0.3,
                threshold_activation_rate=0.01,
                scale=0.5,
                activation="relu",
            )
            for i, dead in enumerate((0, 5, 60, 12))
        ]
        return report_of_layers(layers)

    def class_counts(self, query: NeuronQuery) -> dict[str, int]:
        layers = [r for r in self.health(query.site).layer_analyses if query.layer in (None, r.layer)]
        return {name: sum(r.count(name) for r in layers) for name in CLASSES}

    def neurons(self, query: NeuronQuery, offset: int, limit: int) -> NeuronPage:
        self.calls.append(("neurons", query, offset))
        if query.filter == "foo>1":
            raise RequestError("no column 'foo': choose max, min, mean")
        total = 12 if query.cls or query.filter else self.total
        places = range(offset, min(total, offset + limit))
        rows = tuple(
            row(query.layer or 0, i if query.descending else total - 1 - i, query.cls or "normal", query.site)
            for i in places
        )
        return NeuronPage(rows, total, offset)

    def neuron(self, address: Any, options: Any = None) -> NeuronDetail:
        self.calls.append(("neuron", str(address)))
        r = row(address.layer, address.neuron, site=address.site or "mlp")
        means = tuple(
            ConceptMean(c, 12, 300, m, 0.2, 4.0) for c, m in zip(self.concepts, (3.0, 1.0, -0.5, 0.2), strict=False)
        )
        return NeuronDetail(
            r,
            NeuronHistogram(tuple(i / 10 for i in range(41)), tuple(range(40, 0, -1)), True),
            (example(9.0, self.token), example(8.0)),
            (example(0.0),),
            (example(1.5),),
            means,
        )

    def quantile_examples(self, address: Any) -> QuantileExamples:
        self.calls.append(("quantiles", str(address)))
        return QuantileExamples((0.95, 0.05), (example(8.5, self.token), example(0.5)), 125)

    def trace(self, request: TraceRequest) -> Trace:
        self.calls.append(("trace", request))
        raw = request.baseline is None
        none = None if raw else 0.5
        rows = tuple(
            TraceRow(
                i + 1,
                request.site,
                3,
                100 + i,
                12 - i,
                12,
                0 if raw else 12,
                100 * (12 - i) / 12,
                2.0,
                none,
                none,
                none,
                none,
                none,
                none,
                none,
                none,
            )
            for i in range(min(request.top, 12))
        )
        notes = ("no baseline: raw values find the same outliers for every concept",) if raw else ()
        notes += self.notes
        return Trace(
            concept=request.concept,
            baseline=request.baseline,
            tokens=request.tokens or "all",
            rank=request.rank,
            site=request.site,
            top=request.top,
            samples=12,
            baseline_samples=0 if raw else 12,
            neurons=rows,
            notes=notes,
        )

    def overlap(self, request: TraceRequest, concepts: tuple[str, ...]) -> Overlap:
        self.calls.append(("overlap", request, concepts))
        pairs = []
        for i, a in enumerate(concepts):
            for b in concepts[i + 1 :]:
                count = 6 if {a, b} == {"vietnam", "hanoi"} else 0
                shared = tuple(SharedNeuron(f"L3/N{n}", request.site, 3, n, n + 1, n + 2) for n in range(count))
                only = tuple(RankedNeuron(f"L2/N{n}", request.site, 2, n, n + 1) for n in range(4))
                pairs.append(Pair(a, b, 4000, count, count / 14, 0.1, 0.001, shared, only, only[:1]))
        return Overlap(
            concepts=concepts,
            baseline=request.baseline,
            tokens=request.tokens or "all",
            rank=request.rank,
            site=request.site,
            top=request.top,
            eligible=4000,
            pairs=tuple(pairs),
            notes=self.notes,
        )

    def texts(self, most: int) -> tuple[PromptText, ...]:
        every = [PromptText(0, "tulip", "The red tulip"), PromptText(1, "hanoi", f"Hanoi {HOSTILE}\nis")]
        return tuple(every[:most])

    def first_text(self, prompt_idx: int | None) -> str:
        return "The red tulip"

    def results(self, kind: str | None = None) -> tuple[Any, ...]:
        return tuple(result for result in self.kept if kind in (None, result.kind))

    def analysis(self, one: AnalysisSpec, result: Any) -> Any:
        return one.read(result)

    def kinds(self, site: str) -> None:
        return None

    def why_not(self, one: AnalysisSpec) -> str:
        return "" if self.has_values or not one.of_values(self.sites) else f"{one.name} needs every value (--keep all)"

    def write_inputs(self, arguments: Sequence[str], marked: Sequence[str]) -> None:
        self.calls.append(("write_inputs", tuple(marked)))

    def sql(self, statement: str) -> FakeResult:
        self.calls.append(("sql", statement))
        if "nonsense" in statement:
            raise QueryError("Catalog Error: Table with name nonsense does not exist!")
        if "slow" in statement:
            self.interrupted.clear()
            self.interrupted.wait(5)
            raise QueryError("the query was interrupted")
        return self.result or FakeResult(1000)

    def sql_commits(self) -> None:
        return None

    def sql_tables(self) -> dict[str, Table]:
        return {
            "neurons": Table(False, True, {"layer": "INTEGER", "neuron": "INTEGER", "max": "FLOAT"}),
            "tokens": Table(False, True, {"token_idx": "BIGINT", "token": "VARCHAR"}),
            "layers": Table(False, True, {"site": "VARCHAR", "layer": "INTEGER"}),
        }

    def table_rows(self, name: str) -> int | None:
        return self.total

    def warm_up(self) -> None:
        self.calls.append(("warm_up",))

    def interrupt(self) -> None:
        self.interrupted.set()

    def close(self) -> None:
        self.calls.append(("close",))


class FakeJob:
    """A command whose progress the test decides. on_end: what ending well leaves behind."""

    def __init__(self, printed: str = "", on_end: Callable[[], None] = lambda: None) -> None:
        self._state = JobState()
        self._printed = printed
        self._on_end = on_end

    def say(self, line: str, seconds: float = 3.0) -> None:
        self._state = replace(self._state, line=line, seconds=seconds)

    def end(self, status: int = 0, line: str = "") -> None:
        if status == 0:
            self._on_end()
        self._state = replace(self._state, line=line, status=status)

    def state(self) -> JobState:
        return self._state

    def cancel(self) -> None:
        self._state = replace(self._state, cancelled=True)

    def output(self) -> str:
        return self._printed


class FakeCaptures:
    """No backend."""

    def holds(self, model: str, dtype: str, device: str) -> bool:
        return False

    def estimating(self, arguments: Sequence[str], directory: Path) -> tuple[str, ...]:
        return (*arguments, "--estimate")

    def statuses(self) -> tuple[Any, ...]:
        return ()

    def of_run(self, run: str) -> None:
        return None

    def left(self, run: str) -> None:
        return None

    def resume_line(self, run: str) -> str:
        return ""

    def knows(self, run: str) -> bool:
        return False

    def close(self) -> None:
        pass


class FakeEngine:
    """A store of whatever entries it is given."""

    def __init__(self, *entries: RunEntry, session: FakeSession | None = None) -> None:
        self.store = Path("/store")
        self.marks = MarksFile(Path.cwd())
        self.entries = entries or (
            entry("demo"),
            entry("other", model="mamba", created_at=CREATED - dt.timedelta(days=1)),
            entry("live", status="capturing", tokens=430, progress=progress()),
            entry(
                "broken",
                status="",
                model="",
                created_at=None,
                tokens=None,
                problem="broken.duckdb is not a run file",
            ),
        )
        self.session = session or FakeSession()
        self.captures = FakeCaptures()
        self.deleted: list[str] = []
        self.job = FakeJob()
        self.started: list[tuple[str, ...]] = []

    def start(self, arguments: Sequence[str]) -> FakeJob:
        self.started.append(tuple(arguments))
        return self.job

    def runs(self) -> tuple[RunEntry, ...]:
        return tuple(e for e in self.entries if e.name not in self.deleted)

    def progress(self, run: str) -> Progress | None:
        return next((e.progress for e in self.entries if e.name == run), None)

    def open(self, run: str) -> FakeSession:
        if (told := self.progress(run)) is not None and told.alive:
            raise RunBusy(f"{run} is being captured")
        if run == "broken":
            raise NotARun("broken.duckdb is not a run file, or is damaged")
        self.session.name = run
        return self.session

    def delete(self, run: str) -> None:
        self.deleted.append(run)

    def close(self) -> None:
        pass
