"""Several runs beside each other: what is compared, how it is drawn, and where its keys lead."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from analysed_run import MODEL, WORDS, keep_attention
from app_driver import Driven, Start
from fake_engine import FakeEngine
from numpy.typing import NDArray
from test_making_analyses import ended, go

from nfinspect.analyses import spec
from nfinspect.capturing.arrays import ArrayPrompt, array_info, write_run
from nfinspect.results import find_or_compute
from nfinspect.tui.comparing import TOPICS, of_run
from nfinspect.tui.engine import Engine
from nfinspect.tui.widgets.plots import overlay
from nfinspect_store.reader import RunFile
from nfinspect_store.results import list_results, run_results
from nfinspect_store.types import Layer

NEURONS, TOKENS, PROMPTS = 4, 32, 100


def write(store: Path, name: str, layers: int) -> Path:
    """Layer i has i dead neurons; its neuron 3 fires on ` one` alone."""
    store.mkdir(exist_ok=True)
    chosen = [Layer(i, "mlp", i, f"h.{i}.mlp", NEURONS, "relu", "positive") for i in range(layers)]
    ids = np.random.default_rng(5).integers(0, len(WORDS), (PROMPTS, TOKENS))

    def values(prompt: int, layer: Layer) -> NDArray[np.float32]:
        found = np.random.default_rng([prompt, layer.layer]).random((TOKENS, NEURONS)).astype(np.float32)
        found[:, : layer.layer] = 0
        found[:, 3] = ids[prompt] == 0
        return found

    prompts = [
        ArrayPrompt("tulip", f"prompt {i}", row, [WORDS[j] for j in row], TOKENS) for i, row in enumerate(ids.tolist())
    ]
    path = store / f"{name}.duckdb"
    info = replace(array_info(name, 0), model=MODEL)
    write_run(path, layers=chosen, prompts=prompts, values=values, info=info)
    return path


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 2 layers with n-grams and positions kept, and one of 3 layers with nothing. Not to be changed."""
    store = tmp_path_factory.mktemp("two")
    with RunFile.open(write(store, "shallow", 2)) as run:
        find_or_compute(spec("ngrams"), run)
        find_or_compute(spec("positions"), run)
    write(store, "deep", 3)
    return store


@pytest.fixture
def engine(two: Path) -> Iterator[Engine]:
    engine = Engine(two)
    yield engine
    engine.close()


def rows(app: Driven) -> list[list[str]]:
    box = app.pane.table.content_region
    return [line[2:].split() for line in app.lines[box.y + 1 : box.y + box.height][: app.pane.table.total]]


def words(app: Driven) -> str:
    return " ".join(app.text.split())


async def test_marked_runs_by_depth(start: Start, engine: Engine, size: tuple[int, int]) -> None:
    async with start(engine, None, size=size) as app:
        await app.press("O")
        assert "expected 2 to 8 runs to compare, found 0" in app.status
        await app.press("space")
        assert app.status == "1 marked; Space marks another to compare it with"
        await app.press("space", "O")
        assert app.crumbs == "nfinspect > compare 2 runs"
        # the newest run is first in the list: A has 3 layers
        assert "A deep mlp: 3 dead of 12 neurons" in words(app) and "B shallow mlp: 1 dead of 8 neurons" in words(app)
        expected = [(0, "A", 0), (0, "B", 0), (0.5, "A", 25), (1, "A", 50), (1, "B", 25)]
        assert [(float(row[0]), row[1], float(row[5].rstrip("%"))) for row in rows(app)] == expected
        assert "dead neurons, % of each layer" in app.text and "50.0┤" in app.text
        assert "first" in app.text and "last" in app.text
        await app.press("c")
        assert "health score of each layer" in app.text


async def test_no_topic_is_parted_from_its_digit(start: Start, engine: Engine) -> None:
    async with start(engine, None, size=(200, 24)) as app:
        await go(app, "compare shallow, deep")
        for width in (50, 80, 81, 119):
            await app.pilot.resize_terminal(width, 24)
            await app.settle()
            for i, topic in enumerate(TOPICS):
                name = f"[{topic.name}]" if i == 0 else topic.name
                assert any(f"{i + 1} {name} " in line for line in app.lines), (width, topic.name, app.text)


async def test_enter_goes_to_the_layer_of_that_run(start: Start, engine: Engine) -> None:
    async with start(engine, None) as app:
        await go(app, "compare shallow, deep")
        await app.press("G")
        assert rows(app)[-1][:4] == ["1.00", "B", "deep", "L2"]
        await app.press("enter")
        assert app.crumbs == "nfinspect > compare 2 runs > neurons of L2"
        assert "deep · mlp" in app.lines[0] and "4 neurons" in app.text
        await app.press("escape", "k", "enter")
        assert "shallow · mlp" in app.lines[0] and app.crumbs.endswith("neurons of L1")


async def test_a_place_is_of_the_run_under_the_cursor(start: Start, engine: Engine) -> None:
    async with start(engine, None) as app:
        await go(app, "compare shallow,deep")
        await app.press("G")
        await go(app, "dead")
        assert app.crumbs == "nfinspect > deep > dead neurons"


async def test_order_filter_copy_and_export(start: Start, engine: Engine, tmp_path: Path) -> None:
    async with start(engine, None) as app:
        await go(app, "compare shallow,deep")
        await app.press("s")
        await app.type("dead")
        await app.press("enter")
        assert [row[5] for row in rows(app)] == ["50.0%", "25.0%", "25.0%", "0.00%", "0.00%"]
        await app.press("slash")
        await app.type("run=deep and dead>0")
        await app.press("enter")
        assert [row[3] for row in rows(app)] == ["L2", "L1"] and "2 of 5 where" in words(app)
        await app.press("y")
        assert "sent" in app.status
        await app.press("e", "enter")
        assert app.status == "wrote compare-health.json: every row, those too that the filter leaves out"
        found = json.loads((tmp_path / "compare-health.json").read_text())
        assert [(run["run"], [x["dead"] for x in run["layers"]]) for run in found["runs"]] == [
            ("shallow", [0, 25]),
            ("deep", [0, 25, 50]),
        ]


@pytest.mark.slow
async def test_what_a_run_lacks_is_said_and_made(start: Start, tmp_path: Path) -> None:
    store = tmp_path / "store"
    for name in ("shallow", "deep"):
        write(store, name, 2 + (name == "deep"))
    engine = Engine(store)
    try:
        async with start(engine, None) as app:
            await go(app, "compare shallow,deep")
            await app.press("2")
            assert "shallow: no tokens kept; deep: no tokens kept r computes it" in words(app)
            await app.press("r")
            await app.press("r")
            assert "being computed already" in app.status
            for _ in range(2):  # one run after the other
                await ended(app)
            kinds = {n: [r.kind for r in list_results(run_results(store / f"{n}.duckdb"))] for n in ("shallow", "deep")}
            assert kinds == {"shallow": ["ngrams"], "deep": ["ngrams"]}
            assert "A shallow mlp: 2 detectors of 8 neurons" in words(app)
            assert "B deep mlp: 3 detectors of 12 neurons" in words(app)
            assert [row[5:8] for row in rows(app)] == [["25.0%", "1", "1"]] * 5, (
                "each layer: % of it, detectors, covered"
            )
            await app.press("7")
            assert "shallow: no attention kept; deep: no attention kept" in words(app)
            assert "r computes it" not in words(app), "attention needs prompts and the model: its own pane computes it"
            keep_attention(store, NEURONS)  # of two layers: it is not that of all of deep's
            await app.press("6", "7")
            assert "A shallow mlp: 2 heads" in words(app) and "deep: no attention kept" in words(app)
            assert [row[5] for row in rows(app)] == ["25.0%", "50.0%"]
    finally:
        engine.close()


@pytest.mark.slow
async def test_its_line_is_said_where_every_run_has_the_analysis(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from nfinspect.cli import main

    for name, layers in (("shallow", 2), ("deep", 3)):
        with RunFile.open(write(tmp_path / "store", name, layers)) as run:
            find_or_compute(spec("ngrams"), run)
            find_or_compute(spec("ngrams"), run, n=2)
    engine = Engine(tmp_path / "store")
    async with start(engine, None, size=(120, 40)) as app:
        await go(app, "compare shallow,deep")
        assert "$ nfinspect health --runs shallow,deep " in app.text
        of_health = len(rows(app))
        await app.press("2")
        assert "$ nfinspect ngrams --runs shallow,deep" in app.text
        await app.press("3")
        line = "ngrams --runs shallow,deep --n 2"
        assert f"$ nfinspect {line} " in app.text + " "
        drawn = len(rows(app))
        await app.press("6")
        assert "$ nfinspect" not in app.text, "delta is kept of neither"
    assert main([*line.split(), "--json", "--store", str(tmp_path / "store")]) == 0
    document = json.loads(capsys.readouterr().out)
    assert sum(len(run["layers"]) for run in document["runs"]) == drawn
    assert main(["health", "--runs", "shallow,deep", "--json", "--store", str(tmp_path / "store")]) == 0
    document = json.loads(capsys.readouterr().out)
    assert sum(len(run["layer_analyses"]) for run in document["runs"]) == of_health == 5
    engine.close()


async def test_leaving_does_not_stop_the_next_run(start: Start, tmp_path: Path) -> None:
    store = tmp_path / "store"
    write(store, "one", 1)
    write(store, "two", 1)
    engine = Engine(store)
    try:
        async with start(engine, None) as app:
            await go(app, "compare one,two")
            await app.press("6", "r", "escape")
            assert app.crumbs == "nfinspect"
            for _ in range(2):
                await ended(app)
            assert all(
                [r.kind for r in list_results(run_results(store / f"{n}.duckdb"))] == ["delta"] for n in ("one", "two")
            )
    finally:
        engine.close()


async def test_a_damaged_run_costs_the_others_nothing(start: Start, tmp_path: Path) -> None:
    store = tmp_path / "store"
    write(store, "good", 2)
    write(store, "other", 1)
    (store / "broken.duckdb").write_bytes(b"nothing")
    engine = Engine(store)
    try:
        async with start(engine, None) as app:
            await go(app, "compare good,broken,missing,other")
            assert [row[1:4] for row in rows(app)] == [["A", "good", "L0"], ["D", "other", "L0"], ["A", "good", "L1"]]
            assert "broken: cannot be opened; missing: cannot be opened" in words(app)
            assert app.status.startswith("broken cannot be opened: ") and "is not a run file" in app.status
    finally:
        engine.close()


async def test_a_deleted_run_is_missed_not_shown(start: Start, tmp_path: Path) -> None:
    store = tmp_path / "store"
    for name in ("one", "two", "three"):
        write(store, name, 1)
    engine = Engine(store)
    try:
        async with start(engine, None) as app:
            await go(app, "compare one,two,three")
            assert len(rows(app)) == 3
            await app.press("escape", "slash")
            await app.type("two")
            await app.press("enter", "d", "y", "]")
            await go(app, "compare one,two,three")
            assert [row[2] for row in rows(app)] == ["one", "three"] and app.status.startswith(
                "two cannot be opened: no run 'two'"
            )
    finally:
        engine.close()


async def test_a_training_is_not_compared(start: Start) -> None:
    engine = FakeEngine()
    engine.entries = (replace(engine.entries[0], kind="history"),)
    async with start(engine, None) as app:
        await app.press("space")
        assert "no layers to compare" in app.status


def drawing(*arguments: Any) -> str:
    return "\n".join(line.text for line in overlay(*arguments))


def test_curves_on_each_other_are_all_seen() -> None:
    line = ((0.0, 1.0), (1.0, 1.0))
    drawn = drawing((("A", line), ("B", line), ("C", ((0.0, 0.0), (0.5, 1.0)))), None, 70, 12, True)
    top = next(row for row in drawn.split("\n") if "a" in row)
    assert "ab" in top.replace(" ", "") and "X" not in drawn
    assert drawn.count("C") == 2 and "c" in drawn, "a capital at each layer"
    assert drawn.isascii()
    assert "X" in drawing((("A", line),), (0.0, 1.0), 70, 12, False)
    assert drawing((), None, 70, 12, False) == "no figures"


def test_curves_are_dots_in_colours_with_letters_on_the_way() -> None:
    line, rising = ((0.0, 1.0), (1.0, 1.0)), ((0.0, 0.0), (0.5, 0.5), (1.0, 1.0))
    drawn = overlay((("A", line), ("B", line), ("C", rising)), None, 70, 12, False)
    text = "\n".join(one.text for one in drawn)
    assert sum("\u2800" < character <= "\u28ff" for character in text) > 60
    assert "\x1b" not in text
    assert text.count("C") == 3 and all(letter in text for letter in "abc"), "read without colours, too"
    tones: dict[str, set[str]] = {}
    for one in drawn:
        for start, end, tone in one.spans:
            for character in one.text[start:end]:
                tones.setdefault(character, set()).add(tone)
    assert all(len(tones[sign] | tones[sign.lower()]) == 1 for sign in "BC")
    assert tones["B"] != tones["C"] and not {"│", "┤", "─"} & tones.keys()


@pytest.mark.parametrize(("would_pass", "drawn"), [(0, True), (2, False)])
def test_positional_neurons_that_may_be_chance_are_not_compared(would_pass: int, drawn: bool) -> None:
    """A run with too few sequences lists none, which is no share of 0 %."""
    layer = {"layer": 0, "neurons": 8, "would_pass": would_pass, "positional": 0, "strong": 0}
    result = SimpleNamespace(document={"site": "mlp", "layers": [layer]}, run_id="id")
    layers = [SimpleNamespace(site="mlp", layer=0)]
    session: Any = SimpleNamespace(
        name="a",
        sites=("mlp",),
        default_site="mlp",
        layers=layers,
        results=lambda kind: [result],
        info=SimpleNamespace(settings={}),
    )
    found = of_run(session, "o", next(topic for topic in TOPICS if topic.name == "positions"), None)
    assert bool(found.rows) == drawn and ("too few sequences" in found.lacks) != drawn and not found.can_be_made
