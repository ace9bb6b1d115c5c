"""One neuron: its figures, chart, examples and concepts, and the way to its neighbours."""

import dataclasses
import json
from pathlib import Path

import pytest
from analysed_run import keep_analyses, write_study
from app_driver import Start
from fake_engine import FakeEngine, FakeSession, example, row
from test_making_analyses import go

from nfinspect.tui.engine import Engine
from nfinspect.tui.glyphs import UNICODE
from nfinspect.tui.neuron_text import example_cell, why
from nfinspect.tui.widgets.paged_table import PagedTable


async def test_everything_about_a_neuron(start: Start, size: tuple[int, int]) -> None:
    async with start(size=size) as app:
        await app.press("n", "j", "enter")
        assert app.crumbs.endswith("neurons > L0/N1")
        assert "2 of 120,000" in app.lines[0]
        assert "L0/N1 normal: its mean |a| is 90.0% of its layer's" in app.text
        assert "fires 25.0% of 500" in app.text
        assert "┤" in app.text, "the histogram is drawn"
        assert "⟦ tulip⟧" in app.text, "the activating token stands in brackets"
        tulip = next(line for line in app.lines if "tulip" in line and "█" in line)
        assert "3.000" in tulip


async def test_the_chart_fits_its_place(start: Start, size: tuple[int, int]) -> None:
    async with start(size=size) as app:
        await app.press("n", "enter")
        box = app.pane.query_one("#chart")
        drawn = box.content.plain.split("\n")
        assert len(drawn) == box.content_size.height
        assert max(map(len, drawn)) <= box.content_size.width


async def test_j_and_k_walk_the_list(start: Start) -> None:
    async with start() as app:
        await app.press("n", "enter", "J", "J")
        assert app.crumbs.endswith("L0/N2")
        await app.press("K", "K", "K")
        assert app.crumbs.endswith("L0/N0")
        await app.press("escape")
        assert app.crumbs.endswith("neurons"), "walking made no steps in the breadcrumbs"


async def test_j_and_k_walk_a_trace(start: Start) -> None:
    async with start() as app:
        await app.press("t", "j", "enter")
        assert app.crumbs.endswith("L3/N101")
        await app.press("J")
        assert app.crumbs.endswith("L3/N102")
        assert "3 of 10" in app.lines[0]


async def test_without_a_list_the_neighbours_are_the_layers(start: Start) -> None:
    async with start() as app:
        await app.press("colon")
        await app.type("L1/N39998")
        await app.press("enter", "J", "J")
        assert app.crumbs.endswith("L1/N39999")


async def test_strong_tokens_are_marked_without_colour(start: Start) -> None:
    async with start() as app:
        await app.press("n", "enter", "enter")
        assert app.crumbs.endswith("prompt 0")
        line = next(line for line in app.lines if " tulip││ x" in line)  # where the model's own tokens begin
        assert line.startswith("█ "), "the margin has the strongest step of the line"
        assert "L0/N0 9.000, 100% of its largest" in app.text


async def test_concept_leads_to_its_trace(start: Start) -> None:
    async with start() as app:
        await app.press("n", "enter")
        app.pane.query_one("#concepts", PagedTable).focus()
        await app.press("j", "enter")
        assert app.crumbs.endswith("trace vietnam")


async def test_copy_says_sent_and_writes_a_file(start: Start, tmp_path: Path) -> None:
    async with start() as app:
        await app.press("n", "enter", "y")
        assert app.status.startswith("sent ")
        assert "to the clipboard, also in" in app.status
        assert "demo L0/N0 normal" in (tmp_path / "state/nfinspect/clipboard.txt").read_text()
        assert "demo L0/N0" in app.app.clipboard


async def test_export(start: Start, tmp_path: Path) -> None:
    async with start() as app:
        await app.press("n", "enter", "e", "enter")
        assert app.status == "wrote demo-L0-N0.json"
        assert json.loads((tmp_path / "demo-L0-N0.json").read_text())["top_examples"][0]["token"] == " tulip"


async def test_zoom_shows_one_panel(start: Start) -> None:
    async with start() as app:
        await app.press("n", "enter")
        assert "zoomed" not in app.lines[0]
        await app.press("z")
        assert app.pane.query_one("#examples").size.height >= 18
        assert "zoomed (z)" in app.lines[0]
        await app.press("escape")
        assert "zoomed" not in app.lines[0], "of this pane only"
        await app.press("left_square_bracket")
        assert "zoomed (z)" in app.lines[0]
        await app.press("z")
        assert "zoomed" not in app.lines[0]
        assert app.pane.query_one("#examples").size.height < 12


async def test_a_neuron_at_another_site_is_addressed_with_it(start: Start) -> None:
    engine = FakeEngine(session=FakeSession())
    async with start(engine) as app:
        await app.press("S", "n", "enter")
        assert app.crumbs.endswith("resid:L0/N0")
        assert ("neuron", "resid:L0/N0") in engine.session.calls


async def test_the_next_neuron_is_read_ahead(start: Start) -> None:
    engine = FakeEngine()
    async with start(engine) as app:
        await app.press("n", "enter")
        assert ("neuron", "L0/N1") in engine.session.calls
        read = len(engine.session.calls)
        await app.press("J")
        assert app.crumbs.endswith("L0/N1")
        assert [call[1] for call in engine.session.calls[read:] if call[0] == "neuron"] == ["L0/N2"]


async def test_figures_of_two_lines_hide_none(start: Start) -> None:
    """Why a neuron is sporadic takes two lines in 80 cells; the figures below it stay."""
    engine = FakeEngine()
    neuron = engine.session.neuron

    def sporadic(address: object, options: object = None) -> object:
        found = neuron(address)
        return dataclasses.replace(found, row=dataclasses.replace(found.row, cls="sporadic"))

    engine.session.neuron = sporadic  # type: ignore[method-assign]
    async with start(engine) as app:
        await app.press("n", "enter")
        assert "rare and strong" in app.text
        assert "excess kurtosis 3.000" in app.text


async def test_values_that_are_rounded_are_called_so_on_a_line_of_their_own(start: Start) -> None:
    engine = FakeEngine()
    neuron = engine.session.neuron

    def rounded(address: object, options: object = None) -> object:
        return dataclasses.replace(neuron(address), precision="int8", worst_error=0.0293)

    async with start(engine) as app:
        await app.press("n", "enter")
        assert "values are" not in app.text
        engine.session.neuron = rounded  # type: ignore[method-assign]
        await app.press("J", "J")
        assert "values are int8, at most 0.0293 off" in [line.strip() for line in app.text.splitlines()]


async def test_back_from_the_prompt_the_examples_have_the_keys(start: Start) -> None:
    async with start() as app:
        await app.press("n", "enter", "j", "enter", "escape", "k")
        examples = app.pane.query_one("#examples", PagedTable)
        assert examples.has_focus
        assert examples.cursor == 0


async def test_the_panel_without_the_keys_has_another_cursor(start: Start) -> None:
    async with start() as app:
        await app.press("n", "enter")
        kinds = next(line for line in app.lines if " top " in line)
        concept = next(line for line in app.lines if "tulip" in line and "█" in line)
        assert kinds.startswith("▌")
        assert "▏ tulip" in concept
        await app.press("tab")
        assert "▌ tulip" in next(line for line in app.lines if "tulip" in line and "█" in line)


async def test_export_asks_before_it_replaces_a_file(start: Start, tmp_path: Path) -> None:
    kept = tmp_path / "demo-L0-N0.json"
    kept.write_text("mine")
    async with start() as app:
        await app.press("n", "enter", "e", "enter")
        assert app.status == "demo-L0-N0.json is there already: e and the same name again replaces it"
        assert kept.read_text() == "mine"
        await app.press("e", "enter")
        assert app.status == "wrote demo-L0-N0.json"
        assert kept.read_text() != "mine"


async def test_an_export_into_a_directory_has_the_name_that_was_offered(start: Start, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    async with start() as app:
        await app.press("n", "enter", "e")
        await app.type("out")
        await app.press("enter")
        assert app.status == "wrote out/demo-L0-N0.json" and (tmp_path / "out/demo-L0-N0.json").is_file()
        await app.press("e")
        await app.type("out/")
        await app.press("enter")
        assert app.status == "out/demo-L0-N0.json is there already: e and the same name again replaces it"
        await app.press("e", "enter")
        assert app.status == "wrote out/demo-L0-N0.json"
        for name in ("nowhere/", "nowhere/x.json"):
            await app.press("e")
            await app.type(name)
            await app.press("enter")
            assert app.status == f"cannot write {name}: there is no such directory, make it first"


def test_a_text_that_begins_before_its_window_says_so() -> None:
    for start, begins in ((0, " the"), (5, "… the")):
        cell = example_cell(example(9.0, start=start), 80, 9.0, UNICODE)
        assert cell.text.startswith(begins)


def test_a_dead_neuron_is_called_silent_only_where_it_is_0() -> None:
    """A dead GELU or SiLU neuron may fire weakly on many tokens."""
    of_relu = dataclasses.replace(
        row(0, 1, "dead"), n=400, min=0.0, max=0.0, mean_abs=0.0, firing_rate=0.0, rate_upper95=0.0075
    )
    assert why(of_relu, UNICODE) == "0 on all 400 tokens, alive on up to 0.75% of others (95 % bound)"
    of_gelu = dataclasses.replace(of_relu, min=-0.001376, max=0.00119, mean_abs=0.0005, firing_rate=0.4575)
    assert why(of_gelu, UNICODE) == (
        "|a| at most 0.001376 on all 400 tokens, below 1% of its layer's mean |a|, "
        "alive on up to 0.75% of others (95 % bound)"
    )


async def test_v_goes_from_the_top_to_quantiles_the_lowest_and_random_ones(start: Start) -> None:
    engine = FakeEngine()
    async with start(engine) as app:
        await app.press("n", "enter")
        examples = app.pane.query_one("#examples", PagedTable)

        def kinds() -> list[str]:
            return [examples.row_at(i)[0] for i in range(examples.total)]

        assert kinds() == ["top", "top"] and "top: token in brackets" in app.text
        assert ("quantiles", "L0/N0") not in engine.session.calls, "they are read when asked for"
        await app.press("v")
        assert kinds() == ["p95", "p5"] and "quantiles: token in brackets" in app.text
        await app.press("v")
        assert kinds() == [] and "its lowest value is 0: it fires on 25.0% of 500 tokens" in app.text
        await app.press("v")
        assert kinds() == ["random"] and "random, seed 0: token in brackets" in app.text
        await app.press("v", "v", "J")
        assert app.crumbs.endswith("L0/N1") and kinds() == ["p95", "p5"], "the next neuron in the same view"
        assert ("quantiles", "L0/N1") in engine.session.calls


async def test_a_run_of_statistics_says_why_it_has_no_quantiles(start: Start) -> None:
    engine = FakeEngine(session=FakeSession(has_values=False, values_kept="statistics only (--keep stats)"))
    async with start(engine, size=(120, 24)) as app:
        await app.press("n", "enter", "v")
        assert "quantile examples need every value, and this run holds statistics only" in app.text
        assert not [call for call in engine.session.calls if call[0] == "quantiles"]


async def test_figures_are_whole_at_any_width(start: Start) -> None:
    """Each with its name on one line, and notes that take too much are cut with a sign, not silently."""
    engine = FakeEngine()
    neuron = engine.session.neuron
    wide = dict(mean=-1.234567e-7, std=123456.7, min=-98765.4, max=-1.234567e-5, mean_abs=4.321e9)
    note = "recorded are a few tokens only " * 30

    def long(address: object, options: object = None) -> object:
        found = neuron(address)
        return dataclasses.replace(found, row=dataclasses.replace(found.row, **wide), notes=(note,))

    engine.session.neuron = long  # type: ignore[method-assign]
    for width in (60, 80, 100, 200):
        async with start(engine, size=(width, 24)) as app:
            await app.press("n", "enter")
            for figure in ("mean -1.235e-7", "std 123,457", "min -98,765", "max -1.235e-5", "mean|a| 4.321e9",
                           "excess kurtosis 3.000", "dormancy 0.9000"):  # fmt: skip
                assert any(figure in line for line in app.lines), (width, figure)
            box = app.pane.query_one("#figures")
            drawn = box.content.plain
            assert drawn.endswith(("…", note)), width
            assert app.pane.query_one("#examples").size.height >= 4, width


async def test_the_signs_of_gate_and_up_stand_beside_the_examples(start: Start) -> None:
    engine = FakeEngine()
    neuron = engine.session.neuron
    engine.session.layers = tuple(
        dataclasses.replace(layer, fires="gate", activation="silu") for layer in engine.session.layers
    )

    def gated(address: object, options: object = None) -> object:
        found = neuron(address)
        return dataclasses.replace(found, gates={e.token_idx: False for e in found.top_examples})

    engine.session.neuron = gated  # type: ignore[method-assign]
    async with start(engine) as app:
        await app.press("n", "enter")
        line = next(line for line in app.lines if " top " in line and "9.000" in line)
        assert "9.000 -- tulip" in line, "a negative gate and a value above 0: up is negative"


@pytest.fixture
def analysed(tmp_path: Path) -> Path:
    keep_analyses(write_study(tmp_path / "store"))
    return tmp_path / "store"


async def test_saved_ngrams_and_positions_are_told_in_a_line_each(start: Start, analysed: Path) -> None:
    """L0/N3 fires on the hostile token alone, L0/N7 in the second half of each prompt."""
    async with start(Engine(analysed), "study", size=(120, 40)) as app:
        await go(app, "L0/N3")
        assert 'token detector, 100% on "' in app.text
        assert "\x1b" not in app.text
        await go(app, "L0/N7")
        line = next(line for line in app.lines if "position: " in line)
        assert "over 100 sequences" in line and "▁" not in line.split("sequences")[1].split()[0][-8:]
        assert "no token or bigram detector" in app.text
        await go(app, "L0/N5")
        assert "not positional (100 sequences)" in app.text


async def test_what_is_not_computed_is_said_with_the_key(start: Start) -> None:
    async with start() as app:
        await app.press("n", "enter")
        assert "n-grams and positions not computed (a)" in app.text


async def test_examples_use_a_wide_terminal(start: Start, tmp_path: Path) -> None:
    """Prompts of 32 tokens: at 200 columns as many of them are shown as there is room for."""
    write_study(tmp_path / "store")
    lengths = {}
    for width in (80, 200):
        async with start(Engine(tmp_path / "store"), "study", size=(width, 40)) as app:
            await go(app, "L0/N5")
            lengths[width] = max(len(line.rstrip()) for line in app.lines if " top " in line and "⟦" in line)
    assert lengths[80] > 70 and lengths[200] > 180
