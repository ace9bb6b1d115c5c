"""`text` and `simulate` as commands."""

import json
from pathlib import Path
from typing import Any

import nfinspect_samples
import pyarrow.parquet as pq
import pytest
from command_line import Run

from nfinspect.analysis import classes, planted, planted_forms
from nfinspect.cli import simulate as command
from nfinspect.cli import text as text_command

STAGES = ("tokenization", "embedding", "attention", "processing", "output")
TEXT = "The tulips in the garden of the old house were the first to open."
SIMULATED = ("simulate", "--layers", "3", "--neurons", "120", "--tokens", "256")


def document(run: Run, *arguments: str) -> Any:
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_text_goes_through_the_sample_model(nfinspect: Run) -> None:
    found = document(nfinspect, "text", TEXT)
    assert (found["text"], found["simulated"]) == (TEXT, False)
    assert "gpt2-relu" in found["model"]
    assert "".join(token["token"] for token in found["tokens"]) == TEXT
    analysis = found["neural_firing_analysis"]
    assert [stage["stage"] for stage in analysis["processing_stages"]] == list(STAGES)
    assert 0 < analysis["overall_firing_rate"] < 1 and 0 < analysis["neural_health_score"] <= 1
    by_stage = {stage["stage"]: stage for stage in analysis["processing_stages"]}
    assert by_stage["processing"]["sites"] == ["mlp", "resid"]
    (mlp, _) = by_stage["processing"]["reports"]
    assert [layer["layer"] for layer in mlp["layer_analyses"]] == [0, 1, 2, 3]
    # Fifteen tokens leave most of its ReLU neurons silent, and the notes say what that proves.
    assert any(issue.startswith("mlp L1, dead") for issue in by_stage["processing"]["issues"])
    assert any("only 15 tokens" in note and "20 %" in note for note in analysis["notes"])
    # Most of its ReLU neurons are silent on fifteen tokens, which the mean of the stages would hide.
    assert f"lowest at processing (mlp): {mlp['overall_health_score']:.2f}, " in analysis["interpretation"]
    skipped = document(nfinspect, "text", TEXT, "--skip-first", "--top", "2")
    assert len(skipped["next_token"]["top"]) == 2
    assert not any("position 0" in note for note in skipped["neural_firing_analysis"]["notes"])


def test_a_simulated_text_says_so(nfinspect: Run) -> None:
    found = document(nfinspect, "text", "--simulated", TEXT)
    assert found["simulated"] is found["neural_firing_analysis"]["simulated"] is True
    shown = nfinspect("text", "--simulated", TEXT).stdout
    assert "no model" in shown.splitlines()[0] and "nothing here comes from a model" in " ".join(shown.split())


@pytest.mark.parametrize("arguments", [("text", TEXT), ("text", "--simulated", TEXT), SIMULATED])
def test_text_for_people_fits_80_columns(nfinspect: Run, arguments: tuple[str, ...]) -> None:
    done = nfinspect(*arguments, COLUMNS="80")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    if arguments[0] == "text":
        start = next(i for i, line in enumerate(lines) if line.startswith("stage"))
        header, *rows = (line.split() for line in lines[start : lines.index("", start)])
        assert header[-6:] == ["dead", "miss.", "weak", "sat.", "spor.", "score"]
        assert [row[0] for row in rows] == [*STAGES[:4], "processing", "output"]
        # No token is broken at its space.
        shown = "\n".join(lines[lines.index("") :])
        assert all(f"'{token}'" in shown for token in ("The", "garden" if "--simulated" in arguments else " garden"))


def test_notes_say_what_firing_means_and_what_stands_in_for_attention(nfinspect: Run) -> None:
    mamba = str(nfinspect_samples.path("mamba"))
    for arguments, without in ((("x",), False), (("x", "--model", mamba), True)):
        (firing, *notes) = document(nfinspect, "text", *arguments, "--threshold-weak", "0.2")["neural_firing_analysis"][
            "notes"
        ]
        assert firing.startswith("firing: share of (token, neuron) pairs") and "0.2 of their layer's mean" in firing
        assert any("no attention" in note and "mixers" in note for note in notes) == without
        assert any(note.startswith("only 1 token:") for note in notes)
    shown = nfinspect("text", "x", "--model", mamba).stdout
    assert shown.startswith("1 token through mamba") and "(a first token has none)" in shown


def test_tokens_are_shown_and_never_interpreted(nfinspect: Run) -> None:
    done = nfinspect("text", "red \x1b[31m house\u202e", COLUMNS="80")
    assert done.returncode == 0 and "\x1b" not in done.stdout and "\u202e" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "TEXT"),
        (("",), "one token or more"),
        (("house " * 300,), "at most 256 tokens, the model's context"),
        ((TEXT, "--simulated", "--model", "gpt2"), "--model or --simulated"),
        ((TEXT, "--top", "0"), "--top"),
        ((TEXT, "--top", "101"), "--top"),
        ((TEXT, "--threshold-weak", "0.001"), "missing <= weak"),
        ((TEXT, "--threshold-weak", "nan"), "missing <= weak"),
        (("--simulated", "w " * 4097), "1 to 4,096 words"),
        (("--simulated", " "), "1 to 4,096 words"),
    ],
)
def test_texts_that_cannot_be_analysed_are_refused(nfinspect: Run, arguments: tuple[str, ...], expected: str) -> None:
    done = nfinspect("text", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert expected in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_simulated_run_and_how_well_its_faults_are_found(nfinspect: Run, store: Path) -> None:
    found = document(nfinspect, *SIMULATED, "--activation", "gelu", "--seed", "7")
    assert (found["run"], found["seed"], found["layers"]) == ("simulated-gelu-7", 7, 3)
    assert Path(found["path"]) == store / "simulated-gelu-7.duckdb"
    assert [one["class"] for one in found["detection"]] == list(classes.CLASSES)
    for one in found["detection"]:
        assert one["planted"] == one["found"] == one["correct"] > 0
        assert (one["precision"], one["recall"]) == (1.0, 1.0)
    assert sum(one["planted"] for one in found["detection"]) == 360
    shown = nfinspect(*SIMULATED, "--run", "again").stdout
    assert "nfinspect sql again 'FROM planted'" in shown and "Not planted" not in shown
    line = next(line for line in shown.splitlines() if line.startswith("dead "))
    assert line.split()[-2:] == ["100.0%", "100.0%"]


def test_shares_are_planted_as_asked(nfinspect: Run) -> None:
    found = document(
        nfinspect, *SIMULATED, "--share", "dead=0.25", "--share", "sporadic=0", "--degradation", "0", "--run", "odd"
    )
    planted_of = {one["class"]: one["planted"] for one in found["detection"]}
    assert (planted_of["dead"], planted_of["sporadic"]) == (3 * 30, 0)
    assert {layer["dead_neurons"] for layer in found["health"]["layer_analyses"]} == {30}


def test_faults_that_an_activation_cannot_have_are_named(nfinspect: Run) -> None:
    """A sigmoid near its floor is saturated, never weak: asked for or not, it is said that none was planted."""
    done = nfinspect(*SIMULATED, "--activation", "sigmoid", "--share", "weak=0.1", "--share", "missing=0")
    assert "Not planted: sporadic, weak, which sigmoid neurons cannot be." in done.stdout


def test_every_command_works_on_a_simulated_run(nfinspect: Run, tmp_path: Path) -> None:
    truth = {one["class"]: one["planted"] for one in document(nfinspect, *SIMULATED, "--run", "sim")["detection"]}
    assert {entry["name"] for entry in document(nfinspect, "runs")} >= {"sim"}
    info = document(nfinspect, "info", "sim")
    assert (info["kind"], info["tokens"], info["prompts"]) == ("simulated", 256, 4)
    assert document(nfinspect, "verify", "sim")["ok"] is True
    layers = document(nfinspect, "health", "sim")["layer_analyses"]
    assert sum(layer["dead_neurons"] for layer in layers) == truth["dead"]
    dead = document(nfinspect, "neurons", "sim", "--class", "dead", "--top", "500")
    assert len(dead) == truth["dead"]
    address = f"L{dead[0]['layer']}/N{dead[0]['neuron']}"
    assert document(nfinspect, "neuron", "sim", address)["max"] == 0
    traced = document(nfinspect, "trace", "sim", "--concept", "one")
    # The concepts mean nothing, and nothing is found of them.
    assert all(row["q_value"] is None or row["q_value"] > 0.05 for row in traced["neurons"])
    assert document(nfinspect, "overlap", "sim", "--concepts", "one,two")["pairs"]
    assert document(nfinspect, "ngrams", "sim")["detectors"] == []
    assert document(nfinspect, "positions", "sim")["sequences"] == 4
    assert document(nfinspect, "delta", "sim")["neurons"]
    done = nfinspect("sql", "sim", "FROM planted", "--format", "json")
    assert len(json.loads(done.stdout)) == 360
    assert nfinspect("export", "sim", "--out", str(tmp_path / "out")).returncode == 0
    assert pq.read_metadata(tmp_path / "out" / "planted.parquet").num_rows == 360
    assert nfinspect("delete", "sim", "--yes").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        (("--layers", "0"), 2, "--layers"),
        (("--layers", "1001"), 2, "--layers"),
        (("--neurons", "5"), 2, "a healthy neuron in every layer"),
        (("--neurons", "100000000"), 2, "values at most"),
        (("--tokens", "199"), 2, "--tokens"),
        (("--activation", "softmax"), 2, "--activation"),
        (("--degradation", "-1"), 2, "--degradation"),
        (("--degradation", "nan"), 2, "degradation from 0 to 100"),
        (("--degradation", "101"), 2, "--degradation"),
        (("--seed", "-1"), 2, "--seed"),
        (("--seed", str(2**63)), 2, "--seed"),
        (("--share", "odd=0.1"), 2, "CLASS=SHARE"),
        (("--share", "dead"), 2, "CLASS=SHARE"),
        (("--share", "dead=1.5"), 2, "CLASS=SHARE"),
        (("--share", "dead=1"), 2, "a healthy neuron in every layer"),
        (("--activation", "tanh", "--share", "saturated=0.2"), 2, "fewer saturated"),
        (
            ("--activation", "tanh", "--share", "saturated=0.3", "--share", "sporadic=0", "--degradation", "0.5"),
            2,
            "fewer saturated",
        ),
        (("--run", "a/b"), 2, "a run name"),
        (("--run", ""), 2, "it is empty"),
        (("--run", "planted"), 1, "already exists: choose another --run, or delete it"),
    ],
)
def test_networks_that_cannot_be_are_refused(
    nfinspect: Run, store: Path, arguments: tuple[str, ...], status: int, expected: str
) -> None:
    before = {path.name for path in store.iterdir()}
    done = nfinspect("simulate", *arguments)
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    assert expected in done.stderr and len(done.stderr.splitlines()) == 1
    assert {path.name for path in store.iterdir()} == before


def test_the_command_bounds_what_the_plan_bounds() -> None:
    """The command says them again, so that -h imports nothing heavy."""
    assert command.ACTIVATIONS == planted.ACTIVATIONS and set(command.FAULTS) == set(classes.FAULTS)
    limits = {parameter.name: parameter.type for parameter in command.simulate.params}
    assert (limits["layers"].max, limits["tokens"].min, limits["degradation"].max, limits["seed"].max) == (
        planted.MOST_LAYERS,
        planted_forms.FEWEST_TOKENS,
        planted.MOST_DEGRADATION,
        planted.MOST_SEED,
    )
    assert text_command.MOST_NEXT == 100
