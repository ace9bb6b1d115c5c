"""An open run, for the app: every answer comes from the store or from the analyses, none is computed here.

Its methods may be called from any worker, may block, and raise NfinspectError for whatever a user can meet.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, cast

from nfinspect.analyses import formats
from nfinspect.analysis import health, neuron, neurons
from nfinspect.analysis.comparison import NO_BASELINE
from nfinspect.backend.remote import RemoteConsole, RunUnderWay, run_under_way
from nfinspect.present.numbers import percent
from nfinspect.tui.requests import MARKED, NeuronQuery, PromptText, Standing, TraceRequest
from nfinspect.tui.walking import TokenWalk
from nfinspect_store.addresses import Address
from nfinspect_store.console import Console, Table
from nfinspect_store.errors import QueryError, RunBusy, StorageFull
from nfinspect_store.heartbeat import being_written, read_heartbeat
from nfinspect_store.query_result import QueryResult
from nfinspect_store.reader import RunFile
from nfinspect_store.results import Result, run_results

if TYPE_CHECKING:
    from nfinspect.analyses.analysis_spec import AnalysisSpec
    from nfinspect.analyses.kind_overlap import KindOverlap
    from nfinspect.analysis.classes import HealthOptions
    from nfinspect.analysis.diff import Diff
    from nfinspect.analysis.neuron_examples import QuantileExamples
    from nfinspect.analysis.overlap import Overlap
    from nfinspect.analysis.trace import Trace

Answer = TypeVar("Answer")
Choices = ParamSpec("Choices")

AROUND = 32
"""Tokens on either side of an example's: what a wide terminal shows."""

ANSWERS = 64
"""Answers kept in memory: an open run does not change, and a place that is visited again takes no time."""


CLOSING = 60.0
"""Seconds that the file of a capture which has just ended is waited for: it is checkpointed before it is closed."""

COUNTING = 2.0
"""Seconds that the rows of a table may take to be counted: a view over billions of values takes longer."""


class Session:
    """One open run. The SQL console, a second connection that sees nothing else, is opened when first used.

    A run that a backend is writing is read as of its last commit, a new snapshot for each question; once its capture
    has ended its file is read. `tokens`, `concepts` and the like are as of the last question.
    """

    def __init__(self, run: RunFile) -> None:
        self._path = run.path
        self._console: Console | None = None
        self._lock = threading.Lock()
        self._answers: OrderedDict[Hashable, Any] = OrderedDict()
        self._asking: set[RunUnderWay] = set()
        self._file: RunFile | None = None
        self.commits: int | None = None
        """How many commits the last question saw; None once the file is read."""
        self.thresholds: HealthOptions | None = None
        """Of the classes, as they were chosen in the app; None for the defaults."""

        self.name = run.name
        self.layers = run.layers
        self.sites = run.sites
        self.default_site = run.default_site
        self.has_values = run.has_values
        self.results_folder = run_results(run.path)
        if isinstance(run, RunUnderWay):
            self._note_commit(run)
            run.close()
        else:
            self._settle(run)

    @classmethod
    def open(cls, path: Path) -> Session:
        """Raises RunBusy with its progress while the run is being captured by no backend; NotARun, SchemaTooNew."""
        if being_written(path):
            if (under_way := run_under_way(path)) is not None:
                return cls(under_way)
            progress = read_heartbeat(path)
            done = ""
            if progress is not None and progress.tokens_total:
                done = f", {percent(progress.tokens_done / progress.tokens_total, places=0)} done"
            raise RunBusy(f"{path.stem} is being captured{done}: it opens when it has finished")
        run = RunFile.open(path)
        try:
            run.require_tokens()
        except BaseException:
            run.close()
            raise
        return cls(run)

    @property
    def under_way(self) -> bool:
        """Whether the run is still being written: what it holds changes with every commit."""
        return self._file is None

    def _note_commit(self, run: RunUnderWay) -> None:
        if run.commits != self.commits:
            self._note(run)
            self.commits = run.commits

    def _note(self, run: RunFile) -> None:
        """What changes with a commit."""
        self.info = run.info
        self.concepts = run.concepts
        self.tokens = run.tokens
        self.prompts = run.prompts
        self.values_kept = run.kept
        self.value_notes = run.value_notes
        self.has_generated = run.has_generated

    def _settle(self, run: RunFile) -> None:
        """From now on the file is read."""
        self._file, self._walk = run, TokenWalk(run, self.results)
        self._note(run)
        self.commits = None
        # Nobody is writing to a file that opens: its capture was killed before it could record its end.
        if self.info.status == "capturing":
            self.info = replace(self.info, status="interrupted")

    def ask_walk(
        self, question: Callable[Concatenate[TokenWalk, Choices], Answer], *args: Choices.args, **kwargs: Choices.kwargs
    ) -> Answer:
        """The answer of the run's token walk to one of its questions, such as TokenWalk.part. A run under way has a new
        walk for each, as of its last commit.
        """
        if self._file is not None:
            return question(self._walk, *args, **kwargs)
        with self._reading() as run:
            return question(TokenWalk(run, self.results), *args, **kwargs)

    @contextmanager
    def _reading(self) -> Iterator[RunFile]:
        """The run, for one question."""
        if self._file is None and (under_way := run_under_way(self._path)) is not None:
            self._asking.add(under_way)
            try:
                self._note_commit(under_way)
                yield under_way
            finally:
                self._asking.discard(under_way)
                under_way.close()
            return
        with self._lock:
            if self._file is None:
                self._settle(self._ended())
        assert self._file is not None
        yield self._file

    def _ended(self) -> RunFile:
        """The file of the capture that has just ended, once its writer has closed it."""
        until = time.monotonic() + CLOSING
        while True:
            try:
                return RunFile.open(self._path)
            except RunBusy:
                if time.monotonic() > until:
                    raise
            time.sleep(0.05)

    def look(self) -> Standing:
        """How far a run under way is."""
        with self._reading() as run:
            commits = run.commits if isinstance(run, RunUnderWay) else None
        return Standing(read_heartbeat(self._path), commits, self.tokens)

    def health(self, site: str, options: HealthOptions | None = None) -> health.NetworkReport:
        chosen = options or health.DEFAULTS
        return self._once(("health", site, options), lambda run: health.network_report(run, site, chosen))

    def class_counts(self, query: NeuronQuery) -> Mapping[str, int]:
        """How many neurons of each class the list would hold without its class."""

        def counted(run: RunFile) -> Mapping[str, int]:
            return neurons.count_classes(run, query.site, query.layer, query.filter, query.options)

        if query.filter:  # sets change
            with self._reading() as run:
                return counted(run)
        return self._once(("classes", query.site, query.layer, query.options), counted)

    def neurons(self, query: NeuronQuery, offset: int, limit: int) -> neurons.NeuronPage:
        with self._reading() as run:
            return neurons.list_neurons(
                run,
                site=query.site,
                cls=query.cls,
                layer=query.layer,
                sort=query.sort,
                descending=query.descending,
                filter=query.filter,
                limit=limit,
                offset=offset,
                options=query.options,
            )

    def neuron(self, address: Address, options: HealthOptions | None = None) -> neuron.NeuronDetail:
        asked = ("neuron", address, options)
        return self._once(asked, lambda run: neuron.neuron_detail(run, address, AROUND, options))

    def quantile_examples(self, address: Address) -> QuantileExamples:
        from nfinspect.analysis.neuron_examples import quantile_examples

        return self._once(("quantiles", address), lambda run: quantile_examples(run, address, AROUND))

    def diff(self, other: Session, site: str | None, *, other_texts: bool = False) -> Diff:
        """From this run to another, neuron by neuron. Raises RequestError for runs that cannot be compared."""
        from nfinspect.analysis.diff import diff

        with self._reading() as a, other._reading() as b:
            return diff(a, b, site, other_texts=other_texts)

    def trace(self, request: TraceRequest) -> Trace:
        from nfinspect.analysis.trace import trace

        return self._once(request, lambda run: trace(run, request.concept, **_choices(request)))

    def overlap(self, request: TraceRequest, concepts: tuple[str, ...]) -> Overlap:
        from nfinspect.analysis.overlap import overlap

        return self._once((request, concepts), lambda run: overlap(run, concepts, **_choices(request)))

    def texts(self, most: int) -> tuple[PromptText, ...]:
        """The run's prompts that have a text; if there are more than `most`, so many of them, evenly spread."""
        with self._reading() as run:
            query = """SELECT prompt_idx, concept, text FROM prompts WHERE text <> '' AND prompt_idx % ? = 0
                       ORDER BY prompt_idx LIMIT ?"""
            step = max(1, -(-self.prompts // most)) if most > 1 else 1
            return tuple(PromptText(*row) for row in run.sql(query, [step, most]).fetchall())

    def first_text(self, prompt_idx: int | None) -> str:
        """The text of a prompt, or else of the first that has one; empty if there is none."""
        with self._reading() as run:
            query = """SELECT text FROM prompts WHERE text <> '' AND (?::BIGINT IS NULL OR prompt_idx = ?)
                       ORDER BY prompt_idx LIMIT 1"""
            found = run.sql(query, [prompt_idx, prompt_idx]).fetchone()
            return str(found[0]) if found else ""

    def results(self, kind: str | None = None) -> tuple[Result, ...]:
        """The saved results of this run and of its model, by kind; of a kind the run's first, then the newest first."""
        from nfinspect.analysis.provenance import results_about

        with self._reading() as run:
            return results_about(run, kind, formats())

    def analysis(self, one: AnalysisSpec, result: Result) -> Any:
        """What a saved result holds. Raises what the spec's `read` and `joined` raise."""
        found = self._once((result.path, result.made_at), lambda run: one.read(result))
        return found if one.joined is None else one.joined(found, result, self.results)

    def kinds(self, site: str) -> KindOverlap | None:
        """What the dead neurons and the kinds whose analysis is saved share; None if none is saved."""
        from nfinspect.analyses.kind_overlap import overlap_of_kinds
        from nfinspect.analyses.neuron_kinds import SINGLE_KINDS, newest

        with self._reading() as run:
            known = {kind: found for kind in SINGLE_KINDS if (found := newest(run, kind, site)) is not None}
        if not known:
            return None
        question = ("kinds", site, *((kind, result.path, result.made_at) for kind, result in known.items()))
        return self._once(question, lambda run: overlap_of_kinds(run, ["dead", *known], site))

    def why_not(self, one: AnalysisSpec) -> str:
        """Why the run cannot be given to an analysis; empty if it can."""
        if self.has_values or not one.of_values(self.sites):
            return ""
        return f"{one.name} needs every value (--keep all), and this run holds {self.values_kept}"

    def write_inputs(self, arguments: Sequence[str], marked: Sequence[str]) -> None:
        """Write the file of marked neurons, if the command reads it. Raises StorageFull."""
        path = self.results_folder / MARKED
        if str(path) not in arguments:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{address}\n" for address in marked), encoding="utf-8")
        except OSError as error:
            raise StorageFull(f"cannot write {path}: {error.strerror or error}") from error

    def sql(self, statement: str) -> QueryResult:
        return self._open_console().run(statement)

    def sql_commits(self) -> int | None:
        """How many commits of a run under way the last SQL of this thread saw; None for a file."""
        console = self._open_console()
        return console.commits if isinstance(console, RemoteConsole) else None

    def sql_tables(self) -> Mapping[str, Table]:
        return self._open_console().tables()

    def table_rows(self, name: str) -> int | None:
        """How many rows one of `sql_tables` has; None if it takes longer than COUNTING to count them."""
        try:
            counted = self._open_console().run(f"SELECT count(*) FROM {name}", timeout=COUNTING)
            return int(counted.page(0, 1)[0][0])
        except QueryError:
            return None

    def _open_console(self) -> Console:
        with self._lock:
            if self._console is None:
                is_file = self._file is not None
                self._console = Console({self.name: self._path}) if is_file else RemoteConsole(self._path)
            return self._console

    def warm_up(self) -> None:
        """Import what the first trace will need, while the user reads the layers."""
        import scipy.special  # noqa: F401

    def _once(self, question: Hashable, work: Callable[[RunFile], Answer]) -> Answer:
        """What `work` gives, or gave when the question was asked before; the last ANSWERS are kept. Nothing is kept of
        a run under way, which changes.
        """
        with self._lock:
            if question in self._answers:
                self._answers.move_to_end(question)
                return cast("Answer", self._answers[question])
        with self._reading() as run:
            answer = work(run)
            if isinstance(run, RunUnderWay):
                return answer
        with self._lock:
            self._answers[question] = answer
            while len(self._answers) > ANSWERS:
                self._answers.popitem(last=False)
        return answer

    def interrupt(self) -> None:
        if self._console is not None:
            self._console.interrupt()
        for run in list(self._asking):
            run.interrupt()

    def close(self) -> None:
        if self._console is not None:
            self._console.close()
        if self._file is not None:
            self._file.close()


def _choices(request: TraceRequest) -> dict[str, Any]:
    return {
        "baseline": NO_BASELINE if request.baseline is None else request.baseline,  # None: none, not the default
        "tokens": request.tokens,
        "top": request.top,
        "rank": request.rank,
        "site": request.site,
    }
