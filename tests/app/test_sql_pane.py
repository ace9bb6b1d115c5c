"""The SQL console: running, cancelling, completing, recalling, paging."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from app_driver import SMALL, Start
from fake_engine import FakeColumn, FakeEngine, FakeResult
from rich.cells import cell_len

from nfinspect.tui.completion import complete
from nfinspect.tui.engine import Engine
from nfinspect.tui.typed_history import append_history, read_history
from nfinspect.tui.widgets.paged_table import PagedTable
from nfinspect.tui.widgets.sql_editor import SqlEditor
from nfinspect_store.console import Console
from nfinspect_store.errors import QueryError
from nfinspect_store.query_place import place_of


@pytest.fixture
def engine(store: Path) -> Iterator[Engine]:
    with closing(Engine(store)) as opened:
        yield opened


TABLES = {
    "neurons": ("layer", "neuron", "max"),
    "tokens": ("token_idx", "token"),
    "layers": ("site", "layer"),
}


async def test_enter_after_a_semicolon_runs(start: Start, size: tuple[int, int]) -> None:
    engine = FakeEngine()
    async with start(engine, size=size) as app:
        await app.press("Q", "enter")
        assert engine.session.calls[-1][0] == "sql"
        assert "1,000 rows in" in app.text
        assert "row 3" in app.text and "Esc leads to them" in app.text
        await app.press("escape")
        assert "1,000 rows in" in app.text and "Esc leads" not in app.text
        await app.press("G")
        assert "row 999" in app.text


async def test_an_error_is_one_line_and_the_statement_stays(start: Start) -> None:
    async with start() as app:
        await app.press("colon")
        await app.type("sql from nonsense")
        await app.press("enter")
        assert app.status == "Catalog Error: Table with name nonsense does not exist!"
        assert app.pane.query_one(SqlEditor).text == "from nonsense"


async def test_esc_cancels_then_leaves_the_editor_then_the_pane(start: Start) -> None:
    async with start() as app:
        await app.press("Q", "ctrl+r")
        app.pane.query_one(SqlEditor).put("from slow;")
        app._send("enter")
        await app.pilot.pause()
        assert app.pane._busy
        await app.press("escape")
        assert not app.pane._busy
        assert app.status == "the query was interrupted"
        await app.press("escape")
        assert app.pane.query_one(PagedTable).has_focus
        await app.press("escape")
        assert app.crumbs == "nfinspect > demo"


async def test_history_is_kept_across_sessions(start: Start, tmp_path: Path) -> None:
    async with start() as app:
        await app.press("Q")
        app.pane.query_one(SqlEditor).put("from tokens;")
        await app.press("enter")
    async with start() as app:
        await app.press("Q", "up")
        assert app.pane.query_one(SqlEditor).text == "from tokens;"
        await app.press("down")
        assert app.pane.query_one(SqlEditor).text == ""


def test_history_survives_what_is_broken(tmp_path: Path) -> None:
    file = tmp_path / "x" / "history.jsonl"
    append_history(file, "select 'ü\n2'")
    file.write_bytes(file.read_bytes() + b"\xff not json\n[1]\n")
    append_history(file, "two")
    assert read_history(file) == ["select 'ü\n2'", "two"]
    assert read_history(tmp_path / "none") == []


async def test_tab_completes_and_goes_through_the_candidates(start: Start) -> None:
    async with start() as app:
        await app.press("Q")
        editor = app.pane.query_one(SqlEditor)
        editor.put("from neurons select l")
        await app.press("tab")
        assert editor.text == "from neurons select layer"
        await app.press("tab")
        assert editor.text == "from neurons select layers"
        editor.put("from to")
        await app.press("tab")
        assert editor.text == "from tokens"


def test_completion_knows_where_it_stands() -> None:
    assert complete("select * from ne", TABLES)[1] == ["neurons"]
    assert complete("select tok", TABLES)[1] == ["token_idx", "token", "tokens"]
    assert complete("select n.m", {**TABLES})[1] == []
    assert complete("from neurons n where n.m", TABLES)[1] == ["n.max"]
    assert complete("wh", TABLES)[1] == ["WHERE"]


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 'ma",
        "SELECT 'it''s ma",
        "SELECT 1 -- from ne",
        "SELECT /* from ne",
        "SELECT $$ ma",
        "SELECT $x$ a$$ ma",
    ],
)
def test_strings_and_comments_are_not_completed(text: str) -> None:
    assert complete(text, TABLES) == ("", [])


@pytest.mark.parametrize(
    "text", ["SELECT 'it''s', ma", "SELECT 1 -- it's\n, ma", "SELECT /* ' */ ma", "SELECT $$ ' $$, ma"]
)
def test_after_them_there_is_completion_again(text: str) -> None:
    assert complete(text, TABLES) == ("ma", ["max", "MAX("])


def test_what_a_string_says_is_no_table() -> None:
    assert complete("SELECT 'from' tok", TABLES)[1] == ["token_idx", "token", "tokens"]


async def test_what_was_typed_comes_back_after_earlier_statements(start: Start) -> None:
    async with start() as app:
        await app.press("Q")
        editor = app.pane.query_one(SqlEditor)
        editor.put("from tokens;")
        await app.press("enter")
        editor.put("from neu")
        await app.press("down")
        assert editor.text == "from neu", "there is no later statement"
        await app.press("up")
        assert editor.text == "from tokens;"
        await app.press("down")
        assert editor.text == "from neu"


async def test_typing_replaces_the_example(start: Start) -> None:
    async with start() as app:
        await app.press("Q")
        assert "GROUP BY ALL" in app.text
        await app.type("from tokens;")
        assert app.pane.query_one(SqlEditor).text == "from tokens;"


async def test_single_keys_are_typed_not_obeyed(start: Start) -> None:
    async with start() as app:
        await app.press("Q")
        editor = app.pane.query_one(SqlEditor)
        editor.put("")
        await app.type("q?:zn")
        assert editor.text == "q?:zn"
        assert app.crumbs.endswith("sql")


class Rows(FakeResult):
    """A result of rows that a test gives."""

    def __init__(self, columns: dict[str, str], *rows: tuple[object, ...]) -> None:
        super().__init__(len(rows))
        self.columns = tuple(FakeColumn(name, kind) for name, kind in columns.items())
        self._rows = list(rows)

    def page(self, offset: int = 0, limit: int = 100) -> list[tuple[object, ...]]:
        return self._rows[offset : offset + limit]


async def test_a_row_leads_to_its_neuron(start: Start) -> None:
    engine = FakeEngine()
    engine.session.result = Rows({"Layer": "INTEGER", "NEURON": "INTEGER", "site": "VARCHAR"}, (2, 7, "resid"))
    async with start(engine) as app:
        await app.press("Q", "enter", "escape", "enter")
        assert app.crumbs.endswith("sql > resid:L2/N7")


async def test_a_row_without_a_site_is_asked_for_it_where_several_have_the_neuron(start: Start) -> None:
    """`ORDER BY max` of a run with mlp and resid: row 1 is one of resid, and mlp has one of the same number."""
    engine = FakeEngine()
    engine.session.result = Rows({"layer": "INTEGER", "neuron": "INTEGER", "max": "FLOAT"}, (2, 7, 9.0))
    async with start(engine) as app:
        await app.press("Q", "enter", "escape", "enter")
        assert "L2/N7 at which site?" in app.text and app.crumbs.endswith("sql")
        await app.press("down", "enter")
        assert app.crumbs.endswith("sql > resid:L2/N7")


async def test_a_row_without_a_site_leads_on_where_one_site_alone_has_the_neuron(start: Start) -> None:
    engine = FakeEngine()
    session = engine.session
    session.layers = tuple(replace(x, neurons=4 if x.site == "resid" else x.neurons) for x in session.layers)
    session.result = Rows({"layer": "INTEGER", "neuron": "INTEGER"}, (2, 7), (2, 50_000))
    async with start(engine) as app:
        await app.press("Q", "enter", "escape", "enter")
        assert app.crumbs.endswith("sql > L2/N7")
        await app.press("escape", "down", "enter")
        assert app.crumbs.endswith("sql") and app.status == "this run holds no L2/N50000"


async def test_a_row_that_names_no_neuron_opens_its_values(start: Start) -> None:
    """`layer` and `neuron` may be columns of anything."""
    for row in (("x", 1, "mlp"), (1, None, "mlp"), (1, 1.5, "mlp")):
        engine = FakeEngine()
        engine.session.result = Rows({"layer": "VARCHAR", "neuron": "INTEGER", "site": "VARCHAR"}, row)
        async with start(engine) as app:
            await app.press("Q", "enter", "escape", "enter")
            assert app.crumbs.endswith("sql > row 1"), row


async def test_a_row_with_a_neuron_that_is_not_there_opens_none(start: Start) -> None:
    engine = FakeEngine()
    engine.session.result = Rows({"layer": "INTEGER", "neuron": "INTEGER", "site": "VARCHAR"}, (1, 2, "nosite"))
    async with start(engine) as app:
        await app.press("Q", "enter", "escape", "enter")
        assert app.crumbs.endswith("sql") and app.status == "this run holds no L1/N2 at nosite"


async def test_one_row_is_one_row(start: Start) -> None:
    engine = FakeEngine()
    engine.session.result = Rows({"i": "INTEGER"}, (1,))
    async with start(engine) as app:
        await app.press("Q", "enter")
        assert "1 row in" in app.text


async def test_an_error_goes_with_the_next_statement(start: Start) -> None:
    async with start() as app:
        await app.press("colon")
        await app.type("sql from nonsense")
        await app.press("enter")
        app.pane.query_one(SqlEditor).put("from tokens;")
        await app.press("enter")
        assert app.status == ""


async def test_columns_widen_for_later_rows(start: Start) -> None:
    engine = FakeEngine()
    rows = [("mlp", 1.5)] * 400 + [("residual", -0.0123456)]
    engine.session.result = Rows({"site": "VARCHAR", "value": "FLOAT"}, *rows)
    async with start(engine) as app:
        await app.press("Q", "enter", "escape", "G")
        assert "residual" in app.text
        assert "-0.0123456" in app.text


async def test_help_has_a_key_where_text_is_typed(start: Start) -> None:
    async with start() as app:
        assert "? Help" in app.lines[-1]
        await app.press("Q")
        assert "F1 Help" in app.lines[-1]


async def test_after_goto_the_result_has_the_keys(start: Start) -> None:
    async with start() as app:
        await app.press("colon")
        await app.type("sql from tokens")
        await app.press("enter", "j", "j")
        assert app.pane.query_one(SqlEditor).text == "from tokens"
        assert "row 3" in app.text
        await app.press("i")
        assert app.pane.query_one(SqlEditor).has_focus


async def test_what_is_refused_has_the_cursor_where_it_is_wrong(start: Start, engine: Engine) -> None:
    async with start(engine, "planted") as app:
        await app.press("colon")
        await app.type("sql SELECT max, dormanc FROM neurons")
        await app.press("enter")
        editor = app.pane.query_one(SqlEditor)
        assert editor.has_focus and editor.cursor_location == (0, len("SELECT max, "))
        assert "line 1, column 13" in app.text and "dormanc" in app.status
        editor.put("\n\nSELECT '漢字' AS x,\n  foo FROM neurons;")
        await app.press("ctrl+r")
        assert editor.cursor_location == (3, 2)
        assert editor.text.endswith("  foo FROM neurons;")


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT foo FROM neurons",
        "SELECT max,\n  foo\nFROM neurons",
        "SELECT '漢字漢字' AS a, 'e\u0301' AS b, foo FROM neurons",
        f"SELECT {', '.join(['max'] * 80)}, foo, {', '.join(['min'] * 80)} FROM neurons",
        "SELECT max FROM neurons ORDER foo",
        "FROM foo",
        "SELECT count(*) FROM neurons HAVING foo > 1;  -- foo",
    ],
)
def test_the_place_is_that_of_the_wrong_word(store: Path, statement: str) -> None:
    with Console(store / "planted.duckdb") as console, pytest.raises(QueryError) as caught:
        console.run(statement)
    at = caught.value.place
    assert at is not None and statement[at:].startswith("foo")


def test_an_error_that_points_nowhere_has_no_place() -> None:
    assert place_of("SELECT 1", "Some Error: without a line") is None
    assert place_of("SELECT 1", "Error\n\nLINE 3: SELECT 2\n               ^") is None
    assert place_of("SELECT 1", "Error\n\nLINE 1: SELECT 2\n               ^") is None


async def test_the_whole_of_a_value(start: Start) -> None:
    engine = FakeEngine()
    long = "first line\nsecond\x1b[31m " + "word " * 60 + "the end"
    engine.session.result = Rows({"text": "VARCHAR", "x": "FLOAT"}, (long, 0.1), ("other", None))
    async with start(engine) as app:
        await app.press("Q", "enter", "escape", "enter")
        assert app.crumbs.endswith("sql > row 1")
        lines = [line.strip() for line in app.lines]
        assert "first line" in lines and any(line.startswith("second␛[31m word") for line in lines)
        assert "the end" in app.text
        await app.press("y")
        assert app.app.clipboard == long
        await app.press("j")
        assert "0.1" in app.text and "the end" not in app.text
        await app.press("J")
        assert app.crumbs.endswith("row 2") and "NULL" in app.text
        await app.press("J")
        assert app.status == "this is the last row"
        await app.press("K", "k", "escape", "v")
        assert app.crumbs.endswith("sql > row 1") and "the end" in app.text


async def test_a_value_of_any_length_is_copied_whole(start: Start) -> None:
    engine = FakeEngine()
    engine.session.result = Rows({"text": "VARCHAR"}, ("x" * 30_000,))
    async with start(engine) as app:
        await app.press("Q", "enter", "escape", "enter", "y", "tab", "G")
        assert len(app.app.clipboard) == 30_000
        assert "30,000 characters in all" in app.text


async def test_columns_are_as_wide_as_their_cells(start: Start) -> None:
    engine = FakeEngine()
    words = ["漢字漢字", "🙂🙂", "e\u0301" * 4, "abcdefgh", "حنین"]
    engine.session.result = Rows({"word": "VARCHAR", "n": "INTEGER"}, *((word, 7) for word in words))
    async with start(engine) as app:
        await app.press("Q", "enter", "escape")
        rows = [line for line in app.lines if any(word in line for word in words)]
        assert len(rows) == len(words)
        assert len({cell_len(line[: line.rindex("7")]) for line in rows}) == 1, rows


async def test_tables_and_columns_to_choose_from(start: Start, engine: Engine) -> None:
    async with start(engine, "planted") as app:
        await app.press("Q")
        await app.type("SELECT ")
        await app.press("ctrl+o")
        assert app.crumbs.endswith("sql > tables")
        for piece in ("neurons", "activations", "view"):
            assert piece in app.text
        row = next(line for line in app.lines if " neurons " in line and "table" in line)
        assert " 240│" in row
        values = next(line for line in app.lines if " activations " in line)
        assert f" {30 * 40 * 240 / 1000:.0f}k│" in values
        while app.pane.tables.current != "neurons":
            await app.press("j")
        assert "firing_rate" in app.text and "DOUBLE" in app.text
        await app.press("tab", "j", "enter")
        assert app.crumbs.endswith("sql")
        editor = app.pane.query_one(SqlEditor)
        assert editor.text == "SELECT layer" and editor.has_focus
        await app.type(", ")
        assert editor.text == "SELECT layer, "


async def test_a_table_shows_its_first_rows(start: Start, engine: Engine) -> None:
    async with start(engine, "planted", size=SMALL) as app:
        await app.press("Q", "ctrl+o", "j", "enter")
        assert app.crumbs.endswith("tables > sql")
        assert app.pane.query_one(SqlEditor).text == "FROM layers LIMIT 1000;"
        assert "6 rows in" in app.text and app.pane.query_one(PagedTable).has_focus
        await app.press("escape", "escape")
        assert "GROUP BY ALL" in app.pane.query_one(SqlEditor).text, "what was there stays"
