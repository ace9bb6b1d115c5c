"""The whole way of a researcher by keyboard alone, in a real terminal of 80 x 24: from the empty store to an export."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from capture_steps import begin, browse, come_back, complete, go_on_to_the_end, hang_up, opened, slow_store
from terminal import Terminal

from nfinspect.backend.directory import living
from nfinspect_store.reader import RunFile

CONCEPTS = ("tulip", "vietnam", "baseline")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Path]:
    with slow_store(tmp_path / "store") as made:
        yield made


def press(terminal: Terminal, keys: str, expected: str, seconds: float = 30.0) -> None:
    terminal.send(keys)
    terminal.wait_for(expected, seconds)
    assert "unexpected" not in terminal.text


@pytest.mark.slow
def test_from_the_empty_store_to_the_export(store: Path, tmp_path: Path) -> None:
    with opened(store) as terminal:
        begin(terminal, store, "night", concepts=CONCEPTS, sites="mlp,resid")
        (store / "slow").write_text("4.0")
        assert "tokens/s" in terminal.text and "gpt2-relu on cpu" in terminal.text
        hang_up(terminal)
    assert [entry.job[:1] for entry in living(store)[0]] == [("capture",)], "the backend goes on"

    with opened(store) as terminal:
        come_back(terminal, "night")
        browse(terminal)
        # the sick layer, its dead neurons, one of them, its text, while the capture goes on
        press(terminal, "jj", "! dead: ")
        press(terminal, "\r", "neurons of L2")
        press(terminal, "1", "dead neurons of L2")
        terminal.wait_for("by max")
        press(terminal, "\r", "dead: 0 on all ")
        terminal.wait_for("excess kurtosis")
        press(terminal, "w", "token 1 of ")
        press(terminal, "ll", "token 3 of ")
        assert "capturing" in terminal.text
        # the strongest neuron at a token is marked
        press(terminal, "\t ", "1 marked")
        go_on_to_the_end(terminal, store)
        complete(store, "night", *CONCEPTS)

        # it is clamped in the lab, and the text that comes of it is kept
        press(terminal, ":lab\r", "zero @marked (1 neuron)")
        press(terminal, "j\r", "edit zero")
        press(terminal, "\x15clamp @marked=60\r", "clamp @marked=60 (1 neuron)")
        press(terminal, "r", "of this size: mean", 120)
        press(terminal, "K", "keep as run")
        press(terminal, "\r", "night-edited (Enter opens it)", 120)
        press(terminal, "\r", "night-edited (edited)", 60)
        terminal.wait_for("captured with edits (clamp")
        press(terminal, ":runs\r", "edited gpt2-relu")
        press(terminal, ":compare night,night-edited\r", "edited: clamp", 60)

        # back in the run itself: a trace, an overlap, a set operation, an export
        press(terminal, ":runs night\r", "Health")
        press(terminal, "t", "auroc", 60)
        press(terminal, "o", "tulip and vietnam", 60)
        press(terminal, "d", "tulip, not vietnam")
        press(terminal, "M", "marked")
        press(terminal, "e", "export to")
        press(terminal, f"\x15{tmp_path / 'overlap.json'}\r", "wrote")
        terminal.send("q")
        assert terminal.process.wait(timeout=20) == 0

    (pair,) = json.loads((tmp_path / "overlap.json").read_text())["pairs"]
    only = {f"L{one['layer']}/N{one['neuron']}" for one in pair["only_a"]}
    assert (pair["a"], pair["b"]) == ("tulip", "vietnam") and only
    with RunFile.open(store / "night-edited.duckdb") as run:
        assert run.info.status == "complete" and run.concepts == ("lab",) and run.has_generated
        (edit,) = run.info.settings["edits"]
        (neuron,) = edit["neurons"]
        assert edit["kind"] == "clamp" and set(run.neuron(edit["layer"], neuron, edit["site"])) == {60.0}
