"""A run that a backend writes is read like a finished one, as of its last commit."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from running_backends import SAMPLES, wait_until

from nfinspect.backend.client import Backend
from nfinspect.backend.protocol import JobState
from nfinspect.backend.remote import RunUnderWay, run_under_way
from nfinspect.cli import main
from nfinspect.tui.requests import NeuronQuery, TraceRequest
from nfinspect.tui.session import Session
from nfinspect.tui.walking import TokenWalk
from nfinspect_store.addresses import Address
from nfinspect_store.errors import QueryError, RunBusy, StoreError
from nfinspect_store.reader import RunFile

ADDRESS = Address(1, 5, "mlp")
STATEMENTS = (
    "SELECT site, layer, sum(n) AS n, avg(mean), max(max) FROM neurons GROUP BY ALL ORDER BY ALL",
    "SELECT count(*), sum(value), min(token_idx), max(token_idx) FROM activations WHERE site = 'mlp' AND layer = 1",
    "FROM tokens ORDER BY token_idx LIMIT 20",
    "SELECT 1::HUGEINT AS h, NULL AS n, [1, 2] AS l, {'a': 1.5} AS s, 'x'::BLOB AS b WHERE false",
    "DESCRIBE neurons",
    "SUMMARIZE layers",
)


@pytest.fixture(scope="module")
def capturing(shared: Path, model: Path) -> Iterator[tuple[Backend, JobState, Path]]:
    """A capture of two concepts that is paused after some commits."""
    files = [SAMPLES / "prompts" / f"{name}.json" for name in ("tulip", "baseline")]
    (shared / "slow").write_text("0.3")
    with Backend.connect(shared, "gpt2") as backend:
        arguments = ["capture", str(model), "--run", "r", "--store", str(shared), "--batch-size", "4"]
        for file in reversed(files):
            arguments += ["--prompts", str(file)]
        job = backend.submit([*arguments, "--layers", "0,1", "--sites", "mlp,resid"])
        while not job.done:
            job = backend.wait(job)
        path = Path(job.run)
        wait_until(lambda: len(Session.open(path).concepts) == 2)
        backend.act(job.id, "pause")
        reached = -1
        while reached != job.done:
            reached, job = job.done, backend.wait(job)
        yield backend, job, path
        backend.act(job.id, "cancel")
        (shared / "slow").unlink(missing_ok=True)


def everything(session: Session) -> str:
    """What the panes show of a run, as text."""
    told = [session.health(site).to_json() for site in session.sites]
    found = [
        told,
        session.neurons(NeuronQuery("mlp", sort="firing_rate"), 0, 50),
        session.neurons(NeuronQuery("resid", sort="mean_abs", filter="mean > 0"), 10, 5),
        session.neuron(ADDRESS),
        session.neuron(Address(0, 3, "resid")),
        session.trace(TraceRequest("mlp", "tulip", "baseline", "last")),
        session.ask_walk(TokenWalk.part, 3, 0),
        session.texts(10),
        (session.tokens, session.prompts, session.concepts, session.layers, session.has_values),
    ]
    rows = [session.sql(statement).page() for statement in STATEMENTS]
    types = [session.sql(statement).columns for statement in STATEMENTS]
    return "\n".join(map(repr, (*found, rows, types)))


def test_what_panes_show_is_what_they_show_of_its_file(
    capturing: tuple[Backend, JobState, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backend, job, path = capturing
    with pytest.raises(RunBusy):
        RunFile.open(path)
    session = Session.open(path)
    assert session.under_way and session.tokens == job.done and session.info.status == "capturing"
    seen = everything(session)
    assert "tokens" in session.sql_tables() and session.sql("FROM activations").count() > 0
    assert main(["health", "r", "--json", "--store", str(path.parent)]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["total_layers"] == 2 and "is being captured" in captured.err
    for line in ("neurons r", "neuron r L1/N5", "trace r --concept tulip"):
        assert main([*line.split(), "--json", "--store", str(path.parent)]) == 0
        json.loads(capsys.readouterr().out)
    assert main(["sql", "r", "SELECT count(*) AS n FROM tokens", "--format", "json", "--store", str(path.parent)]) == 0
    assert json.loads(capsys.readouterr().out) == [{"n": session.tokens}]
    assert main(["ngrams", "r", "--store", str(path.parent)]) == 1  # nothing is saved about half a run
    assert "being captured" in capsys.readouterr().err

    with run_under_way(path) or pytest.fail("it is being written") as run:
        values = run.activations("mlp", 1)
        row = run.cursor().execute("SELECT sum(n) AS whole, NULL AS none FROM neurons").fetchone()
        assert row == (int(row[0]), None) and isinstance(row[0], int)
        columns = run.cursor().execute("SELECT n, mean FROM neurons LIMIT 3").fetchnumpy()
        assert isinstance(columns["mean"], np.ndarray) and columns["mean"].dtype == np.float64

    copied = tmp_path / path.name  # as a kill would leave it: the last commit of a capture counts exactly
    for file in (path, path.with_name(path.name + ".wal")):
        if file.exists():
            shutil.copy(file, copied.with_name(file.name))
    left = Session.open(copied)
    assert everything(left) == seen
    left.close()

    backend.act(job.id, "cancel")
    while not job.ended:
        job = backend.wait(job)
    assert job.status == 130
    assert session.health("mlp").total_layers == 2
    assert not session.under_way and session.info.status == "interrupted"
    with RunFile.open(path) as file:
        np.testing.assert_array_equal(file.activations("mlp", 1), values)
    session.close()
    assert run_under_way(path) is None
    assert isinstance(run, RunUnderWay)


@pytest.fixture
def under_way(shared: Path, model: Path, text: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A capture that goes on: four windows, a commit, and again."""
    (shared / "slow").write_text("0.05")
    name = f"u{abs(hash(request.node.name)) % 10**6}"
    with Backend.connect(shared, "gpt2") as backend:
        of_text = ["--text", str(text), "--context", "16", "--batch-size", "4"]
        job = backend.submit(["capture", str(model), *of_text, "--layers", "0", "--run", name, "--store", str(shared)])
        while not job.done:
            job = backend.wait(job)
        yield Path(job.run)
        backend.act(job.id, "cancel")
        while not job.ended:
            job = backend.wait(job)
        assert job.status == 130 and "tokens, kept in" in job.line, job
    (shared / "slow").unlink(missing_ok=True)


def test_each_reader_sees_one_commit_and_the_next_a_later_one(under_way: Path) -> None:
    with run_under_way(under_way) or pytest.fail("it is being written") as first:
        tokens = first.tokens
        assert tokens % 64 == 0

        def now() -> int:
            with run_under_way(under_way) or pytest.fail("it is being written") as later:
                return later.tokens

        wait_until(lambda: now() > tokens)
        assert first.cursor().execute("SELECT count(*) FROM tokens").fetchall() == [(tokens,)]
        assert first.activations("mlp", 0).shape[0] == tokens


REFUSED = (
    "DELETE FROM tokens",
    "INSERT INTO tokens SELECT * FROM tokens",
    "COMMIT",
    "SET threads = 8",
    "CHECKPOINT",
    "SELECT * FROM force_checkpoint('run_file')",
    "ATTACH ':memory:' AS x",
    "COPY tokens TO 'out.csv'",
    "FROM read_text('/etc/hostname')",
    "SELECT 1; SELECT 2",
    "DETACH run_file",
)


def test_a_client_can_only_read(under_way: Path) -> None:
    session = Session.open(under_way)
    for statement in REFUSED:
        with pytest.raises(QueryError):
            session.sql(statement).page()
        with run_under_way(under_way) or pytest.fail("it is being written") as run, pytest.raises(QueryError):
            run.cursor().execute(statement)
    assert session.health("mlp").total_layers == 1
    session.close()


WRONG = (
    "SELECT foo FROM neurons",
    "SELECT max,\n  foo\nFROM neurons",
    "SELECT '漢字漢字' AS a, foo FROM neurons",
    "FROM foo",
    "SELECT max FROM neurons ORDER foo",
    "SELECT count(*) FROM neurons HAVING foo > 1;  -- foo",
)


def test_an_error_says_where_in_the_statement_it_is(under_way: Path) -> None:
    """As it does for a finished run, and in the same words."""
    session = Session.open(under_way)
    for statement in WRONG:
        with pytest.raises(QueryError) as caught:
            session.sql(statement)
        at = caught.value.place
        assert at is not None and statement[at:].startswith("foo"), statement
    with pytest.raises(QueryError, match="Candidate bindings: .*dormancy") as caught:
        session.sql("SELECT dormanc FROM neurons")
    assert caught.value.place == len("SELECT ")
    with pytest.raises(QueryError) as caught:  # found only while the rows are computed
        session.sql("SELECT text::INTEGER FROM tokens").page()
    with run_under_way(under_way) or pytest.fail("it is being written") as run, pytest.raises(QueryError) as of_run:
        run.cursor().execute("SELECT text::INTEGER FROM tokens")
    assert str(of_run.value) == str(caught.value) and of_run.value.place == caught.value.place
    session.close()


def test_a_long_query_is_cancelled_and_so_is_one_whose_client_is_gone(under_way: Path) -> None:
    long = "SELECT count(*) FROM range(100000000000) a WHERE sin(a.range) > 2"
    session = Session.open(under_way)
    found = session.sql(long)
    timer = threading.Timer(0.5, session.interrupt)
    timer.start()
    began = time.monotonic()
    with pytest.raises(StoreError, match="does not answer"):
        found.page()
    assert time.monotonic() - began < 60
    timer.join()
    console = session._open_console()
    with pytest.raises(QueryError, match="took longer than 0.3 s"):
        console.run(long, timeout=0.3).page()
    assert session.health("mlp").total_layers == 1
    session.close()


def test_another_query_while_rows_stream_loses_none(under_way: Path) -> None:
    with run_under_way(under_way) or pytest.fail("it is being written") as run:
        rows = run.streamed("SELECT token_idx FROM tokens ORDER BY token_idx", {}, 16)
        first = next(rows)
        assert run.cursor().execute("SELECT 7").fetchall() == [(7,)]
        rest = [value for batch in rows for value in batch.column(0).to_pylist()]
        assert [*first.column(0).to_pylist(), *rest] == list(range(run.tokens))
