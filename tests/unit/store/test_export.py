import csv
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from nfinspect_store import export
from nfinspect_store.errors import RequestError, StorageFull, StoreError
from nfinspect_store.export import TABLES, export_run
from nfinspect_store.reader import RunFile


@pytest.fixture
def run(store: Path) -> Path:
    return store / "planted.duckdb"


def test_activations_are_those_of_the_run(run: Path, tmp_path: Path) -> None:
    done = export_run(run, tmp_path / "out", formats=["safetensors", "parquet"])
    assert {"activations-mlp-L0.safetensors", "activations-resid-L2.parquet"} <= set(done.files)
    with RunFile.open(run) as file:
        for layer in file.layers:
            stem = tmp_path / "out" / f"activations-{layer.site}-L{layer.layer}"
            expected = file.activations(layer.site, layer.layer)
            tensor = load_file(stem.with_suffix(".safetensors"))["activations"]
            assert tensor.dtype == np.float32
            assert np.array_equal(tensor, expected)
            table = pq.read_table(stem.with_suffix(".parquet")).to_pylist()
            of_three = [row for row in table if row["neuron"] == 3]
            assert [row["first_token"] for row in of_three] == [0, 256, 512, 768, 1024]
            joined = np.concatenate([np.array(row["values"], np.float32) for row in of_three])
            assert np.array_equal(joined, expected[:, 3])


def test_safetensors_say_where_they_come_from(run: Path, tmp_path: Path) -> None:
    export_run(run, tmp_path / "out", formats=["safetensors"], tables=[])
    with safe_open(tmp_path / "out" / "activations-mlp-L1.safetensors", "np") as file:
        assert file.metadata() == {
            "run": "planted",
            "model": "",
            "site": "mlp",
            "layer": "1",
            "module": "h.1.mlp.c_proj",
        }


def test_tables_in_both_formats(run: Path, tmp_path: Path) -> None:
    export_run(run, tmp_path / "out", formats=["csv", "parquet"], activations=False)
    with RunFile.open(run) as file:
        for name in TABLES:
            if name == "unrecorded":  # empty
                assert not list((tmp_path / "out").glob(f"{name}.*"))
                continue
            rows = file.sql(f"SELECT count(*) FROM {name}").fetchone()
            with (tmp_path / "out" / f"{name}.csv").open(newline="") as text:
                assert (len(list(csv.reader(text))) - 1,) == rows
            assert (pq.read_metadata(tmp_path / "out" / f"{name}.parquet").num_rows,) == rows
    assert not list((tmp_path / "out").glob("activations*"))


def test_hostile_tokens_survive_csv(run: Path, tmp_path: Path) -> None:
    export_run(run, tmp_path / "out", formats=["csv"], tables=["tokens"])
    with (tmp_path / "out" / "tokens.csv").open(newline="", encoding="utf-8") as text:
        tokens = [row["token"] for row in csv.DictReader(text)]
    assert tokens[3] == "\x1b[31m[/red]\u202e\u200b"


def test_a_directory_that_holds_files_needs_force(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(StorageFull, match="not empty"):
        export_run(run, out, formats=["csv"], activations=False)
    assert [file.name for file in out.iterdir()] == ["mine.txt"]
    export_run(run, out, formats=["csv"], activations=False, force=True)
    assert (out / "mine.txt").read_text() == "mine"
    assert (out / "neurons.csv").exists()


def test_a_failure_leaves_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "_write_safetensors", full)
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(StorageFull, match="No space left"):
        export_run(run, target / "out")
    assert list(target.iterdir()) == []


def test_a_run_of_statistics_has_no_activations(store: Path, tmp_path: Path) -> None:
    told: list[str] = []
    done = export_run(store / "stats.duckdb", tmp_path / "out", tell=told.append)
    assert not [name for name in done.files if name.startswith("activations")]
    assert "statistics only" in told[0]
    with pytest.raises(StoreError, match="no activations"):
        export_run(store / "stats.duckdb", tmp_path / "out2", formats=["safetensors"])
    assert not (tmp_path / "out2").exists()


@pytest.mark.parametrize("wrong", [{"formats": ["xlsx"]}, {"formats": []}, {"tables": ["nurons"]}])
def test_wrong_requests(run: Path, tmp_path: Path, wrong: dict[str, list[str]]) -> None:
    with pytest.raises(RequestError):
        export_run(run, tmp_path / "out", **wrong)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
