"""Frequency and describe sheets: counts and figures against numpy and SQL, and the way back to the rows."""

from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
from app_driver import Start

from nfinspect.tui.cells import Cell
from nfinspect.tui.engine import Engine
from nfinspect.tui.glyphs import UNICODE
from nfinspect.tui.listing import Filtered
from nfinspect.tui.sheets import BINS, MOST, described, drawn, frequencies
from nfinspect.tui.widgets.paged_table import Column


@dataclass
class Row:
    x: float | None
    word: str = "a"


def test_bins_hold_every_number_once_and_their_conditions_say_so() -> None:
    rng = np.random.default_rng(0)
    rows = [Row(float(x)) for x in rng.normal(size=500)] + [Row(None), Row(float("nan"))]
    shares = frequencies(rows, "x", getattr)
    assert len(shares) == BINS + 1
    assert sum(s.count for s in shares) == 502
    assert (shares[-1].label, shares[-1].count, shares[-1].condition) == ("undefined", 2, "")
    reads = Filtered({"x": "x"}, getattr, lambda row: "", rows[0], lambda name: set())
    for share in shares[:-1]:
        test = reads.test(share.condition)
        passing = [r for r in rows if r.x is not None and not np.isnan(r.x) and test(r)]
        assert len(passing) == share.count


def test_few_numbers_and_words_are_listed() -> None:
    rows = [Row(2.0, "b"), Row(0.5, "a"), Row(2.0, "b"), Row(-1.0, "b")]
    assert [(s.label, s.count, s.condition) for s in frequencies(rows, "x", getattr)] == [
        ("-1", 1, "x=-1"), ("0.5", 1, "x=0.5"), ("2", 2, "x=2"),
    ]  # fmt: skip
    assert [(s.label, s.count, s.share) for s in frequencies(rows, "word", getattr)] == [("b", 3, 0.75), ("a", 1, 0.25)]
    many = [Row(0, f"w{i}") for i in range(MOST + 7)]
    last = frequencies(many, "word", getattr)[-1]
    assert (last.label, last.count, last.condition) == ("7 others", 7, "")
    assert frequencies([], "x", getattr) == ()


def test_figures_are_numpys() -> None:
    rng = np.random.default_rng(1)
    values = rng.exponential(size=101)
    found = described([Row(float(x)) for x in values] + [Row(None)], "x", "the x", getattr)
    assert (found.column, found.rows, found.undefined, found.different) == ("the x", 102, 1, 101)
    assert found.mean == values.mean()
    assert found.std == values.std()
    assert found.quantiles == tuple(np.quantile(values, (0, 0.25, 0.5, 0.75, 1)))
    assert described([Row(0.1)] * 7, "x", "x", getattr).std == 0
    words = described([Row(1, "b"), Row(1, "b"), Row(1, "a")], "word", "word", getattr)
    assert (words.commonest, words.times, words.mean) == ("b", 2, None)


async def test_a_list_of_neurons_is_counted_and_narrowed(start: Start, store: Path) -> None:
    with duckdb.connect(str(store / "planted.duckdb"), read_only=True) as connection:
        query = "SELECT class, count(*) FROM neurons WHERE site = 'mlp' GROUP BY 1"
        counts = dict(connection.execute(query).fetchall())
    engine = Engine(store)
    async with start(engine, "planted", size=(120, 40)) as app:
        await app.press("n", "F")
        await app.type("class")
        await app.press("enter")
        assert app.crumbs.endswith("class of neurons")
        assert {row.label: row.count for row in app.pane._rows} == counts
        await app.press("G", "enter")
        assert app.crumbs.endswith("planted > neurons")
        rarest = min(counts, key=lambda c: (counts[c], c == "dead"))
        assert f"{counts[rarest]} neurons" in app.text
        await app.press("D")
        assert app.crumbs.endswith("columns of neurons")
        await app.press("j", "enter")
        assert app.crumbs.endswith("class of neurons")
        await app.press("escape", "escape", "escape", "F")  # layers: as they are drawn, where there is no list to ask
        await app.type("neurons")
        await app.press("enter")
        assert app.crumbs.endswith("neurons of planted")
        assert [(row.label, row.count) for row in app.pane._rows] == [("64", 3)]
    engine.close()


def test_a_table_as_it_is_drawn_has_its_numbers() -> None:
    drawings = ["1,304", "·", "–", "12.3k", "81.5%", "1.5e-21", "normal"]
    columns = [Column("x", 5, lambda row, width: Cell(row)), Column("", 9, lambda row, width: Cell("bar"))]
    sheet = drawn("a table", columns, drawings, UNICODE)
    assert sheet is not None and [title for _, title in sheet.columns] == ["x"]
    assert [sheet.value(row, "x") for row in sheet.rows()] == [1304, 0, None, 12300, 81.5, 1.5e-21, "normal"]
    assert drawn("nothing", columns[1:], drawings, UNICODE) is None


async def test_a_trace_and_a_result_have_sheets(start: Start, store: Path) -> None:
    engine = Engine(store)
    async with start(engine, "planted") as app:
        await app.type(":trace tulip")
        await app.press("enter", "F", "enter")
        assert app.crumbs.endswith(" of trace tulip")
        assert sum(row.count for row in app.pane._rows) == 10
        await app.press("escape")
        await app.type(":sql SELECT layer, class FROM neurons WHERE site = 'mlp'")
        await app.press("enter", "F", "enter")
        assert [(row.label, row.count) for row in app.pane._rows] == [("0", 64), ("1", 64), ("2", 64)]
        await app.press("enter")
        assert "the table has no filter for them" in app.status
    engine.close()


async def test_a_filter_stays_and_the_way_back_leads_past_the_description(start: Start, store: Path) -> None:
    engine = Engine(store)
    async with start(engine, "planted") as app:
        await app.type(":trace tulip")
        await app.press("enter", "slash")
        await app.type("occurrences>0")
        await app.press("enter")
        listed = len(app.pane.rows.current)
        await app.press("D", "enter")
        assert sum(row.count for row in app.pane._rows) == listed
        chosen = app.pane._rows[0]
        await app.press("enter")
        assert app.crumbs.endswith("trace tulip")
        assert app.pane.rows.filter == f"occurrences>0 and {chosen.condition}"
        assert len(app.pane.rows.current) == chosen.count
    engine.close()


async def test_numbers_are_for_people_and_a_value_narrows_every_part_of_an_or(start: Start, store: Path) -> None:
    engine = Engine(store)
    async with start(engine, "planted", size=(120, 40)) as app:
        await app.press("n", "slash")
        await app.type("L1 and max>0 or N3")
        await app.press("enter", "D")
        rows = [line[2:].split() for line in app.lines if line.rstrip().endswith(")")]
        told = {row[0]: row[-2] for row in rows}
        assert told["tokens"] == "1,200" and max(map(len, told.values())) < 12, told
        assert told["layer"] == "1" and "neuron" not in told
        await app.press("escape", "F")
        await app.type("class")
        await app.press("enter")
        chosen = app.pane._rows[-1]
        await app.press("G", "enter")
        assert app.pane._query.filter == f"L1 and max>0 and {chosen.condition} or N3 and {chosen.condition}"
        assert app.pane.table.total == chosen.count
        assert app.status == ""
    engine.close()


def test_lists_are_counted_by_what_they_hold() -> None:
    rows = [([1, 2],), ([1, 2],), ([3],)]
    assert [(s.label, s.count) for s in frequencies(rows, "0", lambda row, key: row[0])] == [("[1, 2]", 2), ("[3]", 1)]
    assert described(rows, "0", "x", lambda row, key: row[0]).different == 2


async def test_a_list_of_one_is_one_neuron(start: Start, store: Path) -> None:
    engine = Engine(store)
    async with start(engine, "planted") as app:
        await app.press("n", "slash")
        await app.type("L1/N3")
        await app.press("enter")
        assert "1 neuron by max" in app.text
    engine.close()
