"""Commands on a run that was captured with edits: nobody takes it for the plain model's."""

import json
import shutil
from pathlib import Path

import nfinspect_samples
import numpy as np
import pytest
from command_line import Run

from nfinspect.cli import main
from nfinspect.cli.report import run_facts
from nfinspect_store.reader import RunFile

GPT2 = str(nfinspect_samples.path("gpt2-relu"))
EDITS = ("--clamp", "L1/N5=60", "--zero", "@cold", "--from", "1")
TOLD = "zero L0/N1,resid:L2/N7; clamp L1/N5=60; from token 1"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prompt file, and a store with its runs `plain` and `edited`, which has a set of neurons of the first."""
    folder = tmp_path_factory.mktemp("edited")
    (folder / "p.txt").write_text("Tulips are red.\nThe chair stood in the hall.\n")
    line = ("capture", GPT2, "--prompts", str(folder / "p.txt"), "--sites", "mlp,resid", "--generate", "4")
    of_store = ("--store", str(folder / "store"))
    marked = ("marks", "--run", "plain", "--set", "cold", "--add", "L0/N1", "--add", "resid:L2/N7")
    for arguments in ((*line, "--run", "plain"), marked, (*line, "--run", "edited", *EDITS)):
        assert main([*arguments, *of_store]) == 0
    return folder


@pytest.fixture
def captured(made: Path, store: Path, tmp_path: Path) -> None:
    """They are in the test's own folder and store."""
    shutil.copy2(made / "p.txt", tmp_path)
    shutil.copytree(made / "store", store, dirs_exist_ok=True)


def test_a_run_is_captured_with_the_options_of_generate(nfinspect: Run, captured: None, store: Path) -> None:
    with RunFile.open(store / "edited.duckdb") as run, RunFile.open(store / "plain.duckdb") as plain:
        assert run.edits == TOLD and plain.edits == ""
        of_prompt = [run.prompt_tokens(i).token_idx for i in range(run.prompts)]
        clamped, zeroed, there = run.neuron(1, 5), run.neuron(0, 1), run.neuron(2, 7, "resid")
        for tokens in of_prompt:
            assert clamped[tokens[0]] != 60 and set(clamped[tokens[1:]]) == {60.0}
            assert set(zeroed[tokens[1:]]) == set(there[tokens[1:]]) == {0.0}
        first = [tokens[0] for tokens in of_prompt]
        np.testing.assert_array_equal(run.activations("mlp", 1)[first], plain.activations("mlp", 1)[first])
        facts, plain_facts = run_facts(run, "mlp"), run_facts(plain, "mlp")
    assert facts["edits"] == f"the model was edited: {TOLD}" and "edits" not in plain_facts


def test_every_command_says_so(nfinspect: Run, captured: None) -> None:
    note = f"captured with edits ({TOLD})"
    info = nfinspect("info", "edited").stdout
    assert f"edits                 {TOLD}\n" in info and f"note                  {note}: " in info
    assert json.loads(nfinspect("info", "edited", "--json").stdout)["edits"] == TOLD
    assert json.loads(nfinspect("info", "plain", "--json").stdout)["edits"] is None
    listed = {one["name"]: one["edits"] for one in json.loads(nfinspect("runs", "--json").stdout)}
    assert listed["edited"] == TOLD and listed["plain"] is None
    lines = nfinspect("runs").stdout.splitlines()
    assert [("edited gpt2-relu" in line) for line in lines if line.startswith(("edited ", "plain "))] == [
        line.startswith("edited ") for line in lines if line.startswith(("edited ", "plain "))
    ]
    assert " ".join(f"NOTE {note}".split()) in " ".join(nfinspect("health", "edited").stdout.split())
    assert f"edited: {note}" in nfinspect("diff", "plain", "edited").stderr
    for line in (("neurons", "edited"), ("neuron", "edited", "L1/N5"), ("trace", "edited", "--concept", "p")):
        assert note in nfinspect(*line).stderr, line
    compared = nfinspect("positions", "--runs", "plain,edited", "--allow-few", "--json")
    assert f"edited was {note}" in compared.stderr
    assert [one["edits"] for one in json.loads(compared.stdout)["runs"]] == [None, TOLD]


def test_a_command_that_reads_the_model_says_that_it_has_no_edits(nfinspect: Run, captured: None) -> None:
    said = f"edited was captured with edits ({TOLD}): here its model has none"
    walk = nfinspect("walk", "edited", "--json")
    assert walk.returncode == 0 and said in json.loads(walk.stdout)["notes"]
    assert walk.stderr.count(said) == 1 and said not in nfinspect("walk", "plain").stderr


@pytest.mark.parametrize(
    "line",
    [
        ("logits", GPT2, "--lens", "Tulips are"),
        ("attention", GPT2),
        ("ablate", GPT2, "--neurons", "some.txt", "--controls", "0", "--text", "p.txt"),
        ("similar", "edited", "L0/N3", "--weights"),
    ],
    ids=lambda line: line[0],
)
def test_a_kept_result_of_the_model_without_edits_says_so_each_time(
    nfinspect: Run, captured: None, line: tuple[str, ...]
) -> None:
    Path("some.txt").write_text("L0/N3\n")
    said = f"edited was captured with edits ({TOLD}): here its model has none"
    of_run = () if line[0] == "similar" else ("--from", "edited")
    for kept in (False, True):
        done = nfinspect(*line, *of_run, "--json")
        assert done.returncode == 0, done.stderr
        assert ("kept from" in done.stderr) == kept
        assert done.stderr.count(said) == 1 and json.loads(done.stdout)["notes"].count(said) == 1
    of_run = () if line[0] == "similar" else ("--from", "plain")
    plain = nfinspect(*("plain" if word == "edited" else word for word in line), *of_run, "--json")
    assert plain.returncode == 0 and "edits" not in plain.stderr and said not in json.loads(plain.stdout)["notes"]


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        (("delta", "RUN", "--substitute", "--draws", "4"), "--substitute"),
        (
            ("ablate", GPT2, "--from", "RUN", "--neurons", "some.txt", "--text", "p.txt", "--mode", "mean"),
            "--mode mean",
        ),
    ],
)
def test_statistics_of_an_edited_model_are_not_used_as_the_plain_models(
    nfinspect: Run, captured: None, line: tuple[str, ...], asked: str
) -> None:
    Path("some.txt").write_text("L0/N3\n")
    refused = nfinspect(*("edited" if word == "RUN" else word for word in line))
    assert refused.returncode == 2 and f"{asked} needs statistics of the model as it is read here" in refused.stderr
    assert f"edited was captured with edits ({TOLD})" in refused.stderr and not refused.stdout
    assert nfinspect(*("plain" if word == "RUN" else word for word in line)).returncode == 0


def test_an_estimate_takes_edits_and_refuses_what_is_not_there(nfinspect: Run, captured: None, store: Path) -> None:
    line = ("capture", GPT2, "--prompts", "p.txt", "--run", "other", "--estimate")
    done = nfinspect(*line, "--zero", "@cold", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["tokens"] > 0, done.stderr
    for options, said in (
        (("--zero", "L9/N1"), "between 0 and 3, found 9"),
        (("--scale", "L0/N1"), "expected --scale L3/N17=FACTOR with a number"),
        (("--from", "3"), "expected edits, and --from of 0 or more"),
    ):
        refused = nfinspect(*line, *options)
        assert refused.returncode in (1, 2) and said in refused.stderr and len(refused.stderr.splitlines()) == 1
    assert not (store / "other.duckdb").exists()
