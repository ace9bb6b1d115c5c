"""Small terminals: whatever a pane shows beside its table gives way before the table's rows do."""

from pathlib import Path

import pytest
from analysed_run import keep_analyses, write_study
from app_driver import Driven, Start
from fake_engine import FakeEngine
from sampled import sampled
from test_lens_pane import keep as keep_lens
from test_making_analyses import go

from nfinspect.tui.engine import Engine
from nfinspect.tui.widgets.paged_table import PagedTable

PLACES = (
    "layers", "neurons", "L0/N3", "trace tulip", "analyses", "ngrams", "positions", "delta", "attention",
    "ablate", "kinds", "lens", "compare study,other",
)  # fmt: skip


@pytest.fixture(scope="module")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    store = tmp_path_factory.mktemp("small")
    keep_analyses(write_study(store))
    keep_lens(store, "The red tulip")
    (store / "other.duckdb").write_bytes((store / "study.duckdb").read_bytes())
    return store


@pytest.mark.parametrize("size", sampled([(60, 15), (60, 18), (80, 20)], every=3))
async def test_rows_are_always_in_sight(start: Start, analysed: Path, size: tuple[int, int]) -> None:
    engine = Engine(analysed)
    try:
        async with start(engine, "study", size=size) as app:
            for place in PLACES:
                await go(app, place)
                assert rows_in_sight(app) >= 3, f"{place}\n{app.text}"
    finally:
        engine.close()


@pytest.mark.parametrize("size", [(60, 15), (60, 18), (80, 20)], ids=["60x15", "60x18", "80x20"])
async def test_the_pairs_of_an_overlap_are(start: Start, size: tuple[int, int]) -> None:
    async with start(FakeEngine(), size=size) as app:
        await app.press("o")
        assert rows_in_sight(app) >= 3, app.text


def rows_in_sight(app: Driven) -> int:
    """Lines of the focused table below its header, which has rows."""
    table = app.app.focused
    assert isinstance(table, PagedTable) and table.total
    return table.region.intersection(app.app.screen.region).height - table.gutter.height - 1


async def test_a_larger_terminal_shows_it_again(start: Start, analysed: Path) -> None:
    engine = Engine(analysed)
    try:
        async with start(engine, "study", size=(60, 15)) as app:
            assert "Network" not in app.text, "the explanation has given way"
            await app.pilot.resize_terminal(80, 24)
            await app.settle()
            assert "= 1" in app.text and "values: mean" in app.text
            await app.pilot.resize_terminal(140, 15)
            await app.settle()
            assert "values: mean" in app.text, "beside the table it takes no row away"
    finally:
        engine.close()
