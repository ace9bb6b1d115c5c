"""Every command on a run of chosen tokens: it tells so, or refuses with the reason, or has nothing to do with it."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import Run

from nfinspect.cli.group import commands

SAMPLES = Path(__file__).parents[3] / "samples"
TEXTS = ["The river runs through the old town.", "He cut the tulips at dawn, and sold them all.", "A quiet street."]

NOTES = {
    "part": "none of them at position 0 (--where tokens=2-)",
    "large": "beyond their neuron's running p90 (--where beyond=p90)",
}
"""By run, in what tells that something was left out: tokens, or values."""

NO_RUN = (
    "backend", "backends", "marks", "demo", "simulate", "watch", "text", "capture", "migrate", "delete", "runs",
    "replay", "merge",
)  # fmt: skip
"""They read no run, or nothing that is in it."""

OF_MODEL = ("attention", "logits", "generate")
"""They read a model and the texts that they are given."""

READ = {
    "info": ("info",),
    "health": ("health",),
    "neurons": ("neurons",),
    "neuron": ("neuron", "L1/N3"),
    "trace": ("trace", "--concept", "river"),
    "overlap": ("overlap", "--concepts", "river,street"),
    "diff": ("diff", "RUN"),
    "report": ("report", "--out", "pages"),
}
"""They need no single values."""

OF_VALUES = {
    "ngrams": ("ngrams",),
    "delta": ("delta", "--substitute", "--draws", "8"),
    "sinks": ("sinks",),
    "positions": ("positions", "--allow-few"),
    "similar": ("similar", "L0/N568"),
}
TOLD = {
    "part": READ | {name: OF_VALUES[name] for name in ("ngrams", "delta", "sinks", "similar")},
    "large": READ,
}
REFUSED = {
    "part": {"positions": OF_VALUES["positions"]},
    "large": OF_VALUES,
}
AS_DATA = {
    "verify": ("verify", "RUN"),
    "sql": ("sql", "RUN", "SELECT (SELECT count(*) FROM unrecorded) AS tokens, count(*) AS n FROM activations"),
    "export": ("export", "RUN", "--out", "tables", "--formats", "parquet"),
    "walk": ("walk", "RUN", "--model", str(SAMPLES / "gpt2-relu")),
    "ablate": ("ablate", str(SAMPLES / "gpt2-relu"), "--from", "RUN", "--class", "dead"),
}
"""They give the run as it is, or read its whole text."""


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a run of the sample model for each of NOTES: `part` lacks the first two tokens of each prompt."""
    from nfinspect.capturing.request import CaptureRequest, PromptFile
    from nfinspect.capturing.session import capture_run
    from nfinspect.capturing.where import parse_where

    store = tmp_path_factory.mktemp("part")
    prompts = store / "prompts.jsonl"
    rows = [{"text": text, "concept": concept} for text in TEXTS for concept in ("river", "street")] * 6
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, where in (("part", "tokens=2-"), ("large", "beyond=p90")):
        capture_run(
            CaptureRequest(
                str(SAMPLES / "gpt2-relu"),
                store,
                prompts=(PromptFile(prompts),),
                run=name,
                where=parse_where(where),
                sites=("mlp", "resid"),
                layers=(0, 1),
            )
        )
    return store


def asked(run: str, command: tuple[str, ...]) -> tuple[str, ...]:
    """A command of READ or OF_VALUES, on a run; RUN is the same run once more."""
    return (command[0], run, *(run if word == "RUN" else word for word in command[1:]))


def each(commands: dict[str, dict[str, tuple[str, ...]]]) -> list[Any]:
    # A report draws every figure, which takes as long as all the others.
    return [
        pytest.param(run, name, marks=pytest.mark.slow) if name == "report" else (run, name)
        for run in commands
        for name in sorted(commands[run])
    ]


def test_every_command_is_tried() -> None:
    for run in NOTES:
        assert set(commands()) == {*NO_RUN, *OF_MODEL, *TOLD[run], *REFUSED[run], *AS_DATA}


@pytest.mark.parametrize(("run", "name"), each(TOLD))
def test_what_is_told_of_the_run_says_what_is_left_out(run: str, name: str, nfinspect: Run, part: Path) -> None:
    done = nfinspect(*asked(run, TOLD[run][name]), "--store", str(part))
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    if name == "report":
        said = "".join(file.read_text() for file in Path("pages").rglob("*.md"))
    assert NOTES[run] in " ".join(said.split())


@pytest.mark.parametrize(("run", "name"), each(REFUSED))
def test_a_refusal_names_the_reason(run: str, name: str, nfinspect: Run, part: Path) -> None:
    done = nfinspect(*asked(run, REFUSED[run][name]), "--store", str(part))
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert f"--where {'tokens=2-' if run == 'part' else 'beyond=p90'}" in last and "expected" in last


@pytest.mark.parametrize(("run", "name"), each(dict.fromkeys(NOTES, AS_DATA)))
def test_the_data_and_the_text_are_whole(run: str, name: str, nfinspect: Run, part: Path) -> None:
    given = [run if word == "RUN" else word for word in AS_DATA[name]]
    done = nfinspect(*given, "--store", str(part))
    assert done.returncode == 0, done.stderr
    if name == "sql":
        tokens, values = (int(word) for word in done.stdout.split() if word.isdigit())
        assert tokens == (72 if run == "part" else 0) and values > 0  # two of each of 36 prompts
    if name == "export":
        assert Path("tables/unrecorded.parquet").exists() == (run == "part")
        assert Path("tables/activations-mlp-L1.parquet").exists()


def test_scores_of_whole_prompts_say_what_the_run_leaves_out(nfinspect: Run, part: Path) -> None:
    """Those of `attention --from RUN` are the ones that `report --with-model` shows."""
    given = ("attention", str(SAMPLES / "gpt2-relu"), "--from", "part", "--max-tokens", "40", "--store", str(part))
    done = nfinspect(*given, "--json")
    assert done.returncode == 0, done.stderr
    (note,) = [note for note in json.loads(done.stdout)["notes"] if NOTES["part"] in note]
    assert note.startswith("the scores are of whole prompts and of every value")


def test_fields_say_what_was_left_out(nfinspect: Run, part: Path) -> None:
    found = json.loads(nfinspect("info", "part", "--store", str(part), "--json").stdout)
    assert found["where"] == "tokens=2-" and found["unrecorded"] == 72 and NOTES["part"] in found["notes"][0]
    large = json.loads(nfinspect("info", "large", "--store", str(part), "--json").stdout)
    assert large["where"] == "beyond=p90" and 0 < large["beyond"] < 0.1 * large["tokens"] * 2 * (384 + 96)
    assert large["precision"] == "float32" and found["beyond"] is None
    whole = json.loads(nfinspect("info", "planted", "--json").stdout)
    assert whole["where"] is None and whole["unrecorded"] == 0
    assert (
        NOTES["part"]
        in json.loads(nfinspect("neuron", "part", "L1/N3", "--store", str(part), "--json").stdout)["notes"][0]
    )


def test_a_wrong_expression_is_one_line(nfinspect: Run, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a b c\n")
    done = nfinspect("capture", "no-model", "--prompts", str(tmp_path / "p.txt"), "--where", "beyond=p100")
    assert done.returncode in (1, 2) and done.stderr.count("\n") == 1
    assert "expected --where answers, role=R" in done.stderr and "beyond=p100" in done.stderr
