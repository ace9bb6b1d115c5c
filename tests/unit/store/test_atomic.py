"""Whatever a path leads to stays what it is: links stay links, devices and pipes are written into, leftovers go."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from nfinspect.tui.output import write_json, write_rows
from nfinspect_store.atomic import check_place, new_directory, next_to, replaced
from nfinspect_store.console import Console
from nfinspect_store.errors import StorageFull
from nfinspect_store.export import export_run
from nfinspect_store.write_result import Format, write_result


def put(path: Path, text: str = "new") -> None:
    with replaced(path) as temporary:
        temporary.write_text(text)


def unfinished(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name.startswith("."))


def test_what_a_link_leads_to_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    target = tmp_path / "far" / "target.csv"
    target.write_text("old")
    target.chmod(0o640)
    link, chain, dangling = tmp_path / "link", tmp_path / "chain", tmp_path / "dangling"
    link.symlink_to(target)
    chain.symlink_to("link")
    dangling.symlink_to(tmp_path / "far" / "to-come.csv")
    for path in (link, chain, dangling):
        put(path, path.name)
        assert path.is_symlink() and path.read_text() == path.name
    assert target.read_text() == "chain" and target.stat().st_mode & 0o777 == 0o640
    assert unfinished(tmp_path) == unfinished(tmp_path / "far") == []


def test_a_link_to_itself_and_a_directory_are_refused(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    for path in (loop, tmp_path):
        with pytest.raises(StorageFull) as caught:
            put(path)
        assert "\n" not in str(caught.value)
    for make in (new_directory, check_place):
        with pytest.raises(StorageFull), make(loop):  # type: ignore[attr-defined]
            pass
    assert loop.is_symlink() and list(tmp_path.iterdir()) == [loop]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("old")
    with pytest.raises(ValueError, match="half"), replaced(file) as temporary:
        temporary.write_text("ha")
        raise ValueError("half")
    assert file.read_text() == "old" and unfinished(tmp_path) == []


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_a_pipe_gets_the_result_and_stays_a_pipe(store: Path, tmp_path: Path, kind: Format) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    with Console(store / "planted.duckdb") as console:
        assert write_result(console.run("SELECT neuron, class FROM neurons"), kind, pipe) == 240
        plain = tmp_path / f"plain.{kind}"
        write_result(console.run("SELECT neuron, class FROM neurons"), kind, plain)
    reader.join(10)
    if kind == "parquet":
        (tmp_path / "from-pipe").write_bytes(got[0])
        assert pq.read_table(tmp_path / "from-pipe").num_rows == 240
    else:
        assert got == [plain.read_bytes()]
    assert pipe.is_fifo() and unfinished(tmp_path) == []


def test_a_device_stays_a_device() -> None:
    before = os.stat("/dev/null")
    put(Path("/dev/null"))
    after = os.stat("/dev/null")
    assert (after.st_mode, after.st_rdev, after.st_ino) == (before.st_mode, before.st_rdev, before.st_ino)


def test_an_open_file_is_written_into(tmp_path: Path) -> None:
    """/dev/stdout of a shell's `> out` is that very file, and whoever has it open sees what is written."""
    file = tmp_path / "out"
    with file.open("w+") as out:
        put(Path(f"/dev/fd/{out.fileno()}"))
        assert os.fstat(out.fileno()).st_ino == file.stat().st_ino
        assert out.read() == "new"


def test_a_reader_that_has_gone_is_no_error_of_ours(tmp_path: Path) -> None:
    end, start = os.pipe()
    os.close(end)
    with pytest.raises(BrokenPipeError):
        put(Path(f"/dev/fd/{start}"))
    os.close(start)


def test_exports_of_the_app_keep_links_and_appear_whole(tmp_path: Path) -> None:
    target, link = tmp_path / "target.csv", tmp_path / "link.csv"
    target.write_text("old")
    link.symlink_to(target)

    def rows() -> "object":
        yield (1,)
        assert target.read_text() == "old"  # whoever quits now has what was there
        yield (2,)

    assert "2 rows" in write_rows(str(link), ["n"], rows())  # type: ignore[arg-type]
    assert link.is_symlink() and target.read_text().split() == ["n", "1", "2"]
    write_json(str(link), {"a": 1})
    assert link.is_symlink() and '"a": 1' in target.read_text()


def test_a_directory_through_a_link_and_links_within_it(store: Path, tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    link.symlink_to(real)  # nothing there yet
    run = store / "planted.duckdb"
    export_run(run, link, formats=["csv"], tables=["run"])
    assert link.is_symlink() and (real / "run.csv").is_file()
    kept = tmp_path / "kept.csv"
    (real / "run.csv").rename(kept)
    (real / "run.csv").symlink_to(kept)
    (real / "notes.txt").write_text("mine")
    before = kept.read_text()
    kept.write_text("old")
    export_run(run, link, formats=["csv"], tables=["run"], force=True)
    assert (real / "run.csv").is_symlink() and kept.read_text() == before
    (real / "run.csv").unlink()
    os.mkfifo(real / "run.csv")
    with pytest.raises(StorageFull, match="expected a file to replace"):
        export_run(run, link, formats=["csv"], tables=["layers", "run"], force=True)
    assert sorted(p.name for p in real.iterdir()) == ["notes.txt", "run.csv"]


def test_what_a_killed_process_left_goes_when_the_same_is_written_again(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    for name in ("a.csv", "folder"):
        mine = next_to(tmp_path / name)
        left = mine.with_name(mine.name.replace(f"-{os.getpid()}-", f"-{gone.pid}-"))
        left.mkdir()
        (left / "half").touch()
        mine.touch()  # of a process that runs
        (tmp_path / f".{name}.notes").touch()
    put(tmp_path / "a.csv")
    with new_directory(tmp_path / "folder"):
        pass
    names = unfinished(tmp_path)
    assert len(names) == 4 and not any(str(gone.pid) in name for name in names)


FULL = """
import resource, signal, sys
from nfinspect_store.errors import StorageFull
from nfinspect_store.export import export_run
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
run, out, kind, limit = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
try:
    export_run(run, out, formats=[kind])
except StorageFull as error:
    print(error)
"""


@pytest.mark.parametrize("kind", ["safetensors", "parquet", "csv"])
def test_an_export_that_does_not_fit_ends_in_an_error_and_leaves_nothing(
    store: Path, tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    command = [sys.executable, "-c", FULL, str(store / "planted.duckdb"), str(folder / "x"), kind, "3000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, (signal.Signals(-done.returncode) if done.returncode < 0 else "", done.stderr[-500:])
    assert "cannot write" in done.stdout and len(done.stdout.splitlines()) == 1
    assert list(folder.iterdir()) == []
