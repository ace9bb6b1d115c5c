"""The tokens of a text are told while a backend's model writes it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_backends import finished, wait_until

from nfinspect.backend.client import Backend
from nfinspect.backend.protocol import JobState, Token
from nfinspect_store.reader import RunFile

GENERATE = ["Tulips are", "--new-tokens", "10", "--clamp", "L3/N1=40", "--controls", "0", "--json"]


@pytest.fixture
def backend(shared: Path) -> Iterator[Backend]:
    with Backend.connect(shared, "gpt2") as one:
        yield one
    (shared / "slow").unlink(missing_ok=True)


def followed(backend: Backend, job: JobState) -> tuple[JobState, list[Token], int]:
    """The job once it has ended, its tokens, and how many had been read before."""
    rows: list[Token] = []
    early = 0
    while True:
        ended = job.ended
        while (found := backend.tokens(job.id, len(rows))).rows:
            assert found.start == len(rows)
            rows += found.rows
        if ended:
            return job, rows, early
        early = len(rows)
        job = backend.wait(job)


def test_a_generations_tokens_are_told_as_they_are_written(backend: Backend, shared: Path, model: Path) -> None:
    (shared / "slow").write_text("0.05")
    job, rows, early = followed(backend, backend.submit(["generate", str(model), *GENERATE]))
    assert job.status == 0, job.line
    assert early >= 14  # the first side was whole long before the end
    document = json.loads(b"".join(backend.output(job.id)))
    assert [row.index for row in rows] == list(range(len(rows)))
    for side in ("original", "edited"):
        tokens = document[side]["tokens"]
        told = [row for row in rows if row.side == side]
        assert [(r.position, r.text, r.generated, r.surprisal) for r in told] == [
            (t["position"], t["token"], t["generated"], t["surprisal"]) for t in tokens
        ]
        assert [r.strongest for r in told] == [
            tuple((s["layer"], s["neuron"], s["value"]) for s in t["strongest"]) for t in tokens
        ]
        assert {len(r.strongest) for r in told} == {12} and {r.site for r in told} == {"mlp"}
    assert any(one[:2] == (3, 1) and one[2] == 40 for row in rows if row.side == "edited" for one in row.strongest)


@pytest.mark.parametrize("mode", ["live", pytest.param("replay", marks=pytest.mark.slow)])
def test_a_captures_text_is_told_while_somebody_asks(backend: Backend, shared: Path, model: Path, mode: str) -> None:
    prompts = shared / "prompts.txt"
    prompts.write_text("Tulips are red.\nThe chair\nShe bought a bunch of\nThe garden\n")
    line = ["capture", str(model), "--prompts", str(prompts), "--generate", "6", "--mode", mode, "--batch-size", "2"]
    job = finished(backend, [*line, "--run", f"alone-{mode}", "--store", str(shared)])
    assert job.status == 0 and backend.tokens(job.id).count == 0  # nobody asked, nothing was computed
    (shared / "slow").write_text("0.02")
    waiting = backend.submit([*line, "--run", mode, "--store", str(shared)])
    assert backend.tokens(waiting.id).count >= 0  # from now on they are followed
    job, rows, early = followed(backend, waiting)
    assert job.status == 0 and early > 0
    assert sorted({row.prompt for row in rows}) in ([0, 2], [2])  # the first batch may have begun before
    with RunFile.open(shared / f"{mode}.duckdb") as run, RunFile.open(shared / f"alone-{mode}.duckdb") as alone:
        for one in (run, alone):
            texts = one.sql("SELECT token FROM tokens ORDER BY token_idx").fetchall()
            assert texts == run.sql("SELECT token FROM tokens ORDER BY token_idx").fetchall()
        for prompt in {row.prompt for row in rows}:
            told = [row for row in rows if row.prompt == prompt]
            tokens = run.prompt_tokens(prompt)
            assert [row.text for row in told] == list(tokens.token)
            assert [row.generated for row in told] == tokens.generated.tolist()
            assert all((row.surprisal is not None) == row.generated for row in told)
            values = {layer: run.activations("mlp", layer) for layer in range(4)}
            read = told if mode == "live" else told[:-1]
            for row in read:
                assert len(row.strongest) == 12
                for layer, neuron, value in row.strongest:
                    of_run = values[layer][tokens.token_idx[row.position]]
                    assert value == pytest.approx(float(of_run[neuron]), abs=1e-4)
            assert mode == "live" or told[-1].strongest == ()  # written and not read


@pytest.mark.slow
def test_a_command_shows_the_text_as_a_backend_writes_it(shared: Path, model: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "NFINSPECT_STORE": str(shared), "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    line = [sys.executable, "-m", "nfinspect", "generate", str(model), *GENERATE[:-1]]
    alone = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert alone.startswith("without edits\nTulips are ")
    (shared / "slow").write_text("0.1")
    with Backend.connect(shared, "gpt2") as backend:
        process = subprocess.Popen(
            [*line, "--backend"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert process.stdout is not None
        beginning = alone[: len("without edits\nTulips are the")].encode()
        seen = b""
        while len(seen) < len(beginning):
            seen += os.read(process.stdout.fileno(), 1)
        assert seen == beginning
        running = backend.status().job
        assert running is not None and running.arguments[0] == "generate"  # it still writes
        (shared / "slow").unlink()
        rest, _ = process.communicate(timeout=120)
        assert process.returncode == 0 and (seen + rest).decode() == alone
        wait_until(lambda: backend.status().job is None)
