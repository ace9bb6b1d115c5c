"""Counts that people read have their separators, whichever command prints them: 1,200 tokens, never 1200."""

import re

import pytest
from command_line import Finished, Run

BARE = re.compile(r"(?<![\w.,:/-])\d{4,}(?![\w-]|\.\d)")
"""A whole number without separators that is no neuron (N1234), date or part of a name."""

COMMANDS = (
    "runs", "info planted", "verify planted", "health planted", "neurons planted --sort max", "neuron planted L1/N2",
    "trace planted --concept tulip", "overlap planted --concepts tulip,vietnam", "overlap planted --kinds dead,weak",
    "ngrams planted", "positions planted", "delta planted", "similar planted L0/N5",
    "export planted --out there", "diff planted planted --fail-if neurons>0", "sinks planted",
)  # fmt: skip


def said(done: Finished) -> str:
    """Without paths, options to be typed, and settings, which are JSON."""
    return re.sub(r"\S*/\S*|--\w+ \d+|^settings .*", "", done.stdout + done.stderr, flags=re.MULTILINE)


def test_of_the_commands(nfinspect: Run) -> None:
    for command in COMMANDS:
        done = nfinspect(*command.split())
        assert done.returncode in (0, 3), (command, done.stderr)
        assert not BARE.search(said(done)), (command, BARE.findall(said(done)))


def test_of_a_wide_network(nfinspect: Run) -> None:
    made = nfinspect("simulate", "--layers", "2", "--neurons", "1100", "--tokens", "1200", "--run", "wide")
    assert made.returncode == 0 and "2,200 neurons" in made.stdout
    for command, told in (
        ("health wide", "2,200 neurons in 2 layers"),
        ("neurons wide --top 1100", "1-1,100 of 2,200 neurons"),
        ("diff wide wide --fail-if neurons>0", "neurons 2,200"),
        ("trace wide --concept one", "2,200"),
        ("overlap wide --concepts one,two", "live neurons"),
        ("delta wide", "of 2,200 neurons"),
        ("ngrams wide", "among 2,200 neurons"),
    ):
        done = nfinspect(*command.split())
        assert told in said(done), (command, done.stdout, done.stderr)
        assert not BARE.search(said(done)), (command, BARE.findall(said(done)))
    assert "2200 neurons" in nfinspect("health", "wide", "--json").stdout  # a document keeps its text


@pytest.mark.parametrize(
    ("text", "people"),
    [
        ("3072 neurons in 4 layers at mlp, over 1292 tokens: 2500 dead (81.4 %)",
         "3,072 neurons in 4 layers at mlp, over 1,292 tokens: 2,500 dead (81.4 %)"),
        ("step 12000: N3072 and 1000 more died between steps 1000 and 12000",
         "step 12000: N3072 and 1,000 more died between steps 1000 and 12000"),
        ("run-2026 of 0.12345 and 999", "run-2026 of 0.12345 and 999"),
    ],
)  # fmt: skip
def test_a_text_of_a_document(text: str, people: str) -> None:
    from nfinspect.present.numbers import grouped

    assert grouped(text) == people


def test_a_process_is_no_count() -> None:
    from nfinspect.backend.protocol import Status
    from nfinspect.cli.backend import _row

    values = {name: 0 for name in Status.__dataclass_fields__} | {
        "pid": 43618,
        "job": None,
        "queue": (),
        "state": "idle",
    }
    assert "43618" in _row(Status(**values))
