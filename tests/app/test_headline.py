"""Lines above a table: what is cut has a sign and can be read; and keys that can do nothing, which say why."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from analysed_run import keep_analyses, write_study
from app_driver import SMALL, Driven, Start
from fake_engine import FakeEngine
from test_making_analyses import go

from nfinspect.tui.engine import Engine
from nfinspect.tui.widgets.headline import READS_ON, Headline

LONG = " ".join(f"word{i}" for i in range(100))


@pytest.fixture(scope="module")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    store = tmp_path_factory.mktemp("headline")
    keep_analyses(write_study(store))
    (store / "other.duckdb").write_bytes((store / "study.duckdb").read_bytes())
    return store


@pytest.fixture
def engine(analysed: Path) -> Iterator[Engine]:
    made = Engine(analysed)
    yield made
    made.close()


def cut(app: Driven) -> list[Headline]:
    return [block for block in app.pane.query(Headline) if block.is_cut]


@pytest.mark.parametrize(
    "place", ["ngrams", "trace tulip", "overlap", "layers", "compare study,other", "diff study other"]
)
async def test_what_is_cut_says_so_and_is_read_with_tab(
    start: Start, engine: Engine, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    put = Headline.put
    monkeypatch.setattr(Headline, "put", lambda block, text: put(block, text.append(f" {LONG}")))
    async with start(engine, run="study", size=SMALL) as app:
        await go(app, place)
        blocks = cut(app)
        assert blocks and app.text.count(READS_ON) == len(blocks)
        assert not app.app.focused or not isinstance(app.app.focused, Headline), "the table has the keys"
        before = app.app.focused
        blocks[0].focus()
        await app.settle()
        assert "word99" in app.text and app.app.focused is blocks[0]
        await app.press(*["escape"] * len(blocks))
        assert app.app.focused is before and app.text.count(READS_ON) == len(blocks)


async def test_what_is_whole_takes_no_focus_and_has_no_sign(start: Start, engine: Engine) -> None:
    async with start(engine, run="study", size=(200, 50)) as app:
        await go(app, "ngrams")
        assert not cut(app) and READS_ON not in app.text
        await app.press("tab", "tab")
        assert not isinstance(app.app.focused, Headline)


@pytest.mark.parametrize(
    ("place", "key", "said"),
    [
        ("ngrams", "x", "nothing is being computed here; :lab leads to the lab"),
        ("walk", "x", "nothing is being computed here; :lab leads to the lab"),
        ("walk", "w", "this is the token walk"),
        ("lab", "x", "nothing is being written here"),
        ("lab", "K", "nothing has been written yet: r runs it"),
        ("lens", "space", "rows are layers here"),
        ("logits L0/N3", "S", "this is of one neuron"),
        ("logits L0/N3", "s", "there are no rows to filter or sort"),
        ("layers", "v", "v is no key of this place; ? shows them"),
        ("layers", "/", "/ is no key of this place; ? shows them"),
    ],
)
async def test_no_key_is_silent(start: Start, place: str, key: str, said: str) -> None:
    async with start(FakeEngine()) as app:
        await go(app, place)
        await app.press(key)
        assert said in app.status
        await app.press("j")
        assert not app.status


async def test_what_is_typed_into_a_line_is_no_key(start: Start) -> None:
    async with start(FakeEngine()) as app:
        await app.press("colon", "v", "x", "Z")
        assert not app.status
