"""The app in a real terminal: hang-up, idle bytes, repaints, exit, and what it imports."""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest
from terminal import Terminal
from test_making_analyses import SLOW

from nfinspect_store.heartbeat import Heartbeat

HUNG_UP = 128 + signal.SIGHUP


@contextmanager
def opened(store: Path, run: str = "planted", **options: object) -> Iterator[Terminal]:
    terminal = Terminal(store, run, **options)  # type: ignore[arg-type]
    try:
        terminal.wait_for("Health" if run else "planted")
        terminal.settle()
        yield terminal
    finally:
        terminal.close()


def test_a_dropped_link_ends_the_process(store: Path) -> None:
    with opened(store) as terminal:
        terminal.hang_up()
        assert terminal.process.wait(timeout=8) == HUNG_UP


def test_a_lost_terminal_is_noticed_without_a_signal(store: Path) -> None:
    """As when SIGHUP is ignored (nohup): the app must not spin on a dead terminal."""
    with opened(store) as terminal:
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        terminal.process.send_signal(signal.SIGSTOP)  # the signal of the hang-up comes while it cannot act on it
        terminal.hang_up()
        terminal.process.send_signal(signal.SIGCONT)
        assert terminal.process.wait(timeout=8) == HUNG_UP


def test_sighup_with_a_living_terminal_restores_the_screen(store: Path) -> None:
    with opened(store) as terminal:
        terminal.process.send_signal(signal.SIGHUP)
        terminal.read(3)
        assert terminal.process.wait(timeout=5) == HUNG_UP
        assert b"\x1b[?1049l" in terminal.raw


def test_sigterm_asks_nothing_and_ends_a_command(store: Path) -> None:
    (store.parent / "slow.py").write_text(SLOW)
    with opened(store, code=SLOWLY) as terminal:
        terminal.send(":ngrams\r")
        terminal.wait_for("No result is kept")
        terminal.send("r")
        terminal.wait_for("computing, ")
        terminal.process.terminate()
        terminal.read(3)
        assert terminal.process.wait(timeout=10) == 128 + signal.SIGTERM
        assert b"\x1b[?1049l" in terminal.raw
        assert not commands_about(store)


@pytest.mark.slow
def test_nothing_is_sent_while_idle(store: Path) -> None:
    with opened(store) as terminal:
        for keys, shown in (("n", "neuron "), ("\r", "L0/N")):
            terminal.send(keys)
            terminal.wait_for(shown)
            terminal.settle(1.0)
            assert terminal.read(2.0) == b"", f"after {keys!r}"


@pytest.mark.slow
@pytest.mark.parametrize(("size", "most"), [((80, 24), 1500), ((200, 50), 9000)])  # the larger one previews texts
def test_a_key_is_answered_with_few_bytes(store: Path, size: tuple[int, int], most: int) -> None:
    with opened(store, size=size) as terminal:
        terminal.send("n")
        terminal.wait_for("neuron ")
        terminal.settle(0.8)
        terminal.send("j")
        answer = terminal.read(0.5)
        assert 0 < len(answer) < most


def test_keys_lead_through_a_real_run(store: Path) -> None:
    with opened(store, "") as terminal:
        assert "planted" in terminal.text
        assert "stats" in terminal.text
        terminal.send("/planted\r")
        terminal.settle()
        terminal.send("\r")
        terminal.wait_for("Health")
        terminal.send("1")  # no key here: nothing happens
        terminal.send(":dead\r")
        terminal.wait_for("3 neurons by max")
        terminal.send("\r")
        terminal.wait_for("L0/N0 dead")
        terminal.send(":trace tulip\r")
        terminal.wait_for("L0/N5")
        terminal.send("q")
        assert terminal.process.wait(timeout=10) == 0


@pytest.mark.slow
def test_an_analysis_is_made_by_a_command_and_read(store: Path) -> None:
    with opened(store) as terminal:
        terminal.send("a")
        terminal.wait_for("nfinspect ngrams planted")
        terminal.send("\r")
        terminal.wait_for("No result is kept for this yet")
        terminal.send("r")
        terminal.wait_for("computing, ")
        terminal.wait_for("token detectors among 192 neurons", 60)
        terminal.settle(0.6)
        assert terminal.read(1.2) == b"", "nothing is looked at once the command has ended"
        terminal.send("\x1b")
        terminal.wait_for("n=1 at mlp")
        assert "unexpected" not in terminal.text
        assert list((store / "planted.results").glob("ngrams-*.duckdb"))


@pytest.mark.slow
def test_runs_are_marked_and_compared(store: Path) -> None:
    with opened(store, "") as terminal:
        terminal.wait_for("planted  ")
        terminal.send("  O")
        terminal.wait_for("dead neurons, % of each layer")
        terminal.wait_for("planted mlp: 3 dead of 192 neurons")
        terminal.settle(0.6)
        assert terminal.read(2.0) == b""
        terminal.send("j\r")
        terminal.wait_for("neurons of L0")
        terminal.send(":lens\r")
        terminal.wait_for("No lens is kept yet")
        terminal.send("p")
        terminal.wait_for("type to find")
        assert "0 tulip: ␛[31m[/red]" in terminal.text, "a hostile prompt is shown, not carried out"
        assert "unexpected" not in terminal.text


def commands_about(store: Path) -> list[str]:
    """The command lines of processes that name the store, where /proc tells them."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # a process that has ended meanwhile
            found.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in found if str(store) in line]


SLOWLY = """
import sys; from pathlib import Path; from nfinspect.tui import jobs; from nfinspect.tui.start import run_app
jobs.COMMAND = ("-P", str(Path(sys.argv[1]).parent / "slow.py"))
sys.exit(run_app(Path(sys.argv[1]), sys.argv[2]))
"""


def test_quitting_ends_a_command(store: Path) -> None:
    (store.parent / "slow.py").write_text(SLOW)
    with opened(store, code=SLOWLY) as terminal:
        terminal.send(":ngrams\r")
        terminal.wait_for("No result is kept")
        terminal.send("r")
        terminal.wait_for("computing, ")
        assert commands_about(store) or not Path("/proc").is_dir()
        terminal.send("\x11")
        terminal.wait_for("Quit, and give up ngrams of planted?")
        terminal.send("y")
        assert terminal.process.wait(timeout=10) == 0
        time.sleep(0.5)
        assert not list(store.rglob("*.results/*"))
        assert not commands_about(store)


@pytest.mark.slow
def test_every_pane_of_a_run_without_values(store: Path) -> None:
    with opened(store, "stats") as terminal:
        for keys, expected in (
            ("n", "neurons by max"),
            ("\r", "excess kurtosis"),
            ("\r", "not every value was kept"),
            ("\x1b", "excess kurtosis"),
            ("t", "auroc"),
            ("o", "shared"),
            ("Q\x12", "rows in"),
        ):
            terminal.send(keys)
            terminal.wait_for(expected)
            assert "unexpected" not in terminal.text


@pytest.mark.slow
def test_ascii_and_no_colour(store: Path) -> None:
    with opened(store, options="{'ascii': True, 'mouse': False}", NO_COLOR="1") as terminal:
        terminal.send("n\r")
        terminal.wait_for("excess kurtosis")
        terminal.settle()
        assert terminal.text.isascii()
        assert b"\x1b[?1000h" not in terminal.raw
        colours = [c for row in terminal.screen.buffer.values() for cell in row.values() for c in (cell.fg, cell.bg)]
        assert set(colours) <= {"default"}


def test_quitting_cancels_a_query(store: Path) -> None:
    with opened(store) as terminal:
        terminal.send(":sql from range(100000000000) select sum(range * random())\r")
        terminal.wait_for("running")
        started = time.perf_counter()
        terminal.send("\x11")
        assert terminal.process.wait(timeout=10) == 0
        assert time.perf_counter() - started < 8


def test_browsing_never_imports_torch() -> None:
    code = """
import sys
import nfinspect.tui.app, nfinspect.tui.engine, nfinspect.tui.session, nfinspect.tui.bindings
import nfinspect.tui.widgets.chart, nfinspect.tui.panes.marked, nfinspect.tui.panes.walk
import nfinspect.analysis.trace, nfinspect.analysis.overlap
import nfinspect.tui.panes.analyses, nfinspect.tui.panes.analysis
import nfinspect.tui.panes.kinds, nfinspect.tui.panes.logits, nfinspect.tui.plot_lines, nfinspect.tui.jobs
import nfinspect.analyses.kind_overlap, nfinspect.analyses
import nfinspect.tui.panes.lens, nfinspect.tui.panes.compare, nfinspect.tui.comparing
import nfinspect.tui.panes.capture, nfinspect.tui.panes.live, nfinspect.tui.captures
nfinspect.tui.bindings.binding_ids(nfinspect.tui.app.NfinspectApp)
nfinspect.analyses.specs()
assert not {"torch", "transformers", "matplotlib"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_first_paint_waits_for_no_heavy_import() -> None:
    code = """
import sys
import nfinspect.tui.app, nfinspect.tui.engine
found = {"duckdb", "numpy", "pyarrow", "scipy", "plotext", "torch", "transformers"} & set(sys.modules)
assert not found, found
"""
    subprocess.run([sys.executable, "-c", code], check=True)


BROKEN = """
import sys
from nfinspect.cli import main
from nfinspect.tui.panes.layers import LayersPane
LayersPane.action_copy = lambda pane: 1 / 0
sys.exit(main([sys.argv[1] + "/planted.duckdb"]))
"""


def test_a_defect_ends_in_one_line_and_restores_the_screen(store: Path) -> None:
    with opened(store, code=BROKEN) as terminal:
        terminal.send("y")
        terminal.read(3)
        assert terminal.process.wait(timeout=10) == 1
        assert b"\x1b[?1049l" in terminal.raw
        assert "nfinspect: unexpected ZeroDivisionError: division by zero (this is a bug" in terminal.text
        assert "Traceback" not in terminal.text


def test_a_run_without_a_token_is_not_opened(store: Path) -> None:
    with duckdb.connect(str(store / "planted.duckdb")) as connection:
        connection.execute("UPDATE run SET status = 'capturing'; DELETE FROM tokens")
    with opened(store, "") as terminal:
        terminal.send("/planted\r")
        terminal.wait_for("interrupted")
        terminal.send("\r")
        terminal.wait_for("planted holds nothing yet")


@pytest.mark.slow
def test_a_capture_is_followed_to_its_end(store: Path) -> None:
    beat = Heartbeat(store / "planted.duckdb", model="gpt2", min_interval=0)
    beat.beat(tokens_done=300, tokens_total=1200, tokens_per_second=100, phase="reading")
    with opened(store, "") as terminal:
        terminal.send("/planted\r")
        terminal.settle()
        terminal.send("\r")
        terminal.wait_for("300 of 1,200")
        terminal.settle(1.2)
        assert terminal.read(2.0) == b"", "nothing has changed"
        beat.beat(tokens_done=900, tokens_total=1200, tokens_per_second=100, phase="reading")
        terminal.wait_for("75.0%")
        beat.remove()
        terminal.wait_for("Health")
