"""Results of long analyses: found again by their settings and their run, whole or not at all."""

from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from nfinspect_store import results
from nfinspect_store.catalog import delete_run, list_runs
from nfinspect_store.errors import StorageFull, StoreError
from nfinspect_store.results import find_result, keep_result, list_results, model_results, run_results

SETTINGS = {"n": 1, "site": "mlp", "layers": [0, 1]}
DOCUMENT = {"n": 1, "detectors": [{"neuron": 3, "coverage": 0.99, "tokens": [" tulip", "\x1b[31m"]}], "p": None}


def test_a_result_is_found_by_its_settings_and_its_run(tmp_path: Path) -> None:
    folder = tmp_path / "run.results"
    table = pa.table({"layer": pa.array([0, 1], pa.int32()), "profile": [[0.5, 0.25], []]})
    kept = keep_result(folder, "ngrams", SETTINGS, DOCUMENT, run_id="a", tables={"profiles": table})
    found = find_result(folder, "ngrams", {"layers": [0, 1], "site": "mlp", "n": 1}, "a")
    assert found == kept and found is not None
    assert (found.document, found.settings, found.kind, found.run_id) == (DOCUMENT, SETTINGS, "ngrams", "a")
    assert found.table("profiles").to_pydict() == table.to_pydict()
    with pytest.raises(StoreError, match="has no table nothing: it has profiles, result"):
        found.table("nothing")
    assert find_result(folder, "ngrams", {**SETTINGS, "n": 2}, "a") is None
    assert find_result(folder, "positions", SETTINGS, "a") is None
    assert find_result(folder, "ngrams", SETTINGS, "b") is None  # a run captured anew under the same name
    assert find_result(tmp_path / "nowhere", "ngrams", SETTINGS, "a") is None


def test_a_later_result_of_the_same_settings_takes_the_place_of_the_earlier(tmp_path: Path) -> None:
    keep_result(tmp_path, "delta", SETTINGS, {"neurons": [1]}, run_id="a")
    keep_result(tmp_path, "delta", SETTINGS, {"neurons": [2]}, run_id="a")
    keep_result(tmp_path, "attention", {}, {}, run_id=None)
    assert [(r.kind, r.document) for r in list_results(tmp_path)] == [("attention", {}), ("delta", {"neurons": [2]})]
    assert [r.kind for r in list_results(tmp_path, "a")] == ["delta"]


def test_a_result_in_another_format_counts_as_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = keep_result(tmp_path, "delta", SETTINGS, DOCUMENT, run_id="a").path
    monkeypatch.setattr(results, "FORMATS", {"delta": 2})
    assert find_result(tmp_path, "delta", SETTINGS, "a") is None and list_results(tmp_path) == ()
    assert keep_result(tmp_path, "delta", SETTINGS, {}, run_id="a").path == path, "it takes the earlier one's place"
    assert find_result(tmp_path, "delta", SETTINGS, "a") is not None
    with duckdb.connect(str(path)) as connection:
        connection.execute("ALTER TABLE result DROP COLUMN format")  # of a version that had none
    assert find_result(tmp_path, "delta", SETTINGS, "a") is None and list_results(tmp_path) == ()


def test_a_file_is_a_plain_database(tmp_path: Path) -> None:
    path = keep_result(tmp_path, "delta", SETTINGS, DOCUMENT, run_id="a").path
    assert path.stat().st_size < 300_000
    with duckdb.connect(str(path), read_only=True) as connection:
        assert connection.execute("SELECT kind, settings->>'site' FROM result").fetchall() == [("delta", "mlp")]


def test_what_fails_half_way_leaves_the_earlier_result_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_result(tmp_path, "delta", SETTINGS, {"neurons": [1]}, run_id="a")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match="Out of range float"):
        keep_result(tmp_path, "delta", SETTINGS, {"mean": float("nan")}, run_id="a")
    monkeypatch.setattr(results, "RESULT_TABLE", "CREATE TABLE kept.result (a INTEGER)")
    with pytest.raises(StoreError):
        keep_result(tmp_path, "delta", SETTINGS, {"neurons": [2]}, run_id="a")
    assert sorted(tmp_path.iterdir()) == before
    found = find_result(tmp_path, "delta", SETTINGS, "a")
    assert found is not None and found.document == {"neurons": [1]}


def test_a_damaged_result_counts_as_none(tmp_path: Path) -> None:
    path = keep_result(tmp_path, "delta", SETTINGS, {}, run_id="a").path
    path.write_bytes(b"nonsense" * 1000)
    assert find_result(tmp_path, "delta", SETTINGS, "a") is None
    assert list_results(tmp_path) == ()


def test_a_folder_that_cannot_be_made_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFull, match="cannot make"):
        keep_result(tmp_path / "file" / "run.results", "delta", SETTINGS, {}, run_id="a")


def test_results_go_with_their_run_and_are_no_runs(store: Path) -> None:
    run = store / "planted.duckdb"
    keep_result(run_results(run), "delta", SETTINGS, {}, run_id="a")
    assert run_results(run) == store / "planted.results"
    assert "planted" in [entry.name for entry in list_runs(store)]
    assert all("delta" not in entry.name for entry in list_runs(store))
    delete_run(run)
    assert not run_results(run).exists()


def test_results_about_a_model_have_a_folder_of_their_own(tmp_path: Path) -> None:
    assert model_results(tmp_path, "openai-community/gpt2").name == "gpt2.model.results"
    assert model_results(tmp_path, "./models/my model/").name == "my-model.model.results"
    assert model_results(tmp_path, "..").name == "model.model.results"


ODD = {
    "settings": ["NULL", "'[]'", "'null'"],
    "document": ["NULL", "'[1]'", "'3'", "repeat('[', 900) || repeat(']', 900)"],
    "made_at": ["NULL"],
    "kind": ["NULL"],
    "nfinspect_version": ["NULL"],
}


@pytest.mark.parametrize(("column", "value"), [(column, value) for column, odd in ODD.items() for value in odd])
def test_one_result_with_odd_contents_costs_itself_alone(column: str, value: str, tmp_path: Path) -> None:
    path = keep_result(tmp_path, "delta", SETTINGS, DOCUMENT, run_id="a").path
    other = keep_result(tmp_path, "ngrams", SETTINGS, DOCUMENT, run_id="a")
    with duckdb.connect(str(path)) as connection:
        connection.execute(f"UPDATE result SET {column} = {value}")
    assert list_results(tmp_path) == (other,)
    assert find_result(tmp_path, "delta", SETTINGS, "a") is None


def test_a_result_that_has_not_changed_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(
        results, "locked", lambda files, *, of=results.locked, **how: opened.append([*files]) or of(files, **how)
    )
    path = keep_result(tmp_path, "delta", SETTINGS, DOCUMENT, run_id="a").path
    other = keep_result(tmp_path, "ngrams", SETTINGS, DOCUMENT, run_id="a").path
    first = list_results(tmp_path)
    assert list_results(tmp_path) == first and find_result(tmp_path, "delta", SETTINGS, "a") == first[0]
    assert opened == [[path, other]], "both once, in one instance"
    keep_result(tmp_path, "delta", SETTINGS, {"neurons": [2]}, run_id="a")
    assert [result.document for result in list_results(tmp_path)] == [{"neurons": [2]}, DOCUMENT]
    assert opened[1:] == [[path]], "the one that was written again"
    other.unlink()
    assert [result.kind for result in list_results(tmp_path)] == ["delta"]
    assert list_results(tmp_path, formats={"delta": 7}) == (), "its format is looked at each time"


def test_results_in_memory_have_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "_remembered", results._remembered.__class__())
    monkeypatch.setattr(results, "REMEMBERED", 3000)
    for n in range(8):
        keep_result(tmp_path, "ngrams", {"n": n}, {"text": "x" * 1000}, run_id="a")
    keep_result(tmp_path, "positions", {}, {"text": "x" * 4000}, run_id="a")
    for _ in range(2):
        assert len(list_results(tmp_path)) == 9
        assert [len(one.result.document["text"]) for one in results._remembered.values()] == [1000, 1000]
