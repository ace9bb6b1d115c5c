"""Marks, notes and sets: what the changes leave, in one process and in several, and whose file is left alone."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from nfinspect_store.addresses import Address
from nfinspect_store.errors import NotARun, RequestError, RunBusy, SchemaTooNew, StorageFull, StoreError
from nfinspect_store.marks import MARKED, Marks, Subject, check_note, check_set_name, same_model
from nfinspect_store.marks_file import FILE, MarksFile, changed, noted, set_of

LOGITS = [0.5, -1.0, 2.0, 3.5]
PRINT: dict[str, Any] = {
    "model_type": "gpt2", "token_ids": [1, 2], "vocabulary": [0, 9, 18, 27], "logits": LOGITS, "layers": [[1.0], [2.0]],
}  # fmt: skip
RUN = Subject("r1", "demo", "gpt2")
MODEL = Subject("r2", "tulips", "gpt2", PRINT)


def at(neuron: int, layer: int = 0, site: str = "mlp") -> Address:
    return Address(layer, neuron, site)


def test_marks_survive_and_are_of_the_run(tmp_path: Path) -> None:
    file = MarksFile(tmp_path)
    assert file.read() == Marks()
    file.write([changed(RUN, MARKED, [at(3), at(1)], added=True), changed(RUN, "hot", [at(1)], added=True)])
    file.write([changed(RUN, MARKED, [at(3)], added=False), changed(RUN, MARKED, [at(2)], added=True)])
    found = MarksFile(tmp_path).read()
    assert list(found.members(MARKED, "run:r1", "mlp")) == [(0, 1), (0, 2)]
    assert found.tags("run:r1", "mlp", (0, 1)) == ("hot",)
    assert found.names("run:r1") == (MARKED, "hot") and found.names("run:r2") == ()
    assert file.read() == found


def test_a_neuron_is_one_of_its_model_in_every_run_of_it(tmp_path: Path) -> None:
    """Rounded to another precision, it is the same model; trained on, it is another."""
    rounded = Subject("r3", "in-bf16", "gpt2", {**PRINT, "logits": [x * 1.02 for x in LOGITS]})
    trained = Subject("r4", "later", "gpt2", {**PRINT, "logits": [-x for x in LOGITS]})
    found = MarksFile(tmp_path).write([changed(MODEL, MARKED, [at(1)], added=True)])
    assert found.owner(MODEL) == found.owner(rounded) != found.owner(trained)
    assert found.owner(MODEL).startswith("model:") and found.owner(RUN) == "run:r1"
    for other in ({"model_type": "opt"}, {"layers": [[1.0]]}, {"logits": LOGITS[:3]}, {"logits": ["x"] * 4}):
        assert not same_model(PRINT, {**PRINT, **other})


def test_sets_are_resolved_for_a_run_and_refusals_say_what_there_is(tmp_path: Path) -> None:
    layers = {("mlp", 0): 10}
    MarksFile(tmp_path).write([changed(MODEL, "hot", [at(1), at(2, 7)], added=True)])
    assert set_of(tmp_path, MODEL, layers, "@hot") == ((at(1),), 1)
    for subject, sizes, name, said in (
        (MODEL, layers, "cold", "are @hot"),
        (RUN, layers, "hot", "only some marked in tulips"),
        (MODEL, {("resid", 0): 4}, "hot", "that tulips lacks"),
        (MODEL, layers, "h t", "a set is named by"),
    ):
        with pytest.raises(RequestError, match=said):
            set_of(tmp_path, subject, sizes, name)


def test_two_notes_at_once_lose_neither(tmp_path: Path) -> None:
    one, other = MarksFile(tmp_path), MarksFile(tmp_path)
    one.write([noted(RUN, at(1), "fires on tulips", "")])
    one.write([noted(RUN, at(1), "fires on  flowers\n", "fires on tulips")])
    other.write([noted(RUN, at(1), "fires on red", "fires on tulips")])
    assert one.read().note("run:r1", "mlp", (0, 1)) == "fires on flowers | fires on red"
    one.write([noted(RUN, at(1), "", "fires on flowers | fires on red")])
    assert one.read().note("run:r1", "mlp", (0, 1)) == ""
    with pytest.raises(RequestError, match="2000"):
        noted(RUN, at(1), "x" * 2001, "")


@pytest.mark.parametrize("name", ["", "@", "a b", "../x", "x" * 65, "-x", "a\x1b"])
def test_names_of_sets(name: str) -> None:
    with pytest.raises(RequestError):
        check_set_name(name)
    assert check_set_name("@тюльпан-1.0") == "тюльпан-1.0" and check_note(" a\n b ") == "a b"


WRITER = textwrap.dedent("""
    import sys
    from pathlib import Path
    from nfinspect_store.addresses import Address
    from nfinspect_store.marks import MARKED, Subject
    from nfinspect_store.marks_file import MarksFile, changed
    store, layer, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    file = MarksFile(store)
    for i in range(count):
        file.write([changed(Subject("r1", "demo", "gpt2"), MARKED, [Address(layer, i, "mlp")], added=True)])
        print(i, flush=True)
""")


def writer(store: Path, layer: int, count: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WRITER, str(store), str(layer), str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_processes_that_mark_at_once_lose_nothing(tmp_path: Path) -> None:
    writers = [writer(tmp_path, layer, 15) for layer in range(3)]
    for process in writers:
        process.communicate(timeout=60)
    found = MarksFile(tmp_path)
    assert set(found.read().members(MARKED, "run:r1", "mlp")) == {(layer, i) for layer in range(3) for i in range(15)}
    assert found.skipped == 0


def test_kill_9_loses_at_most_the_mark_being_made(tmp_path: Path) -> None:
    process = writer(tmp_path, 0, 100_000)
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(20)]
    time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    said += process.communicate()[0].splitlines()
    last = int(said[-1])
    found = MarksFile(tmp_path).write([changed(RUN, MARKED, [at(0, 5)], added=True)])
    kept = found.members(MARKED, "run:r1", "mlp")
    assert {(0, i) for i in range(last + 1)} <= set(kept) and len(kept) <= last + 3
    assert (5, 0) in kept


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_line_costs_itself_only(tmp_path: Path, cut: int) -> None:
    file, path = MarksFile(tmp_path), tmp_path / FILE
    file.write([changed(RUN, MARKED, [at(1)], added=True)])
    whole = path.stat().st_size
    file.write([changed(RUN, MARKED, [at(2)], added=True)])
    os.truncate(path, whole + cut)
    found = MarksFile(tmp_path).write([changed(RUN, MARKED, [at(3)], added=True)])
    assert list(found.members(MARKED, "run:r1", "mlp")) == [(0, 1), (0, 3)]
    assert MarksFile(tmp_path).read() == found


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / FILE
    one = [changed(RUN, MARKED, [at(1)], added=True)]

    def refused(kind: type[StoreError]) -> None:
        for ask in (MarksFile(tmp_path).read, lambda: MarksFile(tmp_path).write(one)):
            with pytest.raises(kind) as caught:
                ask()
            assert "\n" not in str(caught.value) and FILE in str(caught.value)

    for content in (b"my list\n", b"[]\n", b'{"marks": {"format": "1"}}\n', b"[" * 5000, b"\xff\xfe\n"):
        path.write_bytes(content)
        refused(NotARun)
        assert path.read_bytes() == content
    path.write_text(json.dumps({"marks": {"format": 2}}) + "\n")
    refused(SchemaTooNew)
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    refused(NotARun)
    assert not (tmp_path / "elsewhere").exists()
    path.unlink()
    os.mkfifo(path)
    refused(NotARun)
    path.unlink()
    path.mkdir()
    refused(NotARun)


def test_lines_that_say_nothing_are_passed_over(tmp_path: Path) -> None:
    file, path = MarksFile(tmp_path), tmp_path / FILE
    file.write([changed(RUN, MARKED, [at(1)], added=True)])
    told = {"of": "run:r1", "run": "demo", "model": "gpt2", "at": "now"}
    bad: list[Any] = [
        [], 1, {}, {"add": 1}, {"add": {**told, "set": MARKED, "neurons": ["L0/N4"]}}, {"later": {}},
        {"add": {**told, "set": "a b", "neurons": ["mlp:L0/N4"]}}, {"add": {**told, "set": MARKED, "neurons": [4]}},
        {"note": {**told, "neuron": "mlp:L0/N4", "text": "x" * 3000, "was": ""}}, {"model": {"of": 1}},
        {"add": {**told, "of": None, "set": MARKED, "neurons": ["mlp:L0/N4"]}},
    ]  # fmt: skip
    with path.open("a") as out:
        out.writelines(json.dumps(line) + "\n" for line in bad)
        out.write("[" * 5000 + "\n")
    assert list(file.read().members(MARKED, "run:r1", "mlp")) == [(0, 1)]
    assert file.skipped == len(bad) + 1


def test_what_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = [changed(RUN, MARKED, [at(1)], added=True)]
    with pytest.raises(StorageFull, match=FILE):
        MarksFile(tmp_path / "none").write(one)
    file = MarksFile(tmp_path)
    before = file.write(one)
    write = os.write
    monkeypatch.setattr(os, "write", lambda to, data: write(to, data[:10]))  # as a full disk does
    with pytest.raises(StorageFull, match="No space"):
        file.write([changed(RUN, MARKED, [at(2)], added=True)])
    monkeypatch.undo()
    assert MarksFile(tmp_path).read() == before and file.read() == before


def test_a_writer_that_hangs_is_not_waited_for_forever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    monkeypatch.setattr("nfinspect_store.marks_file.LOCK_SECONDS", 0.05)
    MarksFile(tmp_path).write([changed(RUN, MARKED, [at(1)], added=True)])
    with (tmp_path / FILE).open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RunBusy, match="locked"):
            MarksFile(tmp_path).write([changed(RUN, MARKED, [at(2)], added=True)])
        assert MarksFile(tmp_path).read().names() == (MARKED,)  # readers wait for nobody
