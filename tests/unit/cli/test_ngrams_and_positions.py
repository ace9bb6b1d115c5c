"""What `ngrams` and `positions` say of runs whose contents are known, and how their results are kept."""

import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from command_line import Run

from nfinspect.capturing.arrays import ArrayPrompt, write_run
from nfinspect.run import open_run
from nfinspect_store.results import list_results, run_results
from nfinspect_store.types import Layer

PROMPTS, LENGTH, NEURONS = 110, 40, 12
DETECTORS = {(0, 3): 7, (1, 5): 9}
POSITIONAL = (1, 8)


@pytest.fixture
def words(store: Path) -> Path:
    """A run with a neuron for token 7 and one for token 9, and one that is on in the first half of every prompt."""
    ids = np.random.default_rng(0).integers(0, 60, (PROMPTS, LENGTH))

    def values(prompt: int, layer: Layer) -> np.ndarray:
        rng = np.random.default_rng([prompt, layer.layer_id])
        found = np.maximum(rng.normal(size=(LENGTH, NEURONS)), 0).astype(np.float32)
        for (where, neuron), token in DETECTORS.items():
            if where == layer.layer:
                found[:, neuron] = ids[prompt] == token
        if layer.layer == POSITIONAL[0]:
            found[:, POSITIONAL[1]] = np.arange(LENGTH) < LENGTH // 2
        return found

    path = store / "words.duckdb"
    write_run(
        path,
        layers=[Layer(i, "mlp", i, f"h.{i}.mlp", NEURONS, "relu", "positive") for i in range(2)],
        prompts=[ArrayPrompt("a", "text", row, [f" \x1b{i}" for i in row], LENGTH) for row in ids.tolist()],
        values=values,
    )
    return path


def document(run: Run, *arguments: str) -> Any:
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_ngrams(nfinspect: Run, words: Path) -> None:
    found = document(nfinspect, "ngrams", "words")
    assert found["n"] == 1
    fields = {"site", "layer", "neuron", "k", "coverage", "suppression", "ngrams"}
    assert all(fields <= set(detector) for detector in found["detectors"])
    grams = {(d["layer"], d["neuron"]): d["ngrams"] for d in found["detectors"]}
    assert {place: [g["token_ids"] for g in of] for place, of in grams.items()} == {
        place: [[token]] for place, token in DETECTORS.items()
    }
    ngram = grams[0, 3][0]
    assert ngram["tokens"] == [" \x1b7"] and ngram["activations"] > 20
    first, second = found["layers"]
    assert {"layer", "detectors", "covered", "new_overall", "new_vs_previous", "buckets"} <= set(first)
    assert (second["detectors"], second["covered"], second["cumulative"], second["new_overall"]) == (1, 1, 2, 1)
    assert sum(first["buckets"].values()) == first["active"] == NEURONS
    assert document(nfinspect, "ngrams", "words", "--n", "3")["detectors"] == []
    assert [x["layer"] for x in document(nfinspect, "ngrams", "words", "--layers", "1")["layers"]] == [1]


def test_positions(nfinspect: Run, words: Path) -> None:
    found = document(nfinspect, "positions", "words")
    assert [(x["site"], x["layer"], x["neuron"]) for x in found["neurons"]] == [("mlp", *POSITIONAL)]
    neuron = found["neurons"][0]
    assert neuron["mutual_information"] == pytest.approx(np.log(2) - 1 / (2 * PROMPTS))
    assert (neuron["type"], neuron["strength"]) == ("other", "strong")  # 20 positions are too few for an extreme
    assert (found["length"], found["sequences"]) == (LENGTH, PROMPTS)
    kept = list_results(run_results(words))[0]
    profile = kept.table("profiles").to_pydict()
    assert profile["position"] == list(range(LENGTH))
    assert profile["rate"] == [1.0] * 20 + [0.0] * 20
    assert document(nfinspect, "positions", "words", "--length", "30")["length"] == 30


@pytest.mark.parametrize("command", ["ngrams", "positions"])
def test_a_result_is_kept_and_made_again_when_asked(nfinspect: Run, words: Path, command: str) -> None:
    first = nfinspect(command, "words", "--json")
    assert "kept from" not in first.stderr
    (kept,) = list_results(run_results(words))
    assert kept.kind == command and kept.run_id
    assert kept.settings["site"] == "mlp" and kept.settings["layers"] == [0, 1]
    second = nfinspect(command, "words", "--layers", "0-1", "--json")  # the same layers, named
    assert "kept from" in second.stderr and str(kept.path) in second.stderr
    assert second.stdout == first.stdout
    third = nfinspect(command, "words", "--again", "--json")
    assert "kept from" not in third.stderr
    assert third.stdout == first.stdout
    (anew,) = list_results(run_results(words))
    assert anew.made_at > kept.made_at and anew.document == kept.document
    assert "kept from" not in nfinspect(command, "words", "--recompute").stderr
    helped = nfinspect(command, "--help").stdout
    assert "--recompute" in helped and "--again" not in helped


def test_a_run_without_a_model_has_no_suppression_and_says_so_once(nfinspect: Run, words: Path) -> None:
    done = nfinspect("ngrams", "words", "--json")
    notes = [line for line in done.stderr.splitlines() if "suppression" in line]
    assert len(notes) == 1 and "--model" in notes[0]
    assert {d["suppression"] for d in json.loads(done.stdout)["detectors"]} == {None}
    assert nfinspect("ngrams", "words", "--model", "no/such-directory").returncode == 1


def test_what_cannot_be_done_is_refused(nfinspect: Run, words: Path) -> None:
    for command in ("ngrams", "positions"):
        done = nfinspect(command, "stats")
        assert done.returncode == 1 and "--keep stats" in done.stderr
        assert not run_results(words.with_name("stats.duckdb")).exists()
        assert nfinspect(command, "words", "--layers", "7").returncode == 2
        assert nfinspect(command, "words", "--site", "attn").returncode == 2
    assert nfinspect("ngrams", "words", "--n", "4").returncode == 2
    assert nfinspect("positions", "words", "--length", "41").returncode == 2


def test_too_few_sequences_are_said_however_often(nfinspect: Run) -> None:
    for _ in range(2):
        done = nfinspect("positions", "planted", "--json")
        assert "only 30 of 30 sequences" in done.stderr
        assert json.loads(done.stdout)["notes"]


def test_of_a_few_sequences_none_is_listed_unless_asked(nfinspect: Run, store: Path) -> None:
    """Eight prompts, and neurons that know nothing of the position: some would pass."""
    write_run(
        store / "eight.duckdb",
        layers=[Layer(0, "mlp", 0, "h.0.mlp", 200, "relu", "positive")],
        prompts=[ArrayPrompt("a", "text", list(range(20)), ["x"] * 20, 20)] * 8,
        values=lambda i, layer: np.maximum(np.random.default_rng(i).normal(size=(20, 200)), 0).astype(np.float32),
    )
    done = nfinspect("positions", "eight", "--json")
    found = json.loads(done.stdout)
    would = sum(x["would_pass"] for x in found["layers"])
    assert found["neurons"] == [] and would > 0 and f"{would} of 200 neurons would pass" in done.stderr
    assert "--allow-few" in done.stderr and found["notes"]
    shown = nfinspect("positions", "eight").stdout
    assert "would pass, perhaps by chance" in shown.replace("\n", " ") and "0 positional neurons" in shown
    few = document(nfinspect, "positions", "eight", "--allow-few")
    assert len(few["neurons"]) == would and "may be chance" in few["notes"][0]


def test_kinds_say_that_too_few_sequences_were_read(nfinspect: Run) -> None:
    done = nfinspect("overlap", "planted", "--kinds", "dead,positional", "--json")
    found = json.loads(done.stdout)
    assert [one["neurons"] for one in found["sets"]] == [3, 0]
    assert any("positional: only 30 of 30 sequences" in note for note in found["notes"]) and "30 of 30" in done.stderr


@pytest.mark.parametrize("arguments", [("ngrams", "words"), ("ngrams", "words", "--n", "2"), ("positions", "words")])
def test_text_for_people_is_narrow_and_harmless(nfinspect: Run, words: Path, arguments: tuple[str, ...]) -> None:
    done = nfinspect(*arguments, COLUMNS="80")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in done.stdout + done.stderr
    if arguments == ("ngrams", "words"):
        assert "2 token detectors among 24 neurons" in lines[0]
    assert any(line.startswith("L1/N") for line in lines) is (len(arguments) == 2)


def test_an_interrupted_analysis_leaves_nothing(nfinspect: Run, words: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nfinspect.output.ProgressLine.show", interrupted)
    for command in ("ngrams", "positions"):
        assert nfinspect(command, "words").returncode == 130
    assert not run_results(words).exists()


def test_where_nothing_can_be_kept_no_work_is_begun(
    nfinspect: Run, words: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert nfinspect("delta", "words").returncode == 0
    kept = run_results(words).rename(words.with_name("kept"))
    run_results(words).write_text("")  # in place of the folder
    monkeypatch.delattr("nfinspect.output.ProgressLine.show")  # shown as soon as there is work
    for command in ("ngrams", "positions", "delta"):
        done = nfinspect(command, "words")
        assert done.returncode == 1 and "results are saved there: copy the run" in done.stderr
    run_results(words).unlink()
    kept.rename(run_results(words))
    assert nfinspect("delta", "words").returncode == 0  # what is there is shown


def test_runs_have_the_analyses_as_methods(words: Path) -> None:
    with open_run(words) as run:
        assert [(d.layer, d.neuron) for d in run.ngrams().detectors] == list(DETECTORS)
        assert [row.address for row in run.positions(length=30).neurons] == ["L1/N8"]


@pytest.mark.parametrize("command", ["ngrams", "positions"])
def test_a_kept_result_that_cannot_be_read_is_computed_again(nfinspect: Run, words: Path, command: str) -> None:
    """One with another field, in the format of today: of a version between."""
    first = document(nfinspect, command, "words")
    (kept,) = list_results(run_results(words))
    fields = {**kept.document, "layers": [{**layer, "odd": 1} for layer in kept.document["layers"]]}
    with duckdb.connect(str(kept.path)) as connection:
        connection.execute("UPDATE result SET document = ?", [json.dumps(fields)])
    done = nfinspect(command, "words", "--json")
    assert done.returncode == 0 and "cannot be read: it is computed again" in done.stderr
    assert json.loads(done.stdout) == first
    assert "kept from" in nfinspect(command, "words").stderr
