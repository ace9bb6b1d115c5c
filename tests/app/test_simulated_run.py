"""A simulated run in the app: its faults are in the lists as in any run."""

from collections import Counter
from pathlib import Path

from app_driver import LARGE, Start

from nfinspect.analysis.planted import NetworkPlan, planted_network
from nfinspect.capturing.simulated import simulate_run
from nfinspect.tui.engine import Engine
from nfinspect.tui.panes.preview import Preview
from nfinspect.tui.requests import TraceRequest
from nfinspect.tui.session import Session
from nfinspect_store.reader import RunFile


async def test_planted_faults_are_in_the_layers_the_lists_and_the_console(start: Start, tmp_path: Path) -> None:
    plan = NetworkPlan(3, 100, 256)
    simulate_run(tmp_path / "sim.duckdb", plan)
    counts = [Counter(layer.classes) for layer in planted_network(plan)]
    async with start(Engine(tmp_path), "sim", size=LARGE) as app:
        assert app.crumbs.endswith("sim")
        line = next(line for line in app.lines if line.lstrip("▌ ").startswith("L2 "))
        assert f" {counts[2]['dead']} " in line
        await app.press("n", "/")
        await app.type("class=dead")
        await app.press("enter")
        assert f"{sum(count['dead'] for count in counts)} " in app.text
        shown = [
            line
            for line in app.lines[: app.pane.query_one(Preview).region.y]
            if line.lstrip("▌ ").startswith("L") and "/N" in line
        ]
        assert shown and all(" dead " in line for line in shown)
        await app.press("enter")
        assert "dead" in app.text and "/N" in app.crumbs


def test_no_baseline_is_none_also_where_the_run_has_one(tmp_path: Path) -> None:
    """What is chosen in the pane is what is ranked: the concept called baseline does not step in."""
    simulate_run(tmp_path / "sim.duckdb", NetworkPlan(2, 60, 256))
    with RunFile.open(tmp_path / "sim.duckdb") as run:
        session = Session(run)
        for baseline in (None, "two", "baseline"):
            request = TraceRequest("mlp", "one", baseline, "all")
            assert session.trace(request).baseline == baseline
        assert session.overlap(TraceRequest("mlp", "one", None, "all"), ("one", "two")).baseline is None
