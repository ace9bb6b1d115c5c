"""`ngrams` and `positions` of several runs beside each other."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import Run
from planted_report import write_planted

from nfinspect_store.results import run_results


@pytest.fixture
def runs(store: Path) -> Path:
    """Two runs: `words` with two layers, `deep` with three of which the first two hold the same kinds."""
    write_planted(store / "words.duckdb")
    write_planted(store / "deep.duckdb", layers=3, seed=1)
    return store


def document(run: Run, *arguments: str) -> Any:
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("command", ["ngrams", "positions"])
def test_each_run_is_as_it_is_alone(nfinspect: Run, runs: Path, command: str) -> None:
    both = document(nfinspect, command, "--runs", "words,deep")
    assert [one["run"] for one in both["runs"]] == ["words", "deep"]
    assert document(nfinspect, command, "words", "--runs", "deep") == both
    assert [[layer["depth"] for layer in one["layers"]] for one in both["runs"]] == [[0, 1], [0, 0.5, 1]]
    for one in both["runs"]:
        name = one.pop("run")
        assert one.pop("edits") is None
        for layer in one["layers"]:
            del layer["depth"]
        alone = document(nfinspect, command, name)
        alone.pop("suppression_model", None), one.pop("suppression_model", None)
        assert one == alone


def test_the_health_of_each_run_is_as_it_is_alone(nfinspect: Run, runs: Path) -> None:
    options = ("--threshold-weak", "0.5", "--skip-first")
    both = document(nfinspect, "health", "words", "--runs", "deep", *options)
    assert [[layer["depth"] for layer in one["layer_analyses"]] for one in both["runs"]] == [[0, 1], [0, 0.5, 1]]
    for one in both["runs"]:
        name = one.pop("run")
        assert one.pop("edits") is None
        for layer in one["layer_analyses"]:
            del layer["depth"]
        assert one == document(nfinspect, "health", name, *options)
    done = nfinspect("health", "--runs", "words,deep", COLUMNS="80")
    lines = done.stdout.splitlines()
    assert lines[0] == "Health of 2 runs" and max(map(len, lines)) <= 80
    start = next(i for i, line in enumerate(lines) if line.startswith("depth"))
    rows = [line.split() for line in lines[start + 1 :]]
    assert [row[:3] for row in rows] == [
        ["0.00", "words", "0"], ["0.00", "deep", "0"], ["0.50", "deep", "1"], ["1.00", "words", "1"],
        ["1.00", "deep", "2"],
    ]  # fmt: skip
    done = nfinspect("health")
    assert done.returncode == 2 and "expected RUN" in done.stderr


def test_detectors_by_depth_for_people(nfinspect: Run, runs: Path) -> None:
    done = nfinspect("ngrams", "--runs", "words,deep", COLUMNS="80")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "Token detectors of 2 runs" and max(map(len, lines)) <= 80
    start = next(i for i, line in enumerate(lines) if line.startswith("depth"))
    rows = [line.split()[:5] for line in lines[start + 1 : start + 6]]
    assert rows == [
        ["0.00", "words", "0", "10", "1"],
        ["0.00", "deep", "0", "10", "1"],
        ["0.50", "deep", "1", "10", "1"],
        ["1.00", "words", "1", "10", "1"],
        ["1.00", "deep", "2", "10", "0"],
    ]
    assert "bigrams covered" in nfinspect("ngrams", "--runs", "words,deep", "--n", "2").stdout


def test_positional_neurons_by_depth_for_people(nfinspect: Run, runs: Path) -> None:
    done = nfinspect("positions", "--runs", "words,planted", COLUMNS="80")
    assert done.returncode == 0, done.stderr
    assert "planted: only 30 of 30 sequences" in done.stderr and "words:" not in done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "Positional neurons of 2 runs" and max(map(len, lines)) <= 80
    start = next(i for i, line in enumerate(lines) if line.startswith("depth"))
    assert [line.split()[1:3] for line in lines[start + 1 :]] == [
        *[["words", "0"], ["planted", "0"], ["planted", "1"], ["words", "1"], ["planted", "2"]],
    ]


@pytest.mark.parametrize("command", ["ngrams", "positions"])
def test_what_cannot_be_compared_names_the_run(nfinspect: Run, runs: Path, command: str) -> None:
    assert "expected RUN" in nfinspect(command).stderr
    for few in ("words", "words,words", ""):
        done = nfinspect(command, "--runs", few)
        assert done.returncode == 2 and "two or more different runs" in done.stderr
    done = nfinspect(command, "--runs", "words,stats")
    assert done.returncode == 1 and "stats: this run holds statistics only" in done.stderr
    assert not run_results(runs / "stats.duckdb").exists()
    done = nfinspect(command, "--runs", "words,nothing")
    assert done.returncode == 1 and "no run 'nothing'" in done.stderr


def test_suppression_is_of_one_run(nfinspect: Run, runs: Path) -> None:
    done = nfinspect("ngrams", "--runs", "words,deep", "--model", "m")
    assert done.returncode == 2 and "--model goes with one run" in done.stderr
