"""The token walk: a text in any script, the cursor from token to token, the neurons there, and the way back."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from app_driver import SMALL, Driven, Start
from fake_engine import FakeEngine
from rich.cells import cell_len
from terminal import Terminal
from walked_run import LONG, STRANGE, byte_tokens, write_walked

from nfinspect.analysis.prompt_text import TextPart
from nfinspect.tui.engine import Engine
from nfinspect.tui.glyphs import ASCII, UNICODE
from nfinspect.tui.token_lines import laid_out
from nfinspect.tui.walking import TokenWalk
from nfinspect_store.reader import RunFile
from nfinspect_store.results import keep_result, run_results


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("store")
    write_walked(store / "walked.duckdb")
    write_walked(store / "stats.duckdb", keep="stats")
    write_walked(store / "odd.duckdb", where=True)
    return store


@pytest.fixture
def engine(walked: Path) -> Iterator[Engine]:
    with closing(Engine(walked)) as engine:
        yield engine


async def to(app: Driven, line: str) -> None:
    await app.press("colon")
    await app.type(line)
    await app.press("enter")


def head(app: Driven) -> str:
    return next(line for line in app.lines if line.startswith(" prompt "))


async def test_the_cursor_goes_by_tokens_words_and_prompts(start: Start, engine: Engine) -> None:
    async with start(engine, "walked") as app:
        await app.press("w")
        assert "token 1 of 10" in head(app)
        await app.press("l", "l", "right", "h")
        assert '" tulip" id 2' in app.text
        await app.press("e")
        assert '"\\n" id 3' in app.text.replace("␊", "\\n"), "to the end of this word's line"
        await app.press("G")
        assert '"." id 9' in app.text
        assert "written by the model" in head(app)
        await app.press("b")
        assert '" Vietnam" id 8' in app.text
        await app.press("g", "k", "j")
        assert '"of" id 4' in app.text, "the line below"
        await app.press("J", "K", "K")
        assert "prompt 0" in head(app)
        assert app.status == "this is the first prompt"
        await app.press("J", "J", "J")
        assert f"token 1 of {LONG:,}" in head(app)
        assert app.status == "this is the last prompt"


async def test_every_character_is_readable_and_in_its_cells(start: Start, engine: Engine) -> None:
    async with start(engine, "walked", size=(120, 40)) as app:
        await to(app, "walk 1")
        line = next(line for line in app.lines if "漢字" in line)
        for whole in ("é ", "\\u202eab␇␉漢字", "مرحبا", "👩\\u200d🚀", "हिन्दी"):
            assert whole.replace("é", "e\u0301") in line, whole
        for line in app.lines:
            assert cell_len(line) == 120, "a line that is longer or shorter than the screen shifts what is beside it"
        seen = []
        for _ in byte_tokens(STRANGE):
            seen.append(next(line for line in app.lines if "│ " in line and '" id ' in line).partition("│ ")[2])
            await app.press("l")
        assert any(line.startswith('"漢" id') and '"<' in line for line in seen), "a piece of a character"
        assert not any("\ufffd" in line for line in seen)


def cells_of(part: TextPart, width: int, glyphs: object = UNICODE) -> list[list[tuple[str, int, int]]]:
    lines = laid_out(part, width, glyphs, wrote_before=False)  # type: ignore[arg-type]
    return [[(cell.text, cell.first, cell.last) for cell in line] for line in lines]


def test_tokens_that_share_a_character_share_its_cell(walked: Path) -> None:
    with RunFile.open(walked / "walked.duckdb") as run:
        part = Engine(walked).open("walked").ask_walk(TokenWalk.part, 1, 0)
        tokens = len(run.prompt_tokens(1).token)
    cells = [cell for line in cells_of(part, 80) for cell in line]
    assert cells[0] == ("e\u0301", 0, 1), "a letter and its mark, of two tokens"
    assert {place for _, first, last in cells for place in range(first, last + 1)} == set(range(tokens))
    for width in (12, 20, 33):
        for line in laid_out(part, width, UNICODE, wrote_before=False):
            assert sum(cell.width for cell in line) <= width
            assert sum(cell_len(cell.text) for cell in line) == sum(cell.width for cell in line)
    assert all(text.isascii() for line in cells_of(part, 40, ASCII) for text, _, _ in line)


async def test_the_neurons_at_a_token_are_ranked_and_opened_and_one_comes_back(start: Start, engine: Engine) -> None:
    async with start(engine, "walked", size=SMALL) as app:
        await to(app, "walk Hanoi")
        await app.press("l", "l", "l", "l", "l")
        first = next(line for line in app.lines if "L1/N5" in line)
        assert first.split("│")[1].split() == ["▏", "L1/N5", "8.000", "7.86", ">p99.9"]
        assert "most unusual L2 3.14" in app.text
        await app.press("r")
        assert app.pane.table.current.layer == 2, "by z: the one that is far from its own mean"
        assert app.pane.table.current.neuron == 3
        await app.press("enter")
        assert app.crumbs.endswith("prompt 0 > L2/N3")
        assert "1 of 48" in app.lines[0]
        await app.press("escape")
        assert "token 6 of 10" in head(app)
        assert app.pane.text.has_focus
        await app.press("tab", "j", "enter", "escape")
        assert app.pane.table.cursor == 1
        await app.press("space")
        assert len(app.pane.marks) == 1
        await app.press("r", "r")
        assert "found none: no capture records them; m (nfinspect walk)" in app.status
        assert "by |value|" in app.text


async def test_colours_by_neuron_layer_and_where_surprisal_is_not_known(start: Start, engine: Engine) -> None:
    async with start(engine, "walked") as app:
        await app.press("w", "l", "l", "l", "l", "l", "C")
        assert "L1/N5 8.000, 100% of its largest" in app.text
        assert any(line.startswith("█ of Hanoi") for line in app.lines), "the margin says it without colour"
        await app.press("c")
        assert "expected the tokens' surprisals, found none" in app.status
        assert "not coloured" in app.text
        await app.press("c", "c", "L", "down", "enter")
        assert "L0 unusual" in app.text
        assert "in L0" in app.text, "the layer's neurons alone"
        assert {row.layer for row in app.pane._at.neurons} == {0}
        await app.press("S")
        assert app.pane._at.neurons[0].site == "resid"


async def test_an_example_leads_to_its_token_and_back(start: Start, engine: Engine) -> None:
    for run in ("walked", "odd", "stats"):
        async with start(engine, run) as app:
            await to(app, "L1/N5")
            await app.press("enter")
            assert "prompt 0 of 3" in head(app), run
            assert "token 6 of 10" in head(app), run
            assert "L1/N5 8.000, 100% of its largest" in app.text, run
            await app.press("escape", "w")
            assert "token 6 of 10" in head(app), run


async def test_a_run_of_statistics_says_what_is_missing_and_shows_its_examples(start: Start, engine: Engine) -> None:
    async with start(engine, "stats") as app:
        await to(app, "walk 0")
        assert "not every value was kept" in app.text
        await app.press("l", "l", "l", "l", "l")
        assert app.pane.table.current.neuron == 5
        await app.press("c", "c")
        assert "L1/N5 8.000" in app.text, "c goes on past a colour that this run does not have"


async def test_tokens_that_are_not_recorded_are_passed_and_named(start: Start, engine: Engine) -> None:
    async with start(engine, "odd") as app:
        await to(app, "walk 0")
        assert "not recorded" in head(app)
        assert "not recorded: it has no values" in app.text
        await app.press("l")
        assert "not recorded" not in app.text
        assert app.pane.table.total == 48


async def test_a_saved_lens_is_shown_at_each_token(start: Start, engine: Engine, walked: Path) -> None:
    async with start(engine, "walked") as app:
        await to(app, "walk 0")
        await app.press("d")
        assert "found that none is saved" in app.status
        tokens = ["The", " red", " tulip", "\n", "of", " Hanoi"]
        layers = [
            {"layer": i, "positions": [{"token": f"a{i}{j}", "probability": 0.25} for j in range(6)]} for i in range(3)
        ]
        with RunFile.open(walked / "walked.duckdb") as run:
            document = {"prompt": "The red tulip\nof Hanoi", "prompt_tokens": tokens, "layers": layers}
            settings = {"prompt": document["prompt"]}
            keep_result(run_results(run.path), "lens", settings, document, run_id=run.info.run_id, in_format=1)
        await app.press("d")
        assert '"a00"' in app.text
        await app.press("l")
        assert '"a21"' in app.text
        await app.press("G")
        assert "the model wrote it: not in the lens" in app.text
        await app.press("d")
        assert "by |value|" in app.text


async def test_a_long_text_is_read_where_it_is_looked_at(start: Start, engine: Engine) -> None:
    async with start(engine, "walked", size=SMALL) as app:
        await to(app, "walk 2")
        first = set(app.pane.text.parts)
        await app.press("G")
        assert f"token {LONG:,} of {LONG:,}" in head(app)
        assert f" w{LONG - 1}" in app.text
        assert first == {0}, "nothing is read that is not near the screen"
        await app.press("pageup", "pageup", "pagedown", "g")
        assert " w0" in app.text


async def test_a_prompt_that_is_not_there_is_told_in_one_line(start: Start, engine: Engine) -> None:
    async with start(engine, "walked") as app:
        await to(app, "walk Atlantis")
        assert "expected a prompt's number (0-2) or a part of its text, found 'Atlantis'" in app.status
        await app.press("p")
        await app.type("vietnam")
        await app.press("enter")
        assert "in no prompt of this run" in app.status, "what the model wrote is no part of a prompt's text"
        await app.press("p")
        await app.type("hanoi")
        await app.press("enter")
        assert "prompt 0 of 3" in head(app)


async def test_the_model_is_read_by_a_command(start: Start) -> None:
    fake = FakeEngine()
    async with start(fake) as app:
        await app.press("w", "x")
        assert app.status == "nothing is being computed here; :lab leads to the lab"
        await app.press("m")
        assert fake.started == [("walk", "demo", "--store", "/store")]
        fake.job.say("2/3 (67%)")
        await app.press("m")
        assert "it is being computed already" in app.status
        fake.job.end(1, "the walk's figures needs the run's model, and this run names none: pass --model")
        app.app.board.look()
        await app.settle()
        assert "pass --model" in app.status


@pytest.mark.slow
def test_a_walk_in_a_real_terminal(walked: Path) -> None:
    terminal = Terminal(walked, "walked")
    try:
        terminal.wait_for("Health")
        terminal.send("w")
        terminal.wait_for("token 1 of 10")
        terminal.send("lllll")
        terminal.wait_for("token 6 of 10")
        terminal.wait_for(">p99.9")
        terminal.settle()
        terminal.send("l")
        terminal.wait_for("token 7 of 10")
        terminal.settle()
        before = len(terminal.raw)
        terminal.send("h")
        terminal.wait_for("token 6 of 10")
        terminal.settle()
        assert 0 < len(terminal.raw) - before < 3500
        terminal.send("r\r")
        terminal.wait_for("L2/N3 weak")
        terminal.send("\x1b")
        terminal.wait_for("token 6 of 10")
        terminal.send(":walk 1\r")
        terminal.wait_for("\\u202eab␇␉漢")
        for row, line in enumerate(terminal.screen.display[2:20], 2):
            columns = terminal.screen.buffer[row]
            before, hindi, _ = line.partition("ह")
            # the emulator drops what follows a vowel sign, up to the next sequence: there the line is right up to it
            place = cell_len(before) if hindi else 41
            assert columns[place].data == ("ह" if hindi else "│"), line
        terminal.settle()
        terminal.send("q")
        terminal.read(2)
        assert terminal.process.wait(timeout=20) == 0
    finally:
        terminal.close()


async def test_its_line_lists_the_same_neurons(start: Start, engine: Engine, walked: Path) -> None:
    async with start(engine, "walked", size=(200, 50)) as app:
        await app.press("w", "l", "l")
        assert (
            "$ nfinspect sql walked 'SELECT layer, neuron, value FROM activations WHERE token_idx = 2 AND" in app.text
        )
        for layer in (None, 1):
            if layer is not None:
                await app.press("L")
                await app.type(f"L{layer}")
                await app.press("enter")
            command, run, statement = app.pane.equivalent
            assert (command, run) == ("sql", "walked")
            with RunFile.open(walked / "walked.duckdb") as file:
                found = file.sql(statement).fetchall()
            assert found == [(row.layer, row.neuron, pytest.approx(row.value)) for row in app.pane._at.neurons]
        await app.press("r")
        assert app.pane.equivalent == (), "no SQL has the other ranks"
