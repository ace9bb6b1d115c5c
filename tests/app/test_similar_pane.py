"""Neurons like one: the key of a neuron's page, the command that it starts, and the way to the neurons."""

from pathlib import Path

from analysed_run import write_study
from app_driver import Start
from fake_engine import FakeEngine, FakeSession
from test_making_analyses import ended, go

from nfinspect.tui.engine import Engine


async def test_the_key_computes_saves_and_leads_to_the_neurons(start: Start, tmp_path: Path) -> None:
    """By a real command over a real run. L0/N3 fires on one of eight words, 12.5 % of the tokens."""
    write_study(tmp_path / "store")
    async with start(Engine(tmp_path / "store"), "study") as app:
        await go(app, "L0/N3")
        await app.press("s")
        assert app.crumbs.endswith("L0/N3 > similar L0/N3")
        await ended(app)
        assert "mlp:L0/N3 against 24 neurons of mlp, 1 of which never vary, over 3,200 tokens" in app.text.replace(
            "\n", " "
        )
        rows = [app.pane.table.row_at(i) for i in range(3)]
        sizes = [abs(row.correlation) for row in rows]
        assert sizes == sorted(sizes, reverse=True)
        assert f"L{rows[0].layer}/N{rows[0].neuron}" in app.text
        await app.press("enter")
        assert app.crumbs.endswith(f"similar L0/N3 > L{rows[0].layer}/N{rows[0].neuron}")
        await app.press("J")
        assert app.crumbs.endswith(f"L{rows[1].layer}/N{rows[1].neuron}")
    async with start(Engine(tmp_path / "store"), "study") as app:
        await go(app, "similar L0/N3")
        assert "kept 20" in app.text and not app.app.board._jobs, "it is not computed again"
        await go(app, "similar L0/N4")
        assert "mlp:L0/N3" not in app.text, "another neuron's result is not shown"
        await ended(app)
        assert "mlp:L0/N4 against" in app.text


async def test_the_command_of_a_neuron_and_site(start: Start) -> None:
    engine = FakeEngine()
    async with start(engine) as app:
        await app.press("S", "n", "enter", "s")
        assert engine.started == [("similar", "demo", "resid:L0/N0", "--site", "resid", "--store", "/store")]
        await app.press("x")
        engine.job.end(130, "cancelled")
        await ended(app)
        assert len(engine.started) == 1, "what was cancelled is not started again unasked"


async def test_a_run_of_statistics_says_why_not(start: Start) -> None:
    engine = FakeEngine(session=FakeSession(has_values=False, values_kept="statistics only (--keep stats)"))
    async with start(engine) as app:
        await go(app, "similar L0/N3")
        assert "similar needs every value (--keep all)" in " ".join(app.text.split())
        assert engine.started == []
