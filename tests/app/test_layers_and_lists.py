"""Layers and lists of neurons: scores explained, lists paged, filtered, sorted and marked."""

import json
from pathlib import Path

from app_driver import SMALL, Start
from fake_engine import FakeEngine, FakeSession

from nfinspect.analysis.filters import check_column, parse_filter
from nfinspect.tui.columns.neurons import neuron_columns
from nfinspect.tui.glyphs import UNICODE
from nfinspect.tui.requests import NeuronQuery
from nfinspect.tui.widgets.paged_table import KEPT_PAGES, PagedTable


async def test_layers_show_score_pattern_and_counts(start: Start, size: tuple[int, int]) -> None:
    async with start(size=size) as app:
        assert app.crumbs == "nfinspect > demo"
        line = next(line for line in app.lines if line.lstrip("▌ ").startswith("L2 "))
        for fact in ("0.380", "dead", "30.0%", " 60 ", " 100 "):
            assert fact in line
        assert "Health 0.756 good = layers 0.787 - 0.025 problematic - 0.006 fall" in app.text


async def test_the_strip_is_read_without_colour(start: Start) -> None:
    async with start() as app:
        strip = app.pane.query_one("#strip").content.plain.split("\n")
        assert strip[0].split() == ["██", "▇▇", "▃▃", "▇▇"]
        assert strip[1].split() == ["0", "1", "D", "D"]


async def test_the_score_of_the_layer_under_the_cursor_is_explained(start: Start, size: tuple[int, int]) -> None:
    async with start(size=size) as app:
        await app.press("j", "j")
        why = app.pane.query_one("#why").query_one("Static").content.plain
        assert "score 0.380 = 1 - 1x60.0% dead - 0.25x1.00% sporadic - 0.5x2.00% missing - 0.25x3.00% weak" in why
        assert "dead: 60 of 100 neurons (60.0 %)" in why
        assert "Warning: many problematic layers, 2 of 4" in why


async def test_the_site_is_switched(start: Start) -> None:
    engine = FakeEngine()
    async with start(engine) as app:
        await app.press("S")
        assert ("health", "resid") in engine.session.calls
        assert "resid of 2 sites" in app.lines[0]


async def test_enter_on_a_layer_lists_its_neurons(start: Start) -> None:
    engine = FakeEngine()
    async with start(engine) as app:
        await app.press("j", "j", "enter")
        assert app.crumbs == "nfinspect > demo > neurons of L2"
        assert ("neurons", NeuronQuery("mlp", layer=2), 0) in engine.session.calls


async def test_the_essential_columns_fit_in_80(start: Start) -> None:
    async with start(size=SMALL) as app:
        await app.press("n")
        header = app.lines[3]
        assert header.split()[:8] == ["neuron", "class", "fires", "▼max", "min", "mean", "std", "dormancy"]
        assert all(len(line) == 80 for line in app.lines)


async def test_a_long_list_is_paged(start: Start, size: tuple[int, int]) -> None:
    engine = FakeEngine()
    async with start(engine, size=size) as app:
        await app.press("n", "G")
        assert "L0/N119999" in app.text
        assert "row 120,000" in app.text
        asked = [call[2] for call in engine.session.calls if call[0] == "neurons"]
        assert len(asked) <= 6, "the end is reached without reading what lies between"
        await app.press("g")
        assert "L0/N0 " in app.text
        table = app.pane.query_one(PagedTable)
        for page in range(0, 4000, 200):
            table.move_to(page)
            await app.pilot.pause()
        await app.settle()
        assert len(table._pages) <= KEPT_PAGES
        assert "L0/N3800 " in app.text


async def test_classes_by_key(start: Start) -> None:
    async with start() as app:
        await app.press("n", "1")
        assert app.crumbs.endswith("dead neurons")
        assert "12 neurons by max" in app.text
        await app.press("c")
        assert app.crumbs.endswith("saturated neurons")
        await app.press("0")
        assert "120,000 neurons" in app.text
        assert "1 dead 77" in app.text, "each tab has its count"


async def test_a_bad_filter_is_a_line_and_leaves_the_list(start: Start) -> None:
    engine = FakeEngine()
    async with start(engine) as app:
        await app.press("n", "slash")
        await app.type("foo>1")
        await app.press("enter")
        assert app.status == "no column 'foo': choose max, min, mean"
        assert "120,000 neurons" in app.text
        await app.press("slash")
        line = app.app.focused
        assert line.value == "foo>1", "to be mended"
        await app.type("max>4")
        await app.press("enter")
        assert "12 neurons by max ▼  where max>4" in app.text
        assert ("neurons", NeuronQuery("mlp", filter="max>4"), 0) in engine.session.calls


async def test_sorting(start: Start) -> None:
    async with start() as app:
        await app.press("n", "full_stop")
        assert app.pane._query.sort == "min"
        await app.press("comma", "comma")
        assert app.pane._query.sort == "firing_rate"
        await app.press("I")
        assert not app.pane._query.descending
        await app.press("s")
        await app.type("ku")
        await app.press("enter")
        assert app.pane._query == NeuronQuery("mlp", sort="excess_kurtosis", descending=True)


async def test_marked_neurons_against_the_traces(start: Start) -> None:
    engine = FakeEngine()
    async with start(engine) as app:
        await app.press("n", "O")
        assert app.status == "mark neurons with Space first"
        await app.press("space", "space")
        assert "2 marked" in app.text
        assert "▌●" in app.text or " ●" in app.text
        await app.press("escape", "t", "space", "O")
        assert app.crumbs.endswith("3 marked")
        assert "of 3 marked neurons in the top 10: tulip 1, vietnam 1, hanoi 1" in app.text
        assert "#1" in next(line for line in app.lines if "L3/N100" in line)


async def test_export_of_a_list(start: Start, tmp_path: Path) -> None:
    async with start() as app:
        await app.press("n", "1", "e")
        await app.type("dead.json")
        await app.press("enter")
        assert app.status == "wrote dead.json"
        rows = json.loads((tmp_path / "dead.json").read_text())
        assert len(rows) == 12
        assert rows[0]["class"] == "dead"


async def test_an_export_that_cannot_be_written_is_a_line(start: Start) -> None:
    async with start() as app:
        await app.press("n", "1", "e")
        await app.type("/no/such/dir/x.csv")
        await app.press("enter")
        assert "cannot write /no/such/dir/x.csv" in app.status


async def test_a_bug_below_is_a_line_and_the_app_lives(start: Start) -> None:
    class Broken(FakeSession):
        def health(self, site: str, options=None):  # type: ignore[no-untyped-def]
            raise ZeroDivisionError("division by\nzero")

    async with start(FakeEngine(session=Broken())) as app:
        assert app.status == "unexpected ZeroDivisionError: division by zero"
        await app.press("n")
        assert app.crumbs.endswith("neurons")


def test_every_column_is_filtered_by_the_title_it_has() -> None:
    for column in neuron_columns(UNICODE):
        if column.key != "layer":  # shown under `neuron`, which a filter compares with a number
            assert check_column(column.title) == column.key
            assert parse_filter(f"{column.title} = dead" if column.key == "class" else f"{column.title} >= 1").values
