import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nfinspect_store.heartbeat import (
    Heartbeat,
    being_written,
    heartbeat_path,
    read_heartbeat,
    read_heartbeat_file,
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "a.duckdb"


def test_what_is_beaten_is_read_back(run: Path) -> None:
    beat = Heartbeat(run, model="gpt2")
    beat.beat(tokens_done=5, tokens_total=10, tokens_per_second=2.5, bytes=77, phase="reading")
    found = read_heartbeat_file(run)
    assert found is not None
    assert found.model == "gpt2"
    progress = found.progress
    assert (progress.tokens_done, progress.tokens_total, progress.tokens_per_second) == (5, 10, 2.5)
    assert (progress.bytes, progress.phase, progress.pid) == (77, "reading", os.getpid())
    assert progress.alive
    assert being_written(run)
    beat.remove()
    assert read_heartbeat(run) is None
    assert not being_written(run)


def test_beats_in_quick_succession_are_skipped_but_a_new_phase_is_told(run: Path) -> None:
    beat = Heartbeat(run, min_interval=60)
    beat.beat(tokens_done=1)
    beat.beat(tokens_done=2)
    progress = read_heartbeat(run)
    assert progress is not None and progress.tokens_done == 1
    beat.beat(tokens_done=3, phase="finishing")
    progress = read_heartbeat(run)
    assert progress is not None and progress.tokens_done == 3


def test_a_process_that_is_gone_is_not_alive(run: Path) -> None:
    code = f"from nfinspect_store.heartbeat import Heartbeat; Heartbeat({str(run)!r}).beat(tokens_done=1)"
    subprocess.run([sys.executable, "-c", code], check=True)
    progress = read_heartbeat(run)
    assert progress is not None and not progress.alive


def test_another_process_with_the_same_pid_is_not_the_writer(run: Path) -> None:
    Heartbeat(run).beat()
    file = heartbeat_path(run)
    facts = json.loads(file.read_text())
    if facts["process_started"] is None:
        pytest.skip("no /proc here")
    file.write_text(json.dumps({**facts, "process_started": facts["process_started"] - 1}))
    assert not being_written(run)


@pytest.mark.parametrize(("age", "alive"), [(1, True), (120, False)])
def test_on_another_host_the_age_of_the_beat_decides(run: Path, age: float, alive: bool) -> None:
    Heartbeat(run).beat()
    file = heartbeat_path(run)
    facts = json.loads(file.read_text())
    facts |= {"host": f"not-{socket.gethostname()}", "updated_at": time.time() - age}
    file.write_text(json.dumps(facts))
    assert being_written(run) is alive


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"pid": "x"}'])
def test_a_broken_heartbeat_file_is_none(run: Path, content: str) -> None:
    heartbeat_path(run).write_text(content)
    assert read_heartbeat(run) is None


def test_a_store_that_cannot_be_written_does_not_stop_a_capture(tmp_path: Path) -> None:
    Heartbeat(tmp_path / "missing" / "a.duckdb").beat(tokens_done=1)


def test_removing_it_never_raises(tmp_path: Path) -> None:
    """It stands in a `finally`, where an error of its own would hide the one that counts."""
    heartbeat = Heartbeat(tmp_path / "r.duckdb")
    heartbeat.path.mkdir()
    heartbeat.beat()
    heartbeat.remove()
    assert list(tmp_path.iterdir()) == [heartbeat.path]
