"""Frames are sent as what they change: a terminal shows the same as if each had been sent as Textual writes it."""

import random
import signal
import time
from pathlib import Path

import pyte
import pytest
from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from terminal import Terminal
from textual.strip import Strip

from nfinspect.tui.frames import Cells

WIDTH, HEIGHT = 40, 8
PLAIN = list("abc  xyz·▌█░⠿─│0123 ")
ODD = ["好", "か", "e\u0301", "👍", "a", " ", "b"]
STYLES = [
    Style.parse(text)
    for text in ("white on black", "bold white on black", "#d6d9dc on #14171a", "bold #d6d9dc on #14171a",
                 "#d6d9dc on #2d4356", "dim red", "reverse", "none", "underline #010203", "color(200) on color(17)")
]  # fmt: skip


def strip(random: random.Random, width: int, alphabet: list[str]) -> str:
    """A line of `width` cells, as Textual renders it."""
    segments = []
    while sum(Segment(text).cell_length for text, *_ in segments) < width:
        text = "".join(random.choice(alphabet) for _ in range(random.randint(1, 9)))
        segments.append(Segment(text, random.choice(STYLES)))
    line = Strip(segments).adjust_cell_length(width, STYLES[0])
    return "".join(style.render(text) if style else text for text, style, _ in line)


def shown(screen: pyte.Screen) -> list[tuple[object, ...]]:
    """What is seen of each cell: of an empty one neither the colour nor the weight of its text."""
    rows = [[screen.buffer[y][x] for x in range(WIDTH)] for y in range(HEIGHT)]
    return [
        tuple(
            cell._replace(fg="default", bold=False) if cell.data == " " and not cell.reverse and not cell.underscore
            else cell
            for cell in row
        )
        for row in rows
    ]  # fmt: skip


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))


@pytest.mark.parametrize("seed", range(40))
def test_a_terminal_shows_the_same(seed: int) -> None:
    rng = random.Random(seed)
    whole, changed = pyte.Screen(WIDTH, HEIGHT), pyte.Screen(WIDTH, HEIGHT)
    streams = [pyte.Stream(whole), pyte.Stream(changed)]
    cells, saved = Cells(), 0
    lines = [strip(rng, WIDTH, PLAIN) for _ in range(HEIGHT)]
    full = "\n".join(f"\x1b[{y + 1};1H{line}" for y, line in enumerate(lines))
    for step in range(30):
        if step == 0 or rng.random() < 0.05:
            frame = full
            if rng.random() < 0.5:
                cells.forget()
        else:
            pieces = []
            for y in sorted(rng.sample(range(HEIGHT), rng.randint(1, HEIGHT))):
                x = rng.choice([0, 0, 5, 20])
                width = WIDTH - x if rng.random() < 0.7 else rng.randint(1, WIDTH - x)
                # characters that take two cells only in some lines, and there always in whole ones
                text = strip(rng, WIDTH - 6, PLAIN + ODD) if y % 4 == 3 else strip(rng, width, PLAIN)
                if y % 4 != 3 and width == WIDTH and rng.random() < 0.5:
                    text = lines[y]
                pieces.append(f"\x1b[{y + 1};{1 if y % 4 == 3 else x + 1}H{text}")
            frame = "\n".join(pieces)
        streams[0].feed(frame)
        sent = cells.sent(frame)
        streams[1].feed(sent)
        saved += len(frame) - len(sent)
        assert shown(changed) == shown(whole), (seed, step)
    assert saved > 0


def test_what_is_the_same_is_not_sent() -> None:
    cells = Cells()
    red, blue = Style.parse("red on black"), Style.parse("bold blue on black")
    frame = f"\x1b[3;5H{red.render('one two')}{blue.render('three')}"
    assert cells.sent(frame) == "\x1b[3;5H\x1b[31;40mone two\x1b[1;34mthree\x1b[0m"
    assert cells.sent(frame) == ""
    other = f"\x1b[3;5H{red.render('one two')}{blue.render('thrEe')}"
    assert cells.sent(other) == "\x1b[3;15H\x1b[1;34;40mE\x1b[0m"
    cells.forget()
    assert cells.sent(frame) == "\x1b[3;5H\x1b[31;40mone two\x1b[1;34mthree\x1b[0m"


def drawn(screen: pyte.Screen, start: int, stop: int) -> str:
    """Cells of the second line."""
    return "".join(screen.buffer[1][place].data for place in range(start, stop))


WIDER = {"\u093f": 1, "\u093e": 1, "\u0940": 1, "\U0001fae9": 0, "\U0001f9cb": 1}
"""Vowel signs of Devanagari as most terminals have them, and emoji that an older one does not know."""


def test_what_terminals_do_not_agree_on_moves_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is right of such characters, now or later, stands where it stands in a terminal that counts as we do."""
    own = pyte.screens.wcwidth
    monkeypatch.setattr(pyte.screens, "wcwidth", lambda text: WIDER.get(text, own(text)))
    style = STYLES[2]
    cells, screen = Cells(), pyte.Screen(WIDTH, HEIGHT)
    stream = pyte.Stream(screen)

    def send(row: int, column: int, text: str) -> None:
        stream.feed(cells.sent(f"\x1b[{row};{column}H{style.render(text)}"))

    send(2, 1, f"{'old text':<20}│ right side")
    for text in ("हिन्दी में लिखा", "new \U0001fae9 face", "tea \U0001f9cb here", "नि" * 10, "plain"):
        send(2, 1, _padded(text, 20))
        assert drawn(screen, 20, 32) == "│ right side", text
    send(2, 1, _padded("tea \U0001f9cb here", 20) + "│ right side")
    assert drawn(screen, 0, 4) == "tea " and drawn(screen, 7, 11) == "here"
    send(3, 29, _padded("हिन्दी में", 12))  # at the edge of the screen: nothing runs over into the next line
    assert screen.display[3].strip() == ""


def test_a_vowel_sign_is_not_painted_over(monkeypatch: pytest.MonkeyPatch) -> None:
    own = pyte.screens.wcwidth
    monkeypatch.setattr(pyte.screens, "wcwidth", lambda text: WIDER.get(text, own(text)))
    screen = pyte.Screen(WIDTH, HEIGHT)
    pyte.Stream(screen).feed(Cells().sent(f"\x1b[2;1H{STYLES[2].render(_padded('हिन्दी', 20) + '│')}"))
    assert drawn(screen, 0, 8).rstrip() == "हिन्दी" and drawn(screen, 20, 21) == "│"


def test_a_sequence_that_frames_do_not_have_is_an_error() -> None:
    with pytest.raises(ValueError, match="unexpected control sequence"):
        Cells().sent("\x1b[1;1H\x1b]8;id=1;http://x\x1b\\link\x1b]8;;\x1b\\")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "keys", "most"), [("n\r", "JJJK", 6000), (":trace tulip\r", "jjk", 1500), ("", "jjk", 1500)]
)
def test_a_key_costs_few_bytes(store: Path, start: str, keys: str, most: int) -> None:
    terminal = Terminal(store, "planted")
    try:
        terminal.wait_for("Health")
        terminal.settle(1.0)
        terminal.send(start)
        terminal.settle(1.5)
        for key in keys:
            terminal.send(key)
            answer = terminal.read(1.5)
            assert 0 < len(answer) <= most, key
    finally:
        terminal.close()


@pytest.mark.parametrize("how", ["ctrl+l", "stopped and continued"])
def test_everything_is_painted_again(store: Path, how: str) -> None:
    """Something else has written to the terminal: only what changes would not heal it."""
    terminal = Terminal(store, "planted")
    try:
        terminal.wait_for("Health")
        terminal.settle()
        terminal.screen.reset()
        assert "Health" not in terminal.text
        if how == "ctrl+l":
            terminal.send("\x0c")
        else:
            terminal.process.send_signal(signal.SIGTSTP)
            wait_for_state(terminal.process.pid, "T")
            terminal.process.send_signal(signal.SIGCONT)
        terminal.wait_for("Health")
        terminal.wait_for("$ nfinspect health planted")
    finally:
        terminal.close()


def wait_for_state(pid: int, state: str) -> None:
    """Until a process is in a state of /proc: T is stopped."""
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != state:
        assert time.monotonic() < deadline
        time.sleep(0.02)
