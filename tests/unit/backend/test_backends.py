"""A backend's place in its store: who may talk to it, how it ends, and that nothing is left of it."""

import datetime as dt
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from running_backends import ended, started, wait_until

from nfinspect.backend.client import Backend, Lost, statuses
from nfinspect.backend.directory import FOLDER, BackendRuns, Entry, NoBackend, Place, connected, living
from nfinspect.backend.protocol import VERSION, AskStatus, BadMessage, Hello, JobState, Submit, decoded, encoded
from nfinspect.cli import main
from nfinspect.cli.backend import job_document
from nfinspect_store.errors import NfinspectError, RequestError


def raw(store: Path) -> socket.socket:
    """A connection that has not greeted."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.settimeout(20)
    folder = os.open(store / FOLDER, os.O_PATH)
    made.connect(f"/proc/self/fd/{folder}/gpt2.sock")
    os.close(folder)
    return made


def test_it_is_listed_with_what_the_contract_names(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backends", "--store", str(shared), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert {"id", "model", "device", "pid", "since", "idle_seconds", "job", "queue", "memory_bytes"} <= set(found)
    assert found["id"] == "gpt2" and found["device"] == "cpu" and found["job"] is None and found["queue"] == []
    assert found["memory_bytes"] > 10**7
    assert abs(dt.datetime.fromisoformat(found["since"]) - dt.datetime.now(dt.UTC).replace(tzinfo=None)).seconds < 900
    page = (Path(__file__).parents[3] / "docs/json.md").read_text(encoding="utf-8")
    (shape,) = re.findall(r"^ {4}backends +\[\{(.*?)\}\]\n\n", page, re.MULTILINE | re.DOTALL)
    assert re.findall(r"\w+", re.sub(r"\{.*\}", "", shape, flags=re.DOTALL)) == list(found)
    assert re.findall(r"\w+", shape.partition("queue[{")[2]) == list(job_document(JobState(1, (), "", "waiting")))
    assert main(["backends", "--store", str(shared)]) == 0
    assert "gpt2" in capsys.readouterr().out


def test_socket_and_folder_are_the_users_alone(shared: Path) -> None:
    assert (shared / FOLDER).stat().st_mode & 0o777 == 0o700
    assert (shared / FOLDER / "gpt2.sock").stat().st_mode & 0o777 == 0o600


def test_a_second_one_of_the_same_name_is_refused(shared: Path) -> None:
    with pytest.raises(BackendRuns, match=r"gpt2 runs already \(process \d+\)"):
        Place(shared, "gpt2")
    with Backend.connect(shared, "gpt2") as backend:
        assert backend.status().state == "ready"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_users_connection_is_refused(shared: Path) -> None:
    program = textwrap.dedent("""
        import os, socket, sys
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        made.connect(sys.argv[1])
        while piece := made.recv(4096):
            print(piece.decode())
    """)
    address = shared / FOLDER / "gpt2.sock"
    opened = [address, *(p for p in address.parents if not p.stat().st_mode & 0o001)]
    modes = {path: path.stat().st_mode for path in opened}
    refused = subprocess.run([sys.executable, "-c", program, str(address)], capture_output=True, text=True, check=False)
    assert "PermissionError" in refused.stderr  # by the socket's mode alone
    try:
        for path in opened:
            path.chmod(modes[path] | 0o777)
        talked = subprocess.run(
            [sys.executable, "-c", program, str(address)], capture_output=True, text=True, check=False
        )
    finally:
        for path, mode in modes.items():
            path.chmod(mode & 0o7777)
    assert "NotAllowed" in talked.stdout and "found one of user 65534" in talked.stdout, talked.stderr
    assert "Hello" not in talked.stdout


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "expected a message"),
        (b'{"message": "Hello", "version": 99}\n', f"version {VERSION}"),
        (b'{"message": "AskStatus"}\n', "expected Hello"),
        (encoded(Hello()) + b"x" * 200 + b"\n", "expected a message"),
        (b"x" * 5000, "at most 4096"),
        (encoded(Hello()) + b'{"message": "Status"}\n', "lacks a field"),
        (encoded(Hello()) + b'{"message": "End"}\n', "expected a request"),
    ],
)
def test_what_is_no_message_ends_the_connection_and_nothing_else(shared: Path, sent: bytes, said: str) -> None:
    with raw(shared) as client:
        client.sendall(sent)
        heard = b""
        while piece := client.recv(4096):
            heard += piece
    assert said in heard.decode()
    with Backend.connect(shared, "gpt2") as backend:
        assert backend.status().state == "ready"


def test_messages_come_back_as_they_were(shared: Path) -> None:
    job = JobState(3, ("capture", "m"), "/", "running", total=None, notes=("a", "b\n"))
    for message in (Hello(), AskStatus(), Submit(("text", "\x1b[31m é"), "/"), job):
        assert decoded(encoded(message)) == message
    with pytest.raises(BadMessage, match=r"expected int as Wait.job"):
        decoded(b'{"message": "Wait", "job": "1"}')
    with pytest.raises(BadMessage, match="has no field 'more'"):
        decoded(b'{"message": "Hello", "version": 2, "more": 2}')


def test_only_commands_that_need_a_model_are_run(shared: Path) -> None:
    with Backend.connect(shared, "gpt2") as backend:
        for arguments in (["delete", "r"], ["backend", "m"], []):
            with pytest.raises(RequestError, match="a backend runs capture"):
                backend.submit(arguments)
        with pytest.raises(RequestError, match="no job 99"):
            backend.act(99, "cancel")


def test_a_store_too_deep_for_a_socket_address_holds_one_all_the_same(tmp_path: Path) -> None:
    store = tmp_path / ("d" * 100) / ("e" * 100)
    place = Place(store, "a")
    try:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.close()
        assert [entry.id for entry in living(store)[0]] == ["a"]
    finally:
        place.close()
    assert not (store / FOLDER).exists()


def test_what_a_killed_one_left_is_recognised_and_removed(tmp_path: Path) -> None:
    place = Place(tmp_path, "a")
    place.tell(Entry("a", 1, "m", ("capture", "m", "--text", "t")))
    os.close(place._lock)  # as the system does when the process ends, however it ends
    place.socket.close()
    with pytest.raises(NoBackend, match="no backend a answers"):
        connected(tmp_path, "a")
    alive, dead = living(tmp_path)
    assert alive == () and [entry.job[:2] for entry in dead] == [("capture", "m")]
    assert list((tmp_path / FOLDER).iterdir()) == []
    assert living(tmp_path) == ((), ())
    again = Place(tmp_path, "a")
    again.close()


@pytest.mark.slow
def test_one_that_is_killed_is_told_of_with_the_line_that_goes_on(
    model: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    process, backend = started(store, model)
    (store / "slow").write_text("0.2")
    arguments = ["capture", str(model), "--text", str(text), "--context", "16", "--batch-size", "8", "--run", "r"]
    arguments += ["--store", str(store), "--layers", "0", "--max-tokens", "3000"]
    with backend:
        job = backend.submit(arguments)
        while job.done < 300:
            job = backend.wait(job)
        process.send_signal(signal.SIGHUP)  # the terminal hangs up: nothing happens
        before = job.done
        while job.done < before + 128:
            job = backend.wait(job)
        process.kill()
        process.wait()
        with pytest.raises(Lost, match="has ended or was killed") as lost:
            while True:
                job = backend.wait(job)
    assert "--resume continues" in str(lost.value)
    assert statuses(store)[0] == ()
    capsys.readouterr()
    assert not list((store / FOLDER).glob("*.sock"))
    assert main(["runs", "--store", str(store), "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)
    assert run["status"] == "interrupted" and run["tokens"] > 0
    assert main([*arguments, "--resume"]) == 0


@pytest.mark.slow
def test_it_ends_when_idle_and_with_sigterm(model: Path, tmp_path: Path) -> None:
    process, backend = started(tmp_path, model, "--idle", "1s")
    with backend:
        wait_until(lambda: process.poll() is not None)
    assert process.returncode == 0
    assert not (tmp_path / FOLDER).exists()
    process, backend = started(tmp_path, model)
    backend.close()
    assert ended(process) in (0, 130)
    assert not (tmp_path / FOLDER).exists()


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_is_one_line(tmp_path: Path) -> None:
    from nfinspect.backend.client import start

    with pytest.raises(NfinspectError) as error, start(tmp_path, str(tmp_path / "nothing")) as backend:
        job = backend.submit(["text", "a"])
        while not job.ended:
            job = backend.wait(job)
        raise NfinspectError(job.line)
    assert str(error.value)
    wait_until(lambda: not (tmp_path / FOLDER).exists() or not list((tmp_path / FOLDER).iterdir()))
