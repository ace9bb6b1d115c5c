"""Traces and overlaps, with their choices made in place."""

from dataclasses import replace

from app_driver import Start
from fake_engine import FakeEngine, FakeSession

from nfinspect.analysis.trace import Trace
from nfinspect.tui.requests import TraceRequest
from nfinspect.tui.widgets.paged_table import PagedTable


async def test_the_trace_has_the_columns_of_the_contract_in_80(start: Start, size: tuple[int, int]) -> None:
    async with start(size=size) as app:
        await app.press("t")
        header = next(line for line in app.lines if "auroc" in line)
        for title in ("#", "neuron", "occ", "%", "concept", "base", "differ.", "g", "auroc", "p", "q"):
            assert title in header.replace("›", " ").split() or title == "q" and header.rstrip("›").endswith("q")
        first = next(line for line in app.lines if "L3/N100" in line)
        assert "12/12" in first
        assert "100%" in first


async def test_concept_baseline_tokens_rank_and_top_are_chosen_in_place(start: Start) -> None:
    engine = FakeEngine()
    async with start(engine) as app:
        await app.press("t")
        request = app.pane.request
        assert (request.concept, request.baseline, request.tokens, request.top) == (
            "tulip",
            "baseline",
            "generated",
            10,
        )
        await app.press("c")
        await app.type("ha")
        await app.press("enter", "T", "r", "plus")
        request = app.pane.request
        assert (request.concept, request.tokens, request.rank, request.top) == ("hanoi", "all", "effect", 20)
        assert engine.session.calls[-1] == ("trace", request)
        await app.press("b", "enter")
        assert app.crumbs.endswith("trace hanoi")


async def test_without_a_baseline_there_is_a_warning(start: Start) -> None:
    session = FakeSession(concepts=("tulip", "vietnam"))
    async with start(FakeEngine(session=session)) as app:
        await app.press("t")
        assert "no baseline" in app.text
        assert "no baseline: raw values find the same" in app.text
        await app.press("r")
        assert "need a baseline" in app.status


async def test_overlap_heat_map_pairs_and_shared_neurons(start: Start, size: tuple[int, int]) -> None:
    async with start(size=size) as app:
        await app.press("o")
        heat = app.pane.query_one("#map").content.plain.split("\n")
        assert heat[0].split() == ["tulip", "vietnam", "hanoi"]
        vietnam = next(line for line in heat if line.startswith("vietnam"))
        assert vietnam.split()[-1] == "6"
        assert "▒" in vietnam, "the filling says it as well as the number"
        pairs, shared = app.pane.query_one("#pairs", PagedTable), app.pane.query_one("#shared", PagedTable)
        assert (pairs.current.a, pairs.current.b) == ("vietnam", "hanoi")
        assert shared.total == 6
        await app.press("enter")
        assert shared.has_focus
        await app.press("j", "enter")
        assert app.crumbs.endswith("overlap > L3/N1")
        assert "2 of 6" in app.lines[0]


async def test_overlap_leaves_concepts_out(start: Start) -> None:
    engine = FakeEngine()
    async with start(engine) as app:
        await app.press("o", "c", "enter")
        assert engine.session.calls[-1][2] == ("vietnam", "hanoi")
        await app.press("c", "down", "enter")
        assert "needs two concepts" in app.status
        assert app.app.is_running


async def test_marked_neurons_stay_those_of_their_site(start: Start) -> None:
    """L0/N0 of another site is another neuron: the table of the marked says its site and does not change it."""
    async with start(FakeEngine()) as app:
        await app.press("n", "space", "O")
        assert app.crumbs.endswith("1 marked") and app.lines[0].rstrip().endswith("demo · mlp")
        await app.press("S")
        assert app.pane.request.site == app.pane.site == "mlp"


async def test_prompts_of_three_digits_are_counted_in_full(start: Start) -> None:
    session = FakeSession()
    trace = session.trace

    def many(request: TraceRequest) -> Trace:
        found = trace(request)
        return replace(found, samples=1204, neurons=tuple(replace(row, samples=1204) for row in found.neurons))

    session.trace = many  # type: ignore[method-assign]
    async with start(FakeEngine(session=session)) as app:
        await app.press("t")
        assert "12/1204" in app.text and "11/1204" in app.text
        assert "auroc" in app.text


async def test_columns_hidden_to_the_left_leave_a_sign(start: Start) -> None:
    async with start(FakeEngine()) as app:
        await app.press("t")
        assert "neuron " in app.text and "‹" not in app.text
        await app.press("l")
        header = next(line for line in app.lines if "neuron" in line)
        assert "‹" in header and header.index("neuron") < header.index("‹") < header.index("concept")
        await app.press("h")
        assert "‹" not in app.text


async def test_what_to_beware_of_stays_as_long_as_what_it_is_about(start: Start) -> None:
    """Every note, after the next key, too; on every pane that asks for traces."""
    notes = ("of two, five would stand apart by chance", "3 prompts of hanoi are left out", "a third thing")
    async with start(FakeEngine(session=FakeSession(notes=notes))) as app:
        for keys in (("t", "j", "j"), ("o", "j"), ("n", "space", "O", "j")):
            await app.press(*keys)
            assert all(note in app.text for note in notes), (keys, app.text)
            await app.press(*["escape"] * sum(key in "toO" for key in keys))
