"""Whatever a user gets wrong ends in one line on stderr and exit status 1 or 2, and costs no run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import duckdb
import pytest
from command_line import Run

from nfinspect.cli.errors import explained
from nfinspect_store.connect import query_message
from nfinspect_store.errors import RequestError, RunNotFound
from nfinspect_store.heartbeat import Heartbeat


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        (("info", "nothing"), 1, "no run 'nothing'"),
        (("info", "plantd"), 1, "planted"),
        (("info", "a/b"), 1, "no run 'a/b'"),
        (("info", "x.txt"), 1, "not a run file"),
        (("health", "text"), 1, "not a run file, or is damaged"),
        (("health", "empty"), 1, "empty"),
        (("health", "planted", "--site", "attn"), 2, "mlp, resid"),
        (("health", "planted", "--threshold-scale", "other"), 2, "layer"),
        (("neurons", "planted", "--layer", "9"), 2, "layers 0-2"),
        (("neurons", "planted", "--class", "ded"), 2, "dead"),
        (("neurons", "planted", "--sort", "size"), 2, "firing_rate"),
        (("neurons", "planted", "--filter", "max >"), 2, "max"),
        (("neurons", "planted", "--top", "-1"), 2, "--top"),
        (("neuron", "planted", "5"), 2, "L5/N123"),
        (("neuron", "planted", "L1/N64"), 2, "neurons 0-63"),
        (("neuron", "planted", "L9/N1"), 2, "layers 0-2"),
        (("neuron", "planted", "resid:L1/N1", "--site", "mlp"), 2, "expected one site"),
        (("trace", "planted"), 2, "--concept"),
        (("trace", "planted", "--concept", "rose"), 2, "tulip"),
        (("trace", "planted", "--concept", "tulip", "--baseline", "rose"), 2, "tulip"),
        (("trace", "planted", "--concept", "tulip", "--rank", "size"), 2, "auroc"),
        (("overlap", "planted", "--concepts", "tulip"), 2, "two concepts"),
        (("sql", "planted", "SELECT * FROM nothing"), 1, "nothing does not exist"),
        (("sql", "planted", "DROP TABLE neurons"), 1, "only queries"),
        (("sql", "planted", "SELECT * FROM read_csv('/etc/passwd')"), 1, "disabled by configuration"),
        (("sql", "planted", "FROM neurons", "--format", "parquet"), 2, "--out"),
        (("sql", "planted"), 2, "RUN"),
        (("export", "planted", "--out", "x.txt"), 1, "found a file"),
        (("export", "planted", "--out", "out", "--formats", "xlsx"), 2, "parquet"),
        (("runs", "--store", "x.txt"), 1, "found a file"),
        (("capture", "gpt2"), 2, "--prompts"),
        (("capture", "gpt2", "--prompts", "a.txt", "--sites", "head"), 2, "mixer"),
        (("capture", "gpt2", "--prompts", "a.txt", "--layers", "3-1"), 2, "0-3,11"),
        (("capture", "gpt2", "--prompts", "a.txt", "--limit-bytes", "lots"), 2, "20G"),
        (("capture", "gpt2", "--prompts", "a.txt", "--temperature", "nan"), 2, "found nan"),
        (("capture", "gpt2", "--prompts", "a.txt", "--store", "x.txt"), 1, "found a file"),
        ((), 2, "needs a terminal"),
        (("healht",), 2, "did you mean health"),
        (("healht", "planted"), 2, "did you mean health"),
        (("--nonsense",), 2, "--nonsense"),
        (("health",), 2, "RUN"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_bad_input_ends_in_one_line(
    nfinspect: Run, store: Path, tmp_path: Path, arguments: tuple[str, ...], status: int, expected: str
) -> None:
    (store / "text.duckdb").write_text("not a run")
    (store / "empty.duckdb").touch()
    (tmp_path / "x.txt").write_text("a file")
    before = (store / "planted.duckdb").read_bytes()
    done = nfinspect(*arguments)
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("nfinspect: ")
    assert expected in done.stderr
    assert (store / "planted.duckdb").read_bytes() == before


def test_hostile_names_are_shown_not_obeyed(nfinspect: Run) -> None:
    done = nfinspect("info", "\x1b[2J\u202ename")
    assert done.returncode == 1
    assert "\x1b" not in done.stderr and "\u202e" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("info", "nothing"), 1),
        (("trace", "planted", "--concept", "rose"), 2),
        ((), 2),
        (("runs", "--store", "x"), 0),
    ],
)
def test_a_process_exits_with_the_status(process: Run, arguments: tuple[str, ...], status: int) -> None:
    done = process(*arguments)
    assert done.returncode == status
    assert done.stdout == "" and len(done.stderr.splitlines()) == 1


def test_beside_a_directory_called_like_the_package(process: Run, tmp_path: Path) -> None:
    """As in the directory that a clone lies in. An editable install is passed over there; any other works."""
    (tmp_path / "nfinspect").mkdir()
    done = process("--version")
    assert done.stdout.startswith("nfinspect ") or "directory called nfinspect for the package" in done.stderr
    assert process("--version", PYTHONSAFEPATH="1").returncode == 0


def test_debug_shows_the_traceback(process: Run) -> None:
    for arguments in (("--debug", "info", "nothing"), ("info", "nothing", "--debug")):
        done = process(*arguments)
        assert done.returncode == 1
        assert "Traceback" in done.stderr and "RunNotFound" in done.stderr


def test_a_run_that_is_being_captured_is_told_apart(nfinspect: Run, store: Path) -> None:
    Heartbeat(store / "planted.duckdb", model="gpt2").beat(tokens_done=1, tokens_total=10, phase="reading")
    done = nfinspect("health", "planted")
    assert done.returncode == 1 and "is being captured" in done.stderr
    done = nfinspect("delete", "planted")
    assert done.returncode == 1 and (store / "planted.duckdb").exists()
    assert "capturing 10%" in nfinspect("runs").stdout


def test_whoever_reads_may_stop_reading(store: Path) -> None:
    command = f"{sys.executable} -m nfinspect sql planted 'FROM activations' --format csv | head -n 2"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        env={**os.environ, "NFINSPECT_STORE": str(store)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.splitlines()[0] == "site,layer,neuron,token_idx,value"


def test_ctrl_c_stops_a_query(store: Path) -> None:
    spin = "SELECT count(*) FROM range(1000000000000) t(i) WHERE i % 7 = 3"
    process = subprocess.Popen(
        [sys.executable, "-m", "nfinspect", "sql", "planted", spin],
        env={**os.environ, "NFINSPECT_STORE": str(store)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        time.sleep(2.5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130
    assert (out, err) == ("", "nfinspect: interrupted\n")


class OutOfMemoryError(RuntimeError):
    """As torch's."""


OutOfMemoryError.__module__ = "torch"


@pytest.mark.parametrize(
    ("error", "status", "expected"),
    [
        (RunNotFound("no run"), 1, "no run"),
        (RequestError("wrong"), 2, "wrong"),
        (click.UsageError("wrong"), 2, "wrong"),
        (click.FileError("a.txt", "gone"), 1, "gone"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (click.Abort(), 130, "interrupted"),
        (MemoryError(), 1, "out of memory"),
        (OutOfMemoryError("CUDA out of memory.\nTried to allocate"), 1, "out of memory"),
        (duckdb.IOException("IO Error: No space left on device\nmore"), 1, "disk is full"),
        (duckdb.BinderException("Binder Error: x\n\nLINE 1"), 1, "Binder Error: x"),
        (OSError(28, "No space left on device"), 1, "disk is full"),
        (PermissionError(13, "Permission denied", "/x"), 1, "/x: Permission denied"),
        (ModuleNotFoundError("No module named 'x'", name="x"), 1, "'x'"),
        (ValueError("two\nlines"), 1, "ValueError: two lines"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_every_exception_is_one_line(error: BaseException, status: int, expected: str) -> None:
    line, found = explained(error)
    assert found == status
    assert expected in line
    assert "\n" not in line


def _set(store: Path, statement: str) -> None:
    with duckdb.connect(str(store / "planted.duckdb")) as connection:
        connection.execute(statement)


@pytest.mark.parametrize("status", ["interrupted", "capturing", "failed"])
def test_a_run_that_was_cut_short_says_so(nfinspect: Run, store: Path, status: str) -> None:
    """`capturing` stays in the file of a capture that was killed; without its process it is an interrupted one."""
    _set(store, f"UPDATE run SET status = '{status}'")
    shown = "interrupted" if status == "capturing" else status
    done = nfinspect("health", "planted")
    assert done.returncode == 0 and done.stdout.startswith("Health")
    assert (
        done.stderr
        == f"planted is {shown}: it holds 1,200 tokens; repeat its capture command with --resume to continue\n"
    )
    assert json.loads(nfinspect("info", "planted", "--json").stdout)["status"] == shown


def test_a_run_cut_short_before_its_first_token_is_described_and_no_more(nfinspect: Run, store: Path) -> None:
    _set(store, "UPDATE run SET status = 'capturing'; DELETE FROM tokens")
    for arguments in (("health", "planted"), ("neurons", "planted"), ("trace", "planted", "--concept", "tulip")):
        done = nfinspect(*arguments)
        assert done.returncode == 1
        assert done.stderr.startswith("nfinspect: planted holds nothing yet: its capture was cut short;")
    assert nfinspect("info", "planted").returncode == 0


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_end_in_no_traceback(store: Path, closed: str) -> None:
    line = f'"$0" -m nfinspect runs --store "$1" {closed}'
    done = subprocess.run(["sh", "-c", line, sys.executable, str(store)], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr == ""


def test_damage_is_told_from_a_wrong_query() -> None:
    assert query_message(duckdb.IOException("Corrupt database file: computed checksum 1")).startswith("the run file is")
    wrong = duckdb.CatalogException("Catalog Error: Table with name checksum does not exist!\nLINE 1")
    assert query_message(wrong) == "Catalog Error: Table with name checksum does not exist!"


def test_files_that_a_shell_made_of_a_pattern_are_told_what_they_lack(nfinspect: Run) -> None:
    done = nfinspect("capture", "gpt2", "--prompts", "a.json", "b.json", "c.json")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "extra arguments (b.json c.json): --prompts goes before each file (" in done.stderr
    assert "--prompts" not in nfinspect("runs", "x").stderr
