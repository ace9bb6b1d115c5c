"""Every command on a run of chosen tokens: it tells so, or refuses with the reason, or has nothing to do with it."""

import json
from pathlib import Path

import pytest
from command_line import Run

from nfinspect.cli.group import commands

SAMPLES = Path(__file__).parents[3] / "samples"
TEXTS = ["The river runs through the old town.", "He cut the tulips at dawn, and sold them all.", "A quiet street."]

NOTE = "none of them at position 0 (--where tokens=2-)"
"""In what tells that tokens were left out."""

NO_RUN = ("demo", "simulate", "watch", "text", "capture", "migrate", "delete", "runs")
"""They read no run, or nothing that is in it."""

OF_MODEL = ("attention", "logits")
"""They read a model and the texts that they are given."""

TOLD = {
    "info": ("info", "part"),
    "health": ("health", "part"),
    "neurons": ("neurons", "part"),
    "neuron": ("neuron", "part", "L1/N3"),
    "trace": ("trace", "part", "--concept", "river"),
    "overlap": ("overlap", "part", "--concepts", "river,street"),
    "ngrams": ("ngrams", "part"),
    "delta": ("delta", "part", "--substitute", "--draws", "8"),
    "sinks": ("sinks", "part"),
    "report": ("report", "part", "--out", "pages"),
}
REFUSED = {
    "positions": ("positions", "part", "--allow-few"),
}
AS_DATA = {
    "verify": ("verify", "part"),
    "sql": ("sql", "part", "SELECT count(*) AS n FROM unrecorded"),
    "export": ("export", "part", "--out", "tables", "--no-activations"),
    "ablate": ("ablate", str(SAMPLES / "gpt2-relu"), "--from", "part", "--class", "dead"),
}
"""They give the run as it is, or read its whole text."""


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the sample model without the first two tokens of each prompt."""
    from nfinspect.capturing.request import CaptureRequest, PromptFile
    from nfinspect.capturing.session import capture_run
    from nfinspect.capturing.where import parse_where

    store = tmp_path_factory.mktemp("part")
    prompts = store / "prompts.jsonl"
    rows = [{"text": text, "concept": concept} for text in TEXTS for concept in ("river", "street")] * 6
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    capture_run(
        CaptureRequest(
            str(SAMPLES / "gpt2-relu"),
            store,
            prompts=(PromptFile(prompts),),
            run="part",
            where=parse_where("tokens=2-"),
            sites=("mlp", "resid"),
            layers=(0, 1),
        )
    )
    return store


def test_every_command_is_tried() -> None:
    assert set(commands()) == {*NO_RUN, *OF_MODEL, *TOLD, *REFUSED, *AS_DATA}


# A report draws every figure, which takes as long as all the others.
@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=pytest.mark.slow) if x == "report" else x for x in sorted(TOLD)]
)
def test_what_is_told_of_the_run_says_that_tokens_are_left_out(name: str, nfinspect: Run, part: Path) -> None:
    done = nfinspect(*TOLD[name], "--store", str(part))
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    if name == "report":
        said = "".join(file.read_text() for file in Path("pages").rglob("*.md"))
    assert NOTE in " ".join(said.split())


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_refusal_names_the_reason(name: str, nfinspect: Run, part: Path) -> None:
    done = nfinspect(*REFUSED[name], "--store", str(part))
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "--where tokens=2-" in last and "expected" in last


@pytest.mark.parametrize("name", sorted(AS_DATA))
def test_the_data_and_the_text_are_whole(name: str, nfinspect: Run, part: Path) -> None:
    done = nfinspect(*AS_DATA[name], "--store", str(part))
    assert done.returncode == 0, done.stderr
    if name == "sql":
        assert " 72" in done.stdout.replace("\n", " ")  # two of each of 36 prompts
    if name == "export":
        assert Path("tables/unrecorded.parquet").exists()


def test_fields_say_what_was_left_out(nfinspect: Run, part: Path) -> None:
    found = json.loads(nfinspect("info", "part", "--store", str(part), "--json").stdout)
    assert found["where"] == "tokens=2-" and found["unrecorded"] == 72 and NOTE in found["notes"][0]
    whole = json.loads(nfinspect("info", "planted", "--json").stdout)
    assert whole["where"] is None and whole["unrecorded"] == 0
    assert NOTE in json.loads(nfinspect("neuron", "part", "L1/N3", "--store", str(part), "--json").stdout)["notes"][0]


def test_a_wrong_expression_is_one_line(nfinspect: Run, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a b c\n")
    done = nfinspect("capture", "no-model", "--prompts", str(tmp_path / "p.txt"), "--where", "beyond=p99.9")
    assert done.returncode in (1, 2) and done.stderr.count("\n") == 1
    assert "expected --where answers, role=R" in done.stderr and "beyond=p99.9" in done.stderr
