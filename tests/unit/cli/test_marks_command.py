"""`nfinspect marks`, and `@set` wherever a command takes neurons."""

import json
from pathlib import Path

import nfinspect_samples
import pytest
from command_line import Run

import nfinspect as nf
from nfinspect_store.addresses import Address
from nfinspect_store.marks_file import FILE

GPT2 = str(nfinspect_samples.path(min(nfinspect_samples.MODELS)))


def test_marks_are_listed_changed_and_named(nfinspect: Run, store: Path, tmp_path: Path) -> None:
    assert nfinspect("marks").returncode == 0
    (tmp_path / "list.txt").write_text("L0/N2\nL0/N3\n")
    done = nfinspect("marks", str(store), "--run", "planted", "--add", "L0/N1", "--add", "list.txt", "--json")
    assert [row["neuron"] for row in json.loads(done.stdout)] == [1, 2, 3]
    nfinspect("marks", "--run", "planted", "--set", "hot", "--add", "@marked", "--note", "L0/N2", "red\x1b[1m")
    nfinspect("marks", "--run", "planted", "--remove", "L0/N1", "--remove", "L0/N2")
    rows = json.loads(nfinspect("marks", "--json").stdout)
    assert [(row["neuron"], row["sets"]) for row in rows] == [(1, ["hot"]), (2, ["hot"]), (3, ["marked", "hot"])]
    assert rows[1]["note"] == "red\x1b[1m" and rows[1]["run"] == "planted" and rows[0]["note"] is None
    text = nfinspect("marks", "--set", "@hot").stdout
    assert "mlp:L0/N3" in text and "@marked @hot" in text and "\x1b" not in text
    nfinspect("marks", "--run", "planted", "--note", "L0/N2", "")
    assert all(row["note"] is None for row in json.loads(nfinspect("marks", "--json").stdout))
    with nf.open_run(store / "planted.duckdb") as run:
        assert run.marked("@hot")[0] == Address(0, 1, "mlp")
        assert {row.neuron for row in run.neurons(filter="@hot and neuron>1").rows} == {2, 3}


def test_a_set_is_taken_wherever_neurons_are(nfinspect: Run) -> None:
    nfinspect("marks", "--run", "planted", "--set", "hot", "--add", "L0/N1", "--add", "L0/N2")
    listed = json.loads(
        nfinspect("neurons", "planted", "--filter", "@hot", "--sort", "neuron", "--asc", "--json").stdout
    )
    assert [row["neuron"] for row in listed] == [1, 2]
    each = json.loads(nfinspect("neuron", "planted", "@hot", "--json").stdout)
    assert each[0] == json.loads(nfinspect("neuron", "planted", "L0/N1", "--json").stdout) and len(each) == 2
    assert "mlp:L0/N1" in nfinspect("neuron", "planted", "@hot").stdout


@pytest.mark.slow
def test_a_set_with_the_model(nfinspect: Run, tmp_path: Path) -> None:
    """Marked in one run of a model, a neuron is in the set of another run of it."""
    (tmp_path / "one.txt").write_text("Tulips are red.\nTulips grow in the garden.\n")
    for name in ("first", "second"):
        nfinspect("capture", GPT2, "--prompts", "one.txt", "--run", name)
    nfinspect("marks", "--run", "first", "--set", "hot", "--add", "L1/N5", "--add", "L0/N3")
    asked = ("--context", "8", "--controls", "0", "--text", "one.txt", "--from", "second", "--json")
    (tmp_path / "same.txt").write_text("L0/N3\nL1/N5\n")
    done = nfinspect("ablate", GPT2, "--neurons", "@hot", "--neurons", "same.txt", *asked)
    assert done.returncode == 0, done.stderr
    named, listed = json.loads(done.stdout)["sets"]
    assert named["name"] == "@hot" and named["delta_nll"] == listed["delta_nll"] and named["neurons"] == 2
    done = nfinspect("logits", GPT2, "@hot", "--from", "second", "--json")
    assert [one["promoted"] != [] for one in json.loads(done.stdout)] == [True, True]


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        (("marks", "--add", "L0/N1"), 2, "--run RUN"),
        (("marks", "--run", "planted", "--add", "L0/N99999"), 2, "no neuron 99999"),
        (("marks", "--run", "planted", "--add", "@hot"), 2, "no set @hot"),
        (("marks", "--run", "planted", "--set", "a b", "--add", "L0/N1"), 2, "a set is named by"),
        (("marks", ".", "--store", "."), 2, "one store"),
        (("neurons", "planted", "--filter", "@hot"), 2, "no set @hot"),
        (("neuron", "planted", "@hot"), 2, "no set @hot"),
        (("ablate", GPT2, "--text", "x.txt", "--neurons", "@hot"), 2, "--from RUN"),
        (("logits", GPT2, "@hot"), 2, "--from RUN"),
    ],
)
def test_what_is_refused(nfinspect: Run, line: tuple[str, ...], status: int, said: str) -> None:
    done = nfinspect(*line)
    assert (done.returncode, said in done.stderr) == (status, True), done.stderr
    assert done.stderr.count("\n") == 1


def test_a_strangers_file_is_refused_in_one_line(nfinspect: Run, store: Path) -> None:
    (store / FILE).write_text("mine\n")
    for line in (("marks",), ("marks", "--run", "planted", "--add", "L0/N1"), ("neuron", "planted", "@hot")):
        done = nfinspect(*line)
        assert done.returncode == 1 and done.stderr.count("\n") == 1 and "found another file" in done.stderr
