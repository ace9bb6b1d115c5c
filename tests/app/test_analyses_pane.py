"""The panes of the analyses on a run with planted neurons: what they show, and where their keys lead."""

import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from analysed_run import LAYERS, MODEL, NEURONS, keep_analyses, keep_attention, write_study
from app_driver import Driven, Start

from nfinspect.analyses import kind_overlap
from nfinspect.analysis import health, neuron
from nfinspect.analysis.delta_rows import DeltaRows
from nfinspect.capturing.arrays import ArrayPrompt, write_run
from nfinspect.tui.engine import Engine
from nfinspect.tui.listing import ordered
from nfinspect.tui.session import Session
from nfinspect_store.addresses import Address
from nfinspect_store.run_layout import RunLayout


@pytest.fixture(scope="module")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the run and every analysis of it. Not to be changed."""
    store = tmp_path_factory.mktemp("analysed")
    keep_analyses(write_study(store))
    return store


@asynccontextmanager
async def opened(start: Start, store: Path, place: str, **options: Any) -> AsyncIterator[Driven]:
    engine = Engine(store)
    try:
        async with start(engine, "study", **options) as app:
            await go(app, place)
            yield app
    finally:
        engine.close()


async def go(app: Driven, place: str) -> None:
    await app.press("colon")
    await app.type(place)
    await app.press("enter")


async def filtered(app: Driven, text: str) -> None:
    await app.press("slash")
    await app.type(text)
    await app.press("enter")


def names(app: Driven) -> list[str]:
    """The first column of the table, as far as it is on screen."""
    box = app.pane.table.content_region
    lines = app.lines[box.y + 1 : box.y + box.height][: app.pane.table.total]
    return [line[2:].split()[0] for line in lines]


def words(app: Driven) -> str:
    """What is on screen, without its line breaks."""
    return " ".join(app.text.split())


async def test_what_the_run_leaves_out_is_told_with_every_analysis_of_it(
    start: Start, analysed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the commands do: which tokens and values the run holds, and how far they are rounded."""
    monkeypatch.setattr(RunLayout, "value_notes", ("recorded are 3 of 9 tokens",))
    async with opened(start, analysed, "layers") as app:
        for place in ("ngrams", "positions", "delta"):
            await go(app, place)
            assert "(recorded are 3 of 9 tokens" in words(app), place


async def test_the_list_says_what_is_kept_and_how_to_make_it(
    start: Start, analysed: Path, size: tuple[int, int]
) -> None:
    async with opened(start, analysed, "layers", size=size) as app:
        await app.press("a")
        assert app.crumbs.endswith("study > analyses")
        for name in ("ngrams", "positions", "delta", "attention", "ablate", "kinds", "lens", "logits", "similar"):
            assert any(line.strip(" ▌▏").startswith(name) for line in app.lines)
        assert "UTC" in app.text and "+1" in app.lines[2], "n-grams for n = 1 and 2"
        assert "n=1 at mlp: 1 detector among 24 neurons" in app.text
        assert "nfinspect ngrams study" in app.text
        assert "…" not in "".join(app.lines[2:9]), "every answer fits"


async def test_ngrams(start: Start, analysed: Path, size: tuple[int, int]) -> None:
    async with opened(start, analysed, "ngrams", size=size) as app:
        assert "1 token detector among 24 neurons" in app.text
        assert "% of firing neurons by k" in app.text and "L1" in app.text
        assert names(app) == ["L0/N3"]
        assert "\x1b" not in app.text and "␛[31mred" in app.text, "a hostile token is shown, not carried out"
        await app.press("2")
        assert "2 bigram detectors" in app.text
        assert names(app) == ["L0/N3", "L1/N2"]
        assert '" one two"' in app.text
        await app.press("3")
        assert "No result is kept for this yet" in app.text
        assert "nfinspect ngrams study --n 3" in app.text
        await app.press("1", "c")
        assert "token detectors in each layer" in app.text
        await app.press("c")
        assert "tokens that each layer's detectors cover together" in app.text


async def test_enter_goes_to_the_neuron_and_back(start: Start, analysed: Path) -> None:
    async with opened(start, analysed, "ngrams") as app:
        await app.press("2", "enter")
        assert app.crumbs.endswith("ngrams > L0/N3")
        await app.press("J")
        assert app.crumbs.endswith("ngrams > L1/N2"), "J goes along the detectors"
        await app.press("escape")
        assert app.crumbs.endswith("study > ngrams") and names(app) == ["L0/N3", "L1/N2"]
        await app.press("space")
        assert app.status.startswith("1 marked")


async def test_order_and_filter(start: Start, analysed: Path) -> None:
    async with opened(start, analysed, "delta") as app:
        assert names(app) == ["L1/N9", "L1/N2"], "those that pass, by ratio"
        await app.press("d")
        assert names(app)[:3] == ["L1/N9", "L1/N2", "L0/N3"]
        await app.press("comma")
        assert names(app)[:2] == ["L1/N9", "L0/N3"], "by step"
        await app.press("I")
        assert app.pane.table.sorted_by == ("step_sensitivity", False)
        assert app.pane.table.total == 24
        await app.press("G")
        assert app.pane.table.current.neuron == 0, "undefined values last: the dead neuron"
        await app.press("s")
        await app.type("von")
        await app.press("enter")
        assert names(app)[0] == "L1/N9"
        await filtered(app, "ratio>1.9 and L0")
        assert names(app) == ["L0/N3"]
        assert "1 of 24 where ratio>1.9 and L0" in words(app)
        await filtered(app, "sens=yes")  # no other column begins so
        assert names(app) == ["L1/N9", "L1/N2"]
        await filtered(app, "sensitive<3")
        assert "compared with = and !=" in app.status
        await filtered(app, "colour=red")
        assert "no column 'colour': choose" in app.status
        assert names(app) == ["L1/N9", "L1/N2"], "a filter that cannot be read leaves the rows"
        await filtered(app, "ratio>9")
        assert "nothing passes the filter" in app.text


async def test_a_filter_finds_text(start: Start, analysed: Path) -> None:
    async with opened(start, analysed, "ngrams") as app:
        await app.press("2")
        await filtered(app, "one two")
        assert names(app) == ["L1/N2"]
        await filtered(app, "k<=5")
        assert names(app) == ["L1/N2"]


async def test_positions(start: Start, analysed: Path, size: tuple[int, int]) -> None:
    async with opened(start, analysed, "positions", size=size) as app:
        assert "1 positional neuron of 24 in 100 sequences of 32 tokens" in app.text
        assert "L0/N7: share of 100 sequences in which it fires, by position" in app.text
        assert names(app) == ["L0/N7"] and "0.6881" in app.text  # ln 2, less the bias of 1/200
        await app.press("c")
        assert "mutual information of firing and position" in app.text
        assert sum(line.count("X") for line in app.lines[4:10]) >= 1
        await app.press("c")
        assert "positional neurons in each layer" in app.text


async def test_attention(start: Start, analysed: Path, size: tuple[int, int]) -> None:
    async with opened(start, analysed, "attention", size=size) as app:
        assert "attention_weighted: mean over 6 prompts of six.txt, 90 tokens" in app.text
        assert names(app)[:2] == ["L1/N4", "L0/N0"]
        assert app.pane.table.total == 24, "every neuron, not the document's first"
        await app.press("c")
        assert "L1, mean of heads" in app.text, "the map of the layer under the cursor"
        await app.press("j")
        assert "L0, mean of heads" in app.text
        assert "\x1b" not in app.text
        await app.press("c")
        assert "position 0, the sink" in app.text
        await app.press("2")
        assert "--method gradient_guided" in app.text.replace("\n", "")


async def test_attention_of_another_model_of_the_same_name_is_not_shown(
    start: Start, analysed: Path, tmp_path: Path
) -> None:
    store = tmp_path / "two"
    shutil.copytree(analysed, store)
    shutil.rmtree(store / f"{MODEL}.model.results")
    keep_attention(store, neurons=50)
    async with opened(start, store, "attention") as app:
        assert "No result is kept" in app.text


async def test_ablation(start: Start, analysed: Path, size: tuple[int, int]) -> None:
    async with opened(start, analysed, "ablate", size=size) as app:
        assert "tales.txt: perplexity 20.100 over 4,321 tokens" in app.text
        assert "20 random" in app.text and "0.230 to 0.270" in app.text
        assert names(app) == ["dead", "positional"]
        await go(app, "ablate")
        await filtered(app, "dNLL>0.1")
        assert names(app) == ["positional"]
        await app.press("enter")
        assert app.crumbs.endswith("ablate > L0/N7"), "the first of the set"
        await app.press("J")
        assert app.crumbs.endswith("ablate > L1/N9")


async def test_kinds(start: Start, analysed: Path, size: tuple[int, int]) -> None:
    async with opened(start, analysed, "kinds", size=size) as app:
        assert "dead 1, positional 1, delta 2, ngrams1 1, ngrams2 2, attention 20" in words(app)
        assert "neurons that two kinds share" in app.text
        await filtered(app, "a=ngrams1 and b=ngrams2")
        row = app.pane.table.current
        assert (row.overlap, row.eligible) == (1, 23), "both have L0/N3; the dead one does not count"
        await app.press("enter")
        assert app.crumbs.endswith("kinds > L0/N3")
        await app.press("escape")
        await filtered(app, "a=dead and b=delta")
        await app.press("enter")
        assert "no neuron" in app.status and app.crumbs.endswith("kinds")


def exported(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(Path(name).read_text(encoding="utf-8"))
    return document


async def test_export_and_copy(start: Start, analysed: Path, tmp_path: Path) -> None:
    async with opened(start, analysed, "ngrams") as app:
        await app.press("e")
        await app.press("enter")
        assert "study-ngrams.json" in app.status
        assert exported("study-ngrams.json")["n"] == 1
        await app.press("y")
        assert app.status.startswith("sent ")


async def test_earlier_results_are_reached(start: Start, analysed: Path, tmp_path: Path) -> None:
    store = tmp_path / "more"
    shutil.copytree(analysed, store)
    keep_attention(store, max_length=4)
    async with opened(start, store, "attention") as app:
        assert "1 of 2" in words(app)
        await app.press("<")
        assert "2 of 2" in words(app)
        await app.press("<")
        assert "no earlier result" in app.status
        await app.press(">")
        assert "1 of 2" in words(app)


async def test_a_result_that_cannot_be_read_is_said_in_a_line(start: Start, analysed: Path, tmp_path: Path) -> None:
    from nfinspect_store.reader import RunFile
    from nfinspect_store.results import keep_result, run_results

    store = tmp_path / "odd"
    shutil.copytree(analysed, store)
    with RunFile.open(store / "study.duckdb") as run:
        settings = {"n": 3, "site": "mlp", "layers": [0, 1]}
        keep_result(run_results(run.path), "ngrams", settings, {"later": True}, run_id=run.info.run_id)
    async with opened(start, store, "ngrams") as app:
        await app.press("3")
        assert "of another version of nfinspect: r recomputes it" in words(app)
        await app.press("1")
        assert names(app) == ["L0/N3"]
        assert "another version" not in app.text
        await go(app, "analyses")
        assert "of another version of nfinspect" in app.text


async def test_ascii(start: Start, analysed: Path) -> None:
    async with opened(start, analysed, "analyses", plain=True) as app:
        for place in ("ngrams", "positions", "delta", "attention", "ablate", "kinds"):
            await go(app, place)
            for _ in range(4):
                assert app.text.isascii(), place
                await app.press("c")


async def test_wrong_places_are_said_in_a_line(start: Start, analysed: Path) -> None:
    async with opened(start, analysed, "logits") as app:
        assert "logits of which neuron?" in app.status
        await go(app, "logits L9/N0")
        assert app.status.startswith("no layer L9")


async def test_channels_of_mambas_step(start: Start, analysed: Path, tmp_path: Path) -> None:
    from nfinspect_store.results import keep_result, list_results, run_results

    store = tmp_path / "mamba"
    shutil.copytree(analysed, store)
    (kept,) = list_results(run_results(store / "study.duckdb"), kind="delta")
    channels = [
        {"layer": i, "channel": j, "n": 3100, "mean": 0.1 * i + 0.01 * j, "cv": 0.5, "surprisal_correlation": None}
        for i in range(2)
        for j in range(3)
    ]
    document = {**kept.document, "mamba_delta": channels}
    keep_result(kept.path.parent, "delta", kept.settings, document, run_id=kept.run_id)
    async with opened(start, store, "delta") as app:
        assert "step size of 6 channels" in words(app)
        await app.press("c", "c", "c")
        assert "step size by layer: median over channels of the mean over 3,100 tokens" in app.text
        await app.press("d", "d")
        assert "L1 ch. 2" in app.text and app.pane.table.current.mean == pytest.approx(0.12), "the largest first"
        await filtered(app, "channel=1")
        assert app.pane.table.total == 2
        await app.press("enter")
        assert "no neuron" in app.status, "these channels are no neurons of this run's site"
        await app.press("d")
        assert names(app) == ["L1/N9", "L1/N2"], "neurons again, without the filter"


@pytest.mark.parametrize("descending", [True, False])
def test_undefined_values_stand_last_and_equal_ones_as_they_were(descending: bool) -> None:
    rows = [("a", 1), ("b", None), ("c", 2), ("d", 1)]
    found = ordered(rows, "any", descending, lambda row, key: row[1])
    assert "".join(name for name, _ in found) == ("cadb" if descending else "adcb")


@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize("key", ["step_sensitivity", "von_neumann_ratio", "delta_sensitive", "neuron", "layer"])
def test_rows_held_as_columns_are_sorted_as_rows_are(key: str, descending: bool) -> None:
    rng = np.random.default_rng(3)
    measures = rng.integers(0, 4, (2, 60)) / 2  # with ties
    measures[:, rng.choice(60, 12)] = np.nan
    rows = DeltaRows("mlp", *np.divmod(rng.permutation(60), 20), *measures, measures[0] > 1)
    of = (lambda row, key: (row.layer, row.neuron)) if key == "layer" else getattr
    assert list(ordered(rows, key, descending, of)) == list(ordered(list(rows), key, descending, of))
    if key != "layer":
        assert isinstance(ordered(rows, key, descending, of), DeltaRows), "no row has become an object"


def test_an_open_run_is_asked_the_same_question_once(analysed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    for module, name in ((health, "network_report"), (neuron, "neuron_detail"), (kind_overlap, "overlap_of_kinds")):
        work = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *of, name=name, work=work, **how: asked.append(name) or work(*of, **how)
        )
    session = Session.open(analysed / "study.duckdb")
    try:
        first = [(session.health("mlp"), session.neuron(Address(0, n)), session.kinds("mlp")) for n in (0, 1)]
        assert first[0][1] != first[1][1] and first[0][2] is first[1][2]
        assert [(session.health("mlp"), session.neuron(Address(0, n)), session.kinds("mlp")) for n in (0, 1)] == first
        assert sorted(asked) == ["network_report", "neuron_detail", "neuron_detail", "overlap_of_kinds"]
    finally:
        session.close()


async def test_a_run_of_statistics_offers_no_analysis_that_would_refuse_it(start: Start, tmp_path: Path) -> None:
    """By a real run: the list says why, Enter goes nowhere, and a pane reached by name does not offer `r`."""
    path = tmp_path / "store" / "stats.duckdb"
    path.parent.mkdir()
    prompts = [ArrayPrompt("one", "text", [1, 2, 3], [" a", " b", " c"], 3) for _ in range(4)]
    values = np.random.default_rng(0).random((3, NEURONS)).astype(np.float32)
    write_run(path, layers=LAYERS, prompts=prompts, values=lambda prompt, layer: values, keep="stats")
    async with start(Engine(path.parent), "stats") as app:
        await app.press("a")
        line = next(line for line in app.lines if line.strip(" \u258c").startswith("ngrams"))
        assert "needs every value" in line
        assert "this run holds statistics only (--keep stats)" in words(app)
        assert "needs every value" not in next(line for line in app.lines if " attention " in line)
        await app.press("enter")
        assert app.crumbs.endswith("analyses") and "ngrams needs every value (--keep all)" in app.status
        for name in ("ngrams", "positions", "delta", "sinks"):
            await go(app, name)
            assert f"{name} needs every value (--keep all), and this run holds" in words(app)
            assert "computes it" not in app.text and "r Make" not in app.lines[-1]
            await app.press("r")
            assert not app.app.board._jobs
