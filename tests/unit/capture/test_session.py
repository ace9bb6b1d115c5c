"""How a capture begins and ends: memory that runs out, hooks that stay silent, values that are no numbers, limits."""

import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES
from words import word_tokenizer

import nfinspect as nf
from nfinspect.capturing import reading, segments, session
from nfinspect.capturing.arrays import ArrayPrompt, write_run
from nfinspect.capturing.errors import CaptureInterrupted, OutOfMemory
from nfinspect.capturing.estimation import estimate
from nfinspect.capturing.interrupts import StopRequest
from nfinspect.capturing.new_run import default_name
from nfinspect.capturing.request import CaptureRequest, PromptFile
from nfinspect.capturing.session import Listener, capture_run
from nfinspect.capturing.sizes import run_bytes
from nfinspect.cli.capture import byte_count
from nfinspect_store.byte_limits import limit_text, needed_limit
from nfinspect_store.errors import BadName, NfinspectError, RunExists
from nfinspect_store.reader import RunFile
from nfinspect_store.types import Keep, Layer, Precision, Progress

MakeDir = Callable[[str], Path]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    path.write_text(" ".join(f"w{i}" for i in np.random.default_rng(5).integers(3, 101, 611)))
    return path


@pytest.fixture
def request_(model_dir: MakeDir, tmp_path: Path, text: Path) -> CaptureRequest:
    return CaptureRequest(str(model_dir("gpt2")), tmp_path / "store", text=(text,), run="r", context=16, batch_size=8)


def files(store: Path) -> list[str]:
    return sorted(path.name for path in store.iterdir()) if store.exists() else []


def one_line(error: BaseException) -> bool:
    return bool(str(error)) and "\n" not in str(error)


# Memory that runs out


def short_of_memory(
    monkeypatch: pytest.MonkeyPatch, most: int, error: type[BaseException] = torch.OutOfMemoryError
) -> list[int]:
    """Batches of more than `most` sequences fail, as on a full GPU; the list says what was tried."""
    tried: list[int] = []
    replay = reading.BatchReader.replay

    def limited(self: reading.BatchReader, sequences: Sequence[Sequence[int]], *more: Any) -> reading.Values:
        tried.append(len(sequences))
        if len(sequences) > most:
            raise error("CUDA out of memory. Tried to allocate 20.00 MiB")
        return replay(self, sequences, *more)

    monkeypatch.setattr(reading.BatchReader, "replay", limited)
    return tried


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError,
        pytest.param(MemoryError, marks=pytest.mark.slow),
        pytest.param(RuntimeError, marks=pytest.mark.slow),
    ],
)
def test_batches_are_halved_where_memory_runs_out(
    error: type[BaseException], request_: CaptureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    plenty = capture_run(replace(request_, run="plenty", batch_size=2))
    tried = short_of_memory(monkeypatch, 3, error)
    said: list[str] = []
    short = capture_run(replace(request_, run="short"), Listener(message=said.append))
    assert said == [f"out of memory: continuing with batches of {n} prompts" for n in (4, 2)]
    assert tried[:3] == [8, 4, 2] and max(tried[2:]) == 2  # what did not fit once is not tried again
    with RunFile.open(plenty) as a, RunFile.open(short) as b:
        assert b.info.status == "complete" and b.tokens == 611
        for layer in a.layers:
            np.testing.assert_array_equal(
                a.activations(layer.site, layer.layer), b.activations(layer.site, layer.layer)
            )
        for table in ("prompts", "tokens", "examples", "histograms", "prompt_means"):
            rows = f"SELECT * FROM {table} ORDER BY ALL"
            assert a.sql(rows).fetchall() == b.sql(rows).fetchall(), table


def test_one_prompt_that_is_too_big_ends_the_capture(request_: CaptureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    short_of_memory(monkeypatch, 0)
    with pytest.raises(
        OutOfMemory, match="one prompt of 16 tokens does not fit into the memory of cpu: .*--context"
    ) as caught:
        capture_run(request_)
    assert one_line(caught.value) and files(request_.store) == []


def test_an_estimate_halves_as_well(request_: CaptureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = short_of_memory(monkeypatch, 2)
    assert estimate(request_).seconds > 0
    assert tried[:3] == [8, 4, 2]


def test_another_error_is_not_taken_for_it(request_: CaptureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("index out of range")

    monkeypatch.setattr(reading.BatchReader, "replay", fail)
    with pytest.raises(RuntimeError, match="index out of range"):
        capture_run(request_)
    assert files(request_.store) == []


# Models that are not what they seem


def test_a_layer_that_is_passed_by_is_named(tmp_path: Path) -> None:
    store = tmp_path / "store"
    model = FAMILIES["gpt2"]()
    earlier = nf.capture(model, word_tokenizer(), ["w3 w4"], store=store, run="earlier").path
    before = earlier.read_bytes()
    model.transformer.h[1].mlp.forward = lambda hidden: hidden  # as a fused kernel does
    for mode in ("replay", "live"):
        with pytest.raises(NfinspectError, match=r"layer 1 \(h\.1\.mlp\.c_proj\)|layer 1 \(transformer") as caught:
            nf.capture(model, word_tokenizer(), ["w3 w4"], store=store, run="r", generate=2, mode=mode)
        assert one_line(caught.value) and "0 times" in str(caught.value)
        assert files(store) == ["earlier.duckdb"] and earlier.read_bytes() == before


@pytest.mark.parametrize("batches", [0, 3])
def test_values_that_are_no_numbers_name_the_layer_and_keep_what_was_durable(
    batches: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A segment after each batch; one word of the vocabulary is NaN and comes after `batches` batches."""
    monkeypatch.setattr(segments, "SEGMENT_SECONDS", 0.0)
    model = FAMILIES["gpt2"]()
    with torch.no_grad():
        model.transformer.wte.weight[50] = torch.nan
    prompts = ["w3 w4 w5"] * (2 * batches) + ["w3 w50", "w4 w6"]
    with pytest.raises(NfinspectError, match="found NaN or infinity at mlp of layer 0") as caught:
        nf.capture(model, word_tokenizer(), prompts, store=tmp_path / "store", run="r", batch_size=2)
    assert one_line(caught.value)
    if not batches:
        assert files(tmp_path / "store") == []
        return
    with RunFile.open(tmp_path / "store" / "r.duckdb") as run:
        assert run.info.status == "failed"
        assert (run.prompts, run.tokens) == (2 * batches, 6 * batches)
        assert np.isfinite(run.activations("mlp", 2)).all() and run.statistics().n.tolist() == [6 * batches] * 192
    assert files(tmp_path / "store") == ["r.duckdb"]


# Limits and estimates


def test_a_byte_limit_stops_before_it_is_passed_and_can_be_lifted(request_: CaptureRequest, text: Path) -> None:
    text.write_text(" ".join(f"w{i}" for i in np.random.default_rng(5).integers(3, 101, 8000)))
    limit = 6_000_000
    with pytest.raises(
        CaptureInterrupted, match=f"--limit-bytes {limit}.* of 8,000 tokens, kept in r: .*--resume"
    ) as caught:
        capture_run(replace(request_, limit_bytes=limit))
    assert one_line(caught.value) and caught.value.exit_status == 1
    path = request_.store / "r.duckdb"
    assert 0.75 * limit < path.stat().st_size <= 1.05 * limit  # the size is foreseen, and comes in pages of 256 KiB
    with RunFile.open(path) as run:
        assert run.info.status == "interrupted" and 0 < run.tokens < 8000
    capture_run(replace(request_, resume=True))
    with RunFile.open(path) as run:
        assert run.info.status == "complete" and run.tokens == 8000


def test_a_run_that_reached_its_limit_says_which_one_is_enough(request_: CaptureRequest, text: Path) -> None:
    """The same command ends at once again; with the limit that is offered it is finished."""
    text.write_text(" ".join(f"w{i}" for i in np.random.default_rng(5).integers(3, 101, 8000)))
    path = request_.store / "r.duckdb"
    kept = []
    for resume in (False, True):
        with pytest.raises(CaptureInterrupted, match="a larger --limit-bytes") as caught:
            capture_run(replace(request_, limit_bytes=6_000_000, resume=resume))
        with RunFile.open(path) as run:
            needed = needed_limit(run.info)
            kept.append(run.tokens)
        assert f"with --resume and a larger --limit-bytes ({needed} for all of it) to continue" in str(caught.value)
    assert kept[0] == kept[1] > 0
    capture_run(replace(request_, limit_bytes=byte_count(needed), resume=True))
    assert path.stat().st_size <= 1.05 * byte_count(needed)
    with RunFile.open(path) as run:
        assert run.info.status == "complete" and run.tokens == 8000
        assert needed_limit(run.info) == "" and "limit_needed" not in run.info.settings


def test_a_run_that_was_interrupted_names_no_limit(request_: CaptureRequest, text: Path) -> None:
    text.write_text(" ".join(f"w{i}" for i in np.random.default_rng(5).integers(3, 101, 8000)))
    with pytest.raises(CaptureInterrupted):
        capture_run(replace(request_, limit_bytes=6_000_000))

    told: list[Progress] = []

    def stop(progress: Progress) -> None:
        told.append(progress)
        if len(told) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(CaptureInterrupted, match=r"repeat the command with --resume to continue"):
        capture_run(replace(request_, limit_bytes=60_000_000, resume=True), Listener(stop))
    with RunFile.open(request_.store / "r.duckdb") as run:
        assert run.info.status == "interrupted" and needed_limit(run.info) == ""


@pytest.mark.parametrize("count", [1, 99, 100, 101, 999_999, 12_345_678, 130_000_000, 1_234_567_890, 10**13])
def test_a_limit_in_words_holds_what_it_says(count: int) -> None:
    assert count <= byte_count(limit_text(count)) <= 1.1 * count and len(limit_text(count)) <= 6


def test_a_byte_limit_that_nothing_fits_into_leaves_no_run(request_: CaptureRequest) -> None:
    with pytest.raises(CaptureInterrupted, match="before anything was recorded: no run is kept") as caught:
        capture_run(replace(request_, limit_bytes=1000))
    assert one_line(caught.value) and files(request_.store) == []
    assert caught.value.exit_status == 1  # nobody interrupted it


def test_what_fails_before_the_first_token_leaves_nothing_open(
    request_: CaptureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*arguments: object, **options: object) -> None:
        raise OSError("no heartbeat")

    with monkeypatch.context() as patch:
        patch.setattr(session, "Heartbeat", none)
        with pytest.raises(OSError, match="no heartbeat"):
            capture_run(request_)
    assert files(request_.store) == []
    capture_run(request_)  # nobody holds the file


def test_a_byte_limit_counts_what_is_kept(request_: CaptureRequest, text: Path) -> None:
    """Statistics alone of 8000 tokens take a third of what their values take."""
    text.write_text(" ".join(f"w{i}" for i in np.random.default_rng(5).integers(3, 101, 8000)))
    path = capture_run(replace(request_, limit_bytes=6_000_000, keep="stats", batch_size=64))
    with RunFile.open(path) as run:
        assert run.info.status == "complete" and run.tokens == 8000


@pytest.mark.parametrize("generate", [0, 3])
def test_an_estimate_counts_and_touches_no_store(generate: int, request_: CaptureRequest) -> None:
    found = estimate(replace(request_, generate=generate, run="r/unused"))
    prompts = -(-611 // 16)
    assert found.tokens == 611 + prompts * generate
    assert found.values == found.tokens * 192
    assert found.seconds > 0 and found.memory_bytes > 4 * 192 * 8 * 16
    assert not request_.store.exists()
    path = capture_run(replace(request_, generate=generate))
    before = path.read_bytes()
    assert estimate(replace(request_, generate=generate)).tokens == found.tokens
    assert path.read_bytes() == before and files(request_.store) == ["r.duckdb"]
    with RunFile.open(path) as run:
        assert run.tokens <= found.tokens  # an end of sequence may come earlier
    assert found.bytes == pytest.approx(path.stat().st_size, rel=0.25)


def test_an_estimate_says_whether_the_disk_has_room(
    request_: CaptureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usage, asked = shutil.disk_usage(tmp_path), []

    def disk(free: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda place: asked.append(place) or usage._replace(free=free))

    needed = estimate(request_).bytes
    for free, limit, fits in (
        (needed, None, True),
        (needed - 1, None, False),
        (needed - 1, needed - 1, True),
        (needed - 2, needed - 1, False),
    ):
        disk(free)
        found = estimate(replace(request_, limit_bytes=limit))
        assert (found.free_bytes, found.fits, found.bytes) == (free, fits, needed)
    assert request_.store.is_relative_to(asked[-1]) and asked[-1].exists(), "the disk of a store that is not there yet"
    request_.store.mkdir()
    (request_.store / f"{request_.run}.duckdb").write_bytes(bytes(1000))
    disk(needed - 1000)
    assert estimate(replace(request_, resume=True)).fits and not estimate(request_).fits


def test_estimated_bytes_take_the_longest_prompt_of_a_batch(request_: CaptureRequest, text: Path) -> None:
    short_first = "\n".join(["w3", " ".join(["w4"] * 40), "w5"])
    prompts = text.with_name("p.txt")
    prompts.write_text(short_first)
    request = replace(request_, text=(), prompts=(PromptFile(prompts),), keep="stats")
    same_width = text.with_name("q.txt")
    same_width.write_text("\n".join([" ".join(["w4"] * 40)] * 3))
    other = replace(request, prompts=(PromptFile(same_width),))
    assert estimate(request).memory_bytes == estimate(other).memory_bytes


@pytest.mark.parametrize(
    ("keep", "prompts", "tokens", "concepts", "precision"),
    [
        ("all", 90, 32, 2, "float32"),
        ("all", 700, 2, 1, "float32"),
        ("all", 40, 256, 1, "int8"),
        pytest.param("all", 90, 64, 1, "float16", marks=pytest.mark.slow),
        pytest.param("stats", 1300, 2, 8, "float32", marks=pytest.mark.slow),
    ],
)
def test_bytes_are_estimated_within_a_twentieth(
    keep: Keep, prompts: int, tokens: int, concepts: int, precision: Precision, tmp_path: Path
) -> None:
    neurons = 1024
    layers = [Layer(i, "mlp", i, f"h.{i}", neurons, "relu", "positive") for i in range(2)]
    words = [f"w{j}" for j in range(tokens)]
    given = [
        ArrayPrompt(f"c{i % concepts}", " ".join(words), list(range(tokens)), words, tokens) for i in range(prompts)
    ]

    def values(prompt: int, layer: Layer) -> np.ndarray:
        return np.random.default_rng([prompt, layer.layer_id]).standard_normal((tokens, neurons), dtype=np.float32)

    path = tmp_path / "r.duckdb"
    write_run(path, layers=layers, prompts=given, values=values, keep=keep, precision=precision)
    size = path.stat().st_size
    assert size >= 20e6
    expected = run_bytes(
        layers, keep, precision, tokens=prompts * tokens, prompts=prompts, concepts=concepts, generates=False
    )
    assert expected == pytest.approx(size, rel=0.05)


# Wrong requests


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sites": ("mlp", "heads")}, "heads"),
        ({"sites": ("mixer",)}, "mixer"),
        ({"layers": (0, 3)}, "3"),
        ({"run": "a/b"}, "it contains a slash"),
        ({"run": ""}, "it is empty"),
        ({"model": "/nowhere/at/all"}, "/nowhere/at/all"),
        ({"dtype": "float12"}, "float12"),
        ({"text": ()}, "found none: give --prompts FILE or --text FILE"),
        ({"context": 65}, "found 65"),
    ],
)
def test_a_wrong_request_is_one_line_and_leaves_nothing(
    change: dict[str, Any], said: str, request_: CaptureRequest
) -> None:
    with pytest.raises(NfinspectError, match=re.escape(said)) as caught:
        capture_run(replace(request_, **change))
    assert one_line(caught.value) and files(request_.store) == []


def test_names_are_checked_before_the_model_is_loaded(request_: CaptureRequest) -> None:
    path = capture_run(replace(request_, max_tokens=20))
    before = path.read_bytes()
    nowhere = replace(request_, model="/nowhere/at/all")
    with pytest.raises(RunExists, match="a run named r already exists"):
        capture_run(nowhere)
    with pytest.raises(BadName, match="slash"):
        capture_run(replace(nowhere, run="../r"))
    assert path.read_bytes() == before and files(request_.store) == ["r.duckdb"]


def test_a_store_that_is_a_file_is_one_line(request_: CaptureRequest) -> None:
    request_.store.write_text("not a store")
    with pytest.raises(NfinspectError, match="expected a directory of runs, found a file") as caught:
        capture_run(request_)
    assert one_line(caught.value) and request_.store.read_text() == "not a store"


@pytest.mark.parametrize(
    "model", ["gpt2", "org/gpt2", "/models/gpt2/", ".", "..", "/", "/models/.hidden", "/m/-x", "/m/" + "x" * 200]
)
def test_a_run_named_after_its_model_can_be_a_run(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nfinspect_store.names import check_name

    monkeypatch.chdir(tmp_path)
    name = check_name(default_name(model))
    assert re.fullmatch(r".+-\d{8}-\d{6}", name)
    if model.strip("/").endswith("gpt2"):
        assert name.startswith("gpt2-")


# Progress and signals


def test_progress_goes_from_nothing_to_all(request_: CaptureRequest) -> None:
    seen: list[Progress] = []
    capture_run(request_, Listener(progress=seen.append))
    done = [p.tokens_done for p in seen]
    assert done[0] == 0 and done[-1] == 611 and done == sorted(done)
    assert {p.tokens_total for p in seen} == {611}
    assert seen[-1].phase == "finishing" and seen[-1].bytes > 0 and seen[-1].tokens_per_second > 0


@pytest.fixture
def hang_up_ignored() -> Iterator[None]:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGHUP, before)


def test_under_nohup_a_hang_up_stops_nothing(hang_up_ignored: None) -> None:
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.reason is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.reason == "the system asked for it"
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_handlers_are_put_back() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    with StopRequest() as stop, pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.reason == "Ctrl-C"
        os.kill(os.getpid(), signal.SIGINT)  # the second one does not wait
    assert [signal.getsignal(number) for number in numbers] == before
