"""Traces and overlaps, with their choices made in place."""

import json
from dataclasses import replace
from pathlib import Path

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
            assert (
                title in header.replace("›", " ").replace("▲", " ").split()
                or title == "q"
                and header.rstrip("›").endswith("q")
            )
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


async def test_an_overlap_that_is_read_again_keeps_its_cursors(start: Start) -> None:
    engine = FakeEngine()
    async with start(engine) as app:
        await app.press("o", "tab", "j", "j")
        pane = app.pane
        there = pane.pairs.cursor, pane.shared.cursor
        assert pane.follows and there[1] == 2
        asked = len(engine.session.calls)
        pane.read_again()
        await app.settle()
        assert [call[0] for call in engine.session.calls[asked:]] == ["overlap"]
        assert (pane.pairs.cursor, pane.shared.cursor) == there


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


async def test_a_trace_is_sorted_and_filtered_by_its_columns(start: Start) -> None:
    session = FakeSession()
    trace = session.trace

    def spread(request: TraceRequest) -> Trace:
        found = trace(request)
        return replace(
            found, neurons=tuple(replace(row, difference=float(i * 7 % 10)) for i, row in enumerate(found.neurons))
        )

    session.trace = spread  # type: ignore[method-assign]
    async with start(FakeEngine(session=session), size=(120, 40)) as app:
        await app.press("t")
        assert "by occurrences, then difference" in app.text
        ranks = [row.rank for row in app.pane.rows.current]
        assert ranks == sorted(ranks)
        await app.press("s")
        await app.type("diff")
        await app.press("enter", "I")
        differences = [row.difference for row in app.pane.rows.current]
        assert differences == sorted(differences) and len(set(differences)) > 1
        bound = differences[3]
        await app.press("slash")
        await app.type(f"difference > {bound}")
        await app.press("enter")
        assert [row.difference for row in app.pane.rows.current] == [d for d in differences if d > bound]
        assert f"of {len(differences)} where difference > {bound}" in app.text
        around = len(app.pane.rows.current)
        await app.press("enter")
        assert f"1 of {around}" in app.lines[0]


async def test_a_trace_says_how_many_of_its_neurons_differ_beyond_chance(start: Start) -> None:
    session = FakeSession()
    trace = session.trace

    def weak(request: TraceRequest) -> Trace:
        found = trace(request)
        return replace(
            found, neurons=tuple(replace(row, q_value=0.01 if i < 3 else 0.44) for i, row in enumerate(found.neurons))
        )

    session.trace = weak  # type: ignore[method-assign]
    async with start(FakeEngine(session=session)) as app:
        await app.press("t")
        assert "3 of 10 with q <= 0.05" in app.text


async def test_choices_go_along_from_the_trace_to_the_overlap_and_back(start: Start) -> None:
    async with start(FakeEngine()) as app:
        await app.press("t", "C", "T", "r", "plus")
        chosen = app.pane.request
        assert (chosen.concept, chosen.tokens, chosen.rank, chosen.top) == ("vietnam", "all", "effect", 20)
        await app.press("o")
        assert app.pane.request == chosen
        await app.press("minus", "escape", "escape", "t")
        assert app.pane.request == replace(chosen, top=10), "the newest choices, in a new trace"
        await app.press("escape", "n", "space", "O")
        assert app.pane.request == replace(chosen, top=10)


async def test_neurons_of_one_concept_and_not_of_another_are_listed_marked_and_copied(start: Start) -> None:
    async with start(FakeEngine()) as app:
        await app.press("o")
        assert "vietnam and hanoi: 6 neurons" in app.text
        await app.press("d")
        shared = app.pane.query_one("#shared", PagedTable)
        assert "vietnam, not hanoi: 4 neurons" in app.text and shared.total == 4
        await app.press("d")
        assert "hanoi, not vietnam: 1 neuron" in app.text and shared.total == 1
        await app.press("d", "d", "M")
        assert list(app.pane.marks) == [(2, 0), (2, 1), (2, 2), (2, 3)]
        await app.press("M")
        assert len(app.pane.marks) == 4, "those that are marked stay so"
        await app.press("enter", "y")
        assert app.app.clipboard == "L2/N0\nL2/N1\nL2/N2\nL2/N3"
        await app.press("j", "enter")
        assert app.crumbs.endswith("overlap > L2/N1")
        assert "2 of 4" in app.lines[0]


async def test_tab_while_a_line_is_typed_leaves_no_dead_line(start: Start) -> None:
    """Tab takes the focus nowhere: what is typed next still goes into the line, and Esc closes it."""
    async with start(FakeEngine()) as app:
        for opens in ("slash", "colon"):
            await app.press("n", opens)
            await app.type("L1")
            await app.press("tab", "shift+tab")
            focused = app.app.focused
            assert focused is not None and focused.id == "line" and focused.value.startswith("L1")
            await app.press("escape", "escape")


async def test_a_trace_is_filtered_by_a_set_and_exported_as_shown(start: Start, tmp_path: Path) -> None:
    async with start() as app:
        await app.press("t", "j", "space", "space", "slash")
        await app.type("@marked or L3/N109")
        await app.press("enter")
        assert [row.neuron for row in app.pane.rows.current] == [101, 102, 109]
        await app.press("I", "e", "enter")
        assert app.status == "wrote demo-trace-tulip.json: 3 of 10 rows where @marked or L3/N109"
        document = json.loads((tmp_path / "demo-trace-tulip.json").read_text())
        assert [row["neuron"] for row in document["neurons"]] == [109, 102, 101], "as they are on screen"
        assert document["top"] == 10
        await app.press("slash")
        await app.type("@ma")
        await app.press("tab")
        assert "@marked" in app.lines[-2]
        await app.press("escape")


async def test_more_than_the_most_is_said(start: Start) -> None:
    async with start() as app:
        await app.press("t", *["plus"] * 5)
        assert "top 200" in app.text and app.status == "200 are the most"
        await app.press(*["minus"] * 5)
        assert "top 5" in app.text and not app.status
        await app.press("minus")
        assert app.status == "5 are the fewest"
