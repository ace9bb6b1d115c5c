"""A capture by four workers of a Ray cluster on this machine, of which one is killed, is the capture of one process."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nfinspect.capturing.classification import classify_tables
from nfinspect.capturing.errors import CaptureError
from nfinspect.capturing.request import CaptureRequest
from nfinspect.capturing.session import Listener, capture_run
from nfinspect.capturing.where import parse_where
from nfinspect_store.errors import NotInstalled, RequestError, RunExists
from nfinspect_store.heartbeat import read_heartbeat
from nfinspect_store.reader import RunFile
from nfinspect_store.verify import verify_run

WORKERS = 4


@pytest.fixture
def request_(gpt2_dir: Path, tmp_path: Path) -> CaptureRequest:
    text = tmp_path / "words.txt"
    text.write_text(" ".join(f"w{i}" for i in np.random.default_rng(5).integers(3, 101, 24_001)))
    return CaptureRequest(
        str(gpt2_dir), tmp_path / "store", text=(text,), run="r", context=16, batch_size=4, device="cpu", generate=2
    )


def killing(part: int, store: Path, said: list[str]) -> Listener:
    """Kills the first worker of a part once it has captured something."""
    killed: list[threading.Thread] = []

    def kill(process: int) -> None:
        path = store / f"r.part-{part}-of-{WORKERS}.duckdb"
        while True:
            beat = read_heartbeat(path)
            if beat is not None and beat.tokens_done > 0:
                os.kill(process, signal.SIGKILL)
                return
            time.sleep(0.01)

    def message(text: str) -> None:
        said.append(text)
        if text.startswith(f"part {part} of {WORKERS}: process ") and not killed:
            killed.append(threading.Thread(target=kill, args=[int(text.split()[5])], daemon=True))
            killed[0].start()

    return Listener(message=message)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what Ray warns of inside itself
def test_four_workers_of_which_one_is_killed(request_: CaptureRequest) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'nfinspect[ray]'")
    from nfinspect.capturing.ray_workers import capture_with_ray

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker with one processor
    try:
        whole = capture_run(replace(request_, run="whole"))
    finally:
        torch.set_num_threads(threads)
    said: list[str] = []
    path = capture_with_ray(request_, WORKERS, "", killing(2, request_.store, said))
    assert f"part 2 of {WORKERS} has lost its worker: another one continues it" in said
    assert sum(" is done: " in text for text in said) == WORKERS
    found = verify_run(path, lambda tables, exact: classify_tables(tables, exact=exact))
    assert found.ok, found.problems
    with RunFile.open(whole) as a, RunFile.open(path) as b:
        assert b.info.status == "complete" and b.tokens == a.tokens
        for layer in a.layers:
            np.testing.assert_array_equal(
                a.activations(layer.site, layer.layer), b.activations(layer.site, layer.layer)
            )
        for table in ("prompts", "tokens", "histograms", "prompt_means"):
            rows = f"SELECT * FROM {table} ORDER BY ALL"
            assert a.sql(rows).fetchall() == b.sql(rows).fetchall(), table
    assert sorted(one.name for one in request_.store.glob("*.duckdb")) == ["r.duckdb", "whole.duckdb"]
    with pytest.raises(RunExists):
        capture_with_ray(request_, WORKERS, "", Listener())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_a_worker_refuses_is_told(request_: CaptureRequest) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'nfinspect[ray]'")
    from nfinspect.capturing.ray_workers import capture_with_ray

    with pytest.raises(CaptureError, match="part [12] of 2 on .*: expected layers between 0 and 2, found 7"):
        capture_with_ray(replace(request_, layers=(7,)), 2, "", Listener())
    assert list(request_.store.glob("r*")) == []


@pytest.fixture
def head() -> Iterator[tuple[str, dict[str, str]]]:
    """The address of a cluster that `ray start --head` began on this machine, and the environment of its users."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'nfinspect[ray]'")
    address = f"127.0.0.1:{free_port()}"
    known = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex}  # of this cluster alone
    environment = {**os.environ, **known, "RAY_USAGE_STATS_ENABLED": "0"}
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # a short path: sockets are in it
        words = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2"]
        words += [f"--port={address.partition(':')[2]}", "--node-ip-address=127.0.0.1", f"--temp-dir={folder}"]
        started = subprocess.Popen(
            [*words, "--include-dashboard=false"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        try:
            assert started.stdout is not None
            said = ""
            while "Ray runtime started" not in said:
                line = started.stdout.readline()
                assert line, said
                said += line
            yield address, environment
        finally:
            started.send_signal(signal.SIGTERM)  # it ends what it has started
            started.communicate(timeout=60)


def free_port() -> int:
    """A port of this machine where nothing listens."""
    with socket.socket() as there:
        there.bind(("127.0.0.1", 0))
        port: int = there.getsockname()[1]
        return port


@pytest.mark.slow
def test_a_cluster_that_is_running_is_used_and_stays(
    gpt2_dir: Path, tmp_path: Path, head: tuple[str, dict[str, str]]
) -> None:
    address, environment = head
    (tmp_path / "words.txt").write_text("".join(f"w{i} w{i + 1} w{i + 2}\n" for i in range(3, 12)))
    words = [sys.executable, "-m", "nfinspect", "capture", str(gpt2_dir), "--store", str(tmp_path / "store")]
    words += ["--prompts", str(tmp_path / "words.txt"), "--run", "r", "--batch-size", "2", "--device", "cpu"]
    done = subprocess.run(
        [*words, f"--ray={address}", "--workers", "2"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(" is done: ") == 2
    assert done.stderr.splitlines()[-1].startswith("captured r "), "nanobind says nothing of DuckDB's objects"
    with RunFile.open(tmp_path / "store" / "r.duckdb") as run:
        assert run.info.status == "complete" and run.prompts == 9
    socket.create_connection(("127.0.0.1", int(address.partition(":")[2])), timeout=5).close()


@pytest.mark.parametrize(
    ("address", "error", "says"),
    [
        ("127.0.0.1:{port}", CaptureError, r"^no Ray cluster answers at 127\.0\.0\.1:\d+: Connection refused$"),
        ("ray://127.0.0.1:{port}", CaptureError, "^no Ray cluster answers at ray://127"),
        ("127.0.0.1:99999", CaptureError, "^no Ray cluster answers at 127.0.0.1:99999: "),
        ("nowhere.invalid:6379", CaptureError, "^no Ray cluster answers at nowhere.invalid:6379: "),
        ("nowhere", RequestError, "^expected --ray=HOST:PORT, the address of a Ray cluster, found 'nowhere'$"),
    ],
)
def test_where_no_cluster_answers_is_told_at_once(
    address: str, error: type[Exception], says: str, request_: CaptureRequest
) -> None:
    """Ray itself would try for minutes."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'nfinspect[ray]'")
    from nfinspect.capturing.ray_workers import ANSWER_SECONDS, capture_with_ray

    start = time.monotonic()
    with pytest.raises(error, match=says) as caught:
        capture_with_ray(request_, 2, address.format(port=free_port()), Listener())
    assert "\n" not in str(caught.value) and time.monotonic() - start < 3 * ANSWER_SECONDS


@contextmanager
def listener(says: bytes | None, after: float = 0) -> Iterator[str]:
    """The address of what is no cluster. says: to whoever connects, `after` seconds after it was spoken to; None:
    nothing."""
    with socket.socket() as there:
        there.bind(("127.0.0.1", 0))
        there.listen()

        def answer() -> None:
            with suppress(OSError):
                while True:
                    one, _ = there.accept()
                    connections.append(one)
                    if says is not None and one.recv(1):
                        time.sleep(after)
                        one.sendall(says)

        connections: list[socket.socket] = []
        answering = threading.Thread(target=answer)
        answering.start()
        try:
            yield f"127.0.0.1:{there.getsockname()[1]}"
        finally:
            there.shutdown(socket.SHUT_RDWR)
            answering.join()
            for one in connections:
                one.close()


@pytest.mark.parametrize("says", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.7\r\n", b"\0", b"", None])
def test_what_listens_and_is_no_cluster_is_refused_within_seconds(
    says: bytes | None, request_: CaptureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray itself would try for 20 seconds."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'nfinspect[ray]'")
    from nfinspect.capturing import ray_workers

    assert ray_workers.FRAME_SECONDS <= 5
    monkeypatch.setattr(ray_workers, "FRAME_SECONDS", 0.3)
    with (
        listener(says) as address,
        pytest.raises(CaptureError, match=rf"^no Ray cluster answers at {address}: something else listens there$"),
    ):
        ray_workers.capture_with_ray(request_, 2, address, Listener())


def test_a_server_far_away_is_no_other_thing() -> None:
    """The head of a frame of settings, as gRPC begins, over a link of 300 ms there and 300 ms back."""
    from nfinspect.capturing.ray_workers import _check_address

    with listener(bytes([0, 0, 24, 4, 0, 0, 0, 0, 0]) + bytes(24), after=0.6) as address:
        _check_address(address)
        _check_address(f"ray://{address}")


def test_without_ray_the_line_that_installs_it_is_told(
    request_: CaptureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nfinspect.capturing.ray_workers import capture_with_ray

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(NotInstalled, match=r"pip install 'nfinspect\[ray\]' on every machine"):
        capture_with_ray(request_, WORKERS, "", Listener())


def test_what_has_no_parts_is_refused_before_a_cluster_is_asked(request_: CaptureRequest) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'nfinspect[ray]'")
    from nfinspect.capturing.ray_workers import capture_with_ray

    beyond = replace(request_, where=parse_where("beyond=p99"))
    with pytest.raises(RequestError, match="does not know: expected no --shard, --ray or --workers"):
        capture_with_ray(beyond, WORKERS, "", Listener())
