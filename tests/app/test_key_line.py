"""The line of keys: nothing that works here is left out of it without a sign."""

from app_driver import Start
from fake_engine import FakeEngine, FakeSession
from rich.cells import cell_len

from nfinspect.tui.cells import Cell
from nfinspect.tui.chrome import key_cells
from nfinspect.tui.glyphs import UNICODE

KEYS = [("?", "Help"), ("Enter", "Open"), ("s", "Sort"), ("n", "Neurons"), ("Q", "SQL"), ("Esc", "Out")]


def line(width: int) -> str:
    return "".join(piece.text if isinstance(piece, Cell) else piece for piece in key_cells(KEYS, width, UNICODE))


def test_keys_without_room_for_their_words_stand_bare_after_the_others() -> None:
    assert line(80) == " ? Help  Enter Open  s Sort  n Neurons  Q SQL  Esc Out  "
    assert line(36) == " ? Help  Enter Open  s Sort  n Q Esc"
    for width in range(12, 90):
        drawn = line(width)
        assert cell_len(drawn.rstrip()) <= width
        there = [key for key, _ in KEYS if key in drawn.replace("Help", "").replace("Open", "").split()]
        assert len(there) == len(KEYS) or drawn.endswith("…"), (width, drawn)


async def test_no_key_of_a_pane_is_dropped_at_80_columns(start: Start) -> None:
    async with start(FakeEngine()) as app:
        for key in ("", "n", "enter", "t", "escape", "o", "escape", "a"):
            if key:
                await app.press(key)
            words = app.lines[-1].split()
            shown = [b for _, b, enabled, _ in app.app.screen.active_bindings.values() if b.show and enabled]
            for binding in shown:
                assert app.app.get_key_display(binding).split()[0] in words, (app.crumbs, binding.action)


async def test_layers_give_their_reasons_the_free_lines(start: Start) -> None:
    async with start(size=(100, 30)) as app:
        await app.press("j", "j")
        text = " ".join(app.text.split())
        assert "Health falls by 0.12" in text and "mean score of the first third" in text, "the last line, too"
        table = app.pane.table
        assert table.size.height <= table.total + 2


async def test_the_first_advice_is_in_sight_at_80x24(start: Start) -> None:
    async with start(size=(80, 24)) as app:
        line = next(line for line in app.lines[:5] if "dead: 36.0 %" in line)
        assert line.strip().startswith("› Layers 2-3") and "(+1: Tab, G)" in line and "…" in line
        await app.press("tab", "G")
        assert "mean score of the first third" in app.text
    async with start(FakeEngine(session=FakeSession()), size=(200, 50)) as app:
        assert app.text.count("Layers 2-3, dead:") == 1, "where the panel shows all of them, one is enough"
