"""A history grows line by line, is read while it does, and survives whatever ends its writer."""

import json
import os
import resource
from pathlib import Path

import pytest

from nfinspect.analysis.history import Alert, LayerReading, LiveHistory, Reading, read_history
from nfinspect_store.catalog import list_everything, list_runs, run_path
from nfinspect_store.errors import NotARun, RunBusy, RunExists, RunNotFound, StorageFull
from nfinspect_store.history import HistoryWriter, delete_history, history_path, list_histories, new_history_path

FACTS = {"run_id": "x", "model": "Net", "created_at": "2026-11-20T12:30:00", "every": 5, "first_step": 1}


def reading(step: int) -> Reading:
    layers = tuple(LayerReading(i, f"h.{i}", 10, 50, 0.4, 0.9, "normal", step % 3, died=(1, 2)) for i in range(2))
    return Reading(step, "2026-11-20T12:30:00", 0.5, 0.8, 10.0, 0, layers)


def begun(store: Path, name: str = "night") -> HistoryWriter:
    writer = HistoryWriter(new_history_path(store, name), "Net")
    writer.add("run", FACTS)
    writer.beat(0)
    return writer


def test_what_is_written_is_read_while_it_grows(tmp_path: Path) -> None:
    writer = begun(tmp_path)
    live = LiveHistory(tmp_path / "night.history.jsonl")
    assert live.update() and not live.update()
    assert live.history.status == "capturing" and live.history.readings == ()
    for step in (5, 10):
        writer.add("reading", reading(step).to_json())
        assert live.update()
        assert live.history.readings[-1] == reading(step)
    alert = Alert(10, "dying", "warning", "layer h.1 is dying", 1, "h.1", (1, 2), (10, 10))
    writer.add("alert", alert.to_json())
    writer.add("end", {"status": "complete", "step": 10})
    writer.close()
    live.update()
    assert live.history.alerts == (alert,) and live.history.status == "complete"
    assert read_history(tmp_path / "night.history.jsonl") == live.history
    assert live.history.readings[1].dead_share == 0.1 and live.history.layers == ("h.0", "h.1")


def test_half_a_line_is_not_read_and_is_cut_on_resume(tmp_path: Path) -> None:
    writer = begun(tmp_path)
    writer.add("reading", reading(5).to_json())
    os.write(writer._file, b'{"reading": {"step": 10, "ti')
    writer.close()
    path = tmp_path / "night.history.jsonl"
    history = read_history(path)
    assert [r.step for r in history.readings] == [5] and history.status == "interrupted"
    with pytest.raises(RunExists):
        HistoryWriter(path, "Net")
    again = HistoryWriter(path, "Net", resume=True)
    again.add("run", {**FACTS, "first_step": 6})
    again.add("reading", reading(10).to_json())
    again.close()
    assert [r.step for r in read_history(path).readings] == [5, 10]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_separators_of_lines_in_a_name_do_not_cut_a_line(tmp_path: Path) -> None:
    writer = begun(tmp_path)
    writer.add("alert", Alert(1, "dying", "warning", "a\u2028b\x85c\nd").to_json())
    writer.close()
    assert read_history(tmp_path / "night.history.jsonl").alerts[0].text == "a\u2028b\x85c\nd"


def test_a_line_of_a_later_version_is_left_out(tmp_path: Path) -> None:
    writer = begun(tmp_path)
    writer.add("mood", {"good": True})
    writer.add("reading", {"step": 5})
    writer.add("reading", {**reading(6).to_json(), "more": 1})
    writer.close()
    assert [r.step for r in read_history(tmp_path / "night.history.jsonl").readings] == [6]


@pytest.mark.parametrize(
    "line",
    [
        {**reading(5).to_json(), "step": "5"},
        {**reading(5).to_json(), "loss": "low"},
        {**reading(5).to_json(), "health_score": True},
        {**reading(5).to_json(), "layers": [{**reading(5).layers[0].to_json(), "died": ["N1"]}]},
        {**reading(5).to_json(), "layers": [{**reading(5).layers[0].to_json(), "layer_name": 3}]},
    ],
)
def test_a_line_with_fields_of_other_types_is_left_out(tmp_path: Path, line: dict[str, object]) -> None:
    writer = begun(tmp_path)
    writer.add("reading", line)
    writer.add("reading", {**reading(6).to_json(), "loss": 1})
    writer.close()
    assert [(r.step, r.loss) for r in read_history(tmp_path / "night.history.jsonl").readings] == [(6, 1)]


def test_an_empty_file_is_none_once_its_writer_is_gone(tmp_path: Path) -> None:
    writer = HistoryWriter(new_history_path(tmp_path, "night"), "Net")
    writer.beat(0)
    assert read_history(writer.path).status == "capturing"  # its first line is under way
    writer.close()
    with pytest.raises(NotARun, match="found an empty file"):
        read_history(writer.path)


def test_runs_and_histories_point_to_each_other(store: Path) -> None:
    """Each kind is taken by other commands."""
    begun(store).close()
    for given in ("night", str(store / "night.history.jsonl")):
        with pytest.raises(RunNotFound, match=f"nfinspect watch {given}"):
            run_path(store, given)
    for given in ("planted", str(store / "planted.duckdb")):
        with pytest.raises(RunNotFound, match=f"nfinspect health {given}"):
            history_path(store, given)
    (store / "folder.history.jsonl").mkdir()
    with pytest.raises(RunNotFound, match="holds night$"):
        history_path(store, "folder")


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.history.jsonl").write_text("hello\n")
    with pytest.raises(NotARun):
        read_history(tmp_path / "x.history.jsonl")
    with pytest.raises(RunNotFound, match="holds x"):
        history_path(tmp_path, "y")
    assert [(e.name, e.problem) for e in list_everything(tmp_path)] == [("x", "it does not begin as a history")]


def test_histories_stand_among_the_runs(store: Path) -> None:
    runs = [entry.name for entry in list_runs(store)]
    writer = begun(store)
    writer.beat(7)
    entries = {entry.name: entry for entry in list_everything(store)}
    assert set(entries) == {*runs, "night"} and [e.name for e in list_runs(store)] == runs
    night = entries["night"]
    assert (night.kind, night.status, night.model) == ("history", "capturing", "Net") and night.progress is not None
    with pytest.raises(RunBusy):
        delete_history(night.path)
    writer.add("end", {"status": "failed", "step": 7})
    writer.close()
    assert next(e for e in list_everything(store) if e.name == "night").status == "failed"
    delete_history(night.path)
    assert list_histories(store) == [] and [e.name for e in list_runs(store)] == runs


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    """A limit on file size stands for the full disk."""
    writer = begun(tmp_path)
    path = tmp_path / "night.history.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, before[1]))
        with pytest.raises(StorageFull):
            writer.add("reading", reading(5).to_json())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    writer.add("reading", reading(6).to_json())
    writer.close()
    assert [r.step for r in read_history(path).readings] == [6]
