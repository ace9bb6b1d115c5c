"""The steps of the flows in real terminals: an app that starts slow backends, and a capture from its empty store."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from running_backends import HERE as BACKENDS
from running_backends import SAMPLES
from terminal import Terminal

from nfinspect.backend.client import Backend
from nfinspect.backend.directory import FOLDER, living
from nfinspect_store.reader import RunFile

MODEL = SAMPLES / "gpt2-relu"
PROMPTS = SAMPLES / "prompts"

SLOW_BACKENDS = (
    f"import os; os.chdir(sys.argv[1]); from nfinspect.backend import client; "
    f"client.COMMAND = ({str(BACKENDS / 'slow_backend.py')!r},); "
)
"""The app starts backends whose captures commit every batch, and are as slow as the file `slow` says."""

RUN = (
    f"import sys; {SLOW_BACKENDS}from pathlib import Path; from nfinspect.tui.start import run_app; "
    "sys.exit(run_app(Path(sys.argv[1]), sys.argv[2] or None, **eval(sys.argv[3])))"
)


@contextmanager
def slow_store(made: Path) -> Iterator[Path]:
    """An empty store in which captures are slow; the backends that are left in it are ended."""
    made.mkdir()
    (made / "slow").write_text("1.0")
    yield made
    for entry in living(made)[0]:
        with Backend.connect(made, entry.id) as backend:
            backend.stop()
    assert not (made / FOLDER).exists()


@contextmanager
def opened(store: Path) -> Iterator[Terminal]:
    """The app on the list of runs of a store."""
    terminal = Terminal(store, code=RUN, SEGMENT_SECONDS="0")
    try:
        yield terminal
    finally:
        terminal.close()


def fill_in(terminal: Terminal) -> None:
    """From the list of runs, which is empty, into the fields of a new capture."""
    terminal.wait_for("No runs here yet")
    terminal.settle()
    terminal.send("c")
    terminal.wait_for("new tokens")
    terminal.settle()


def start(terminal: Terminal, store: Path) -> None:
    """From fields that make a command, over its estimate, to the live view."""
    terminal.send("\x12")
    terminal.wait_for("^r starts it", 120)
    assert "tokens" in terminal.text and "disk" in terminal.text and not list(store.glob("*.duckdb"))
    terminal.send("\x12")
    terminal.wait_for("(capturing)", 60)


def begin(
    terminal: Terminal, store: Path, run: str, *, concepts: Sequence[str] = ("tulip", "baseline"), sites: str = "mlp"
) -> None:
    """From the empty store to the live view of a run of which something can be browsed."""
    fill_in(terminal)
    terminal.send(f"{MODEL}\r{' '.join(str(PROMPTS / f'{concept}.json') for concept in concepts)}\r")
    terminal.wait_for(f"{concepts[-1]}.json --store")
    terminal.send(f"\t\t{sites}\r0-3\r\t\t\t{run}\r")  # typed prompts and the corpus are left out
    terminal.wait_for(f"--run {run} --store")
    for expected in ("--prompts", f"--sites {sites}", "--layers 0-3"):
        assert expected in terminal.words
    terminal.send("e --batch-size 2\r")  # the last field led to the command, which is edited
    terminal.wait_for("(edited)")
    start(terminal, store)
    terminal.wait_for("browses what is committed", 60)


def hang_up(terminal: Terminal) -> None:
    """The link is lost: the app ends, its backend does not."""
    terminal.hang_up()
    assert terminal.process.wait(timeout=20) == 128 + signal.SIGHUP


def come_back(terminal: Terminal, run: str) -> None:
    """From the list of runs to the live view of what a backend captures."""
    terminal.wait_for(f"backend gpt2-relu: capturing {run}")
    terminal.settle(0.2, 2)
    terminal.send("p")
    terminal.wait_for("browses what is committed", 45)


def browse(terminal: Terminal) -> None:
    """From the live view to the layers, as far as they are committed."""
    terminal.send("\r")
    terminal.wait_for("under way", 60)
    terminal.wait_for("shown: ")


def go_on_to_the_end(terminal: Terminal, store: Path) -> None:
    """The capture is slow no longer; the app changes over to its file where the user is."""
    (store / "slow").unlink()
    terminal.wait_for("this is all of it", 60)


def complete(store: Path, run: str, *concepts: str) -> None:
    """Asserts that a run is whole."""
    with RunFile.open(store / f"{run}.duckdb") as file:
        assert file.info.status == "complete" and set(file.concepts) == set(concepts)
