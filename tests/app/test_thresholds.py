"""The thresholds of the classes, changed in the app: counts, lists, scores and the equivalent commands follow."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from app_driver import Driven, Start
from click.testing import CliRunner

from nfinspect.analysis.classes import HealthOptions
from nfinspect.analysis.health import network_report
from nfinspect.analysis.neurons import count_classes, list_neurons
from nfinspect.cli.group import nfinspect
from nfinspect.tui import thresholds
from nfinspect.tui.chrome import StatusLine
from nfinspect.tui.engine import Engine
from nfinspect_store.errors import RequestError
from nfinspect_store.reader import RunFile
from nfinspect_store.types import CLASSES

WEAK = HealthOptions(threshold_weak=1.3)


@pytest.fixture
def engine(store: Path) -> Iterator[Engine]:
    with closing(Engine(store)) as opened:
        yield opened


async def change(app: Driven, typed: str) -> None:
    await app.press("T")
    await app.type(typed)
    await app.press("enter")


def shown_command(app: Driven) -> str:
    return app.app.screen.query_one(StatusLine).command


async def test_counts_lists_and_scores_follow(start: Start, engine: Engine, store: Path, size: tuple[int, int]) -> None:
    with RunFile.open(store / "planted.duckdb") as run:
        report, plain = network_report(run, "mlp", WEAK), network_report(run, "mlp")
        weak = list_neurons(run, "mlp", cls="weak", options=WEAK, limit=None)
    assert weak.total > 0 and report.overall_health_score != plain.overall_health_score
    async with start(engine, "planted", size=size) as app:
        assert f"Health {plain.overall_health_score:.3f}" in app.text and "thresholds" not in app.text
        await change(app, "weak=1.3")
        assert f"Health {report.overall_health_score:.3f}" in app.text
        assert "thresholds weak=1.3 (T)" in app.text
        assert shown_command(app) == "nfinspect health planted --threshold-weak 1.3"
        await app.press("n", "5")
        assert f"{weak.total:,} neurons by max" in app.text and "thresholds weak=1.3 (T)" in app.text
        assert "--class weak" in shown_command(app) and "--threshold-weak 1.3" in shown_command(app)
        row = weak.rows[0]
        await app.press("enter")
        assert f"{row.address} weak" in app.text and "below 130%" in app.text
        await change(app, "reset")
        assert f"{row.address} normal" in app.text and "thresholds weak" not in app.text
        await app.press("escape")
        assert "0 neurons by max" in app.text and "thresholds weak" not in app.text
        await app.press("escape")
        assert f"Health {plain.overall_health_score:.3f}" in app.text and "thresholds weak" not in app.text


async def test_the_command_that_is_shown_gives_the_same(start: Start, engine: Engine, store: Path) -> None:
    async with start(engine, "planted") as app:
        await change(app, "weak=1.3 skip-first=yes")
        command = shown_command(app).split()
        shown = app.pane._report
    assert command[0] == "nfinspect"
    told = CliRunner().invoke(nfinspect, [*command[1:], "--json", "--store", str(store)])
    assert json.loads(told.output)["overall_health_score"] == shown.overall_health_score


async def test_what_cannot_be_read_is_told_and_offered_again(start: Start, engine: Engine, store: Path) -> None:
    async with start(engine, "planted") as app:
        await change(app, "weak=little")
        assert app.status == "weak is a number, found 'little' (T to mend it)"
        await app.press("T")
        assert "weak=little" in app.text
        await app.press("escape")
        await change(app, "missing=2")
        assert "thresholds must be 0 <= missing <= weak" in app.status
        assert "thresholds missing" not in app.text


async def test_class_counts_follow_the_filter(start: Start, engine: Engine, store: Path) -> None:
    with RunFile.open(store / "planted.duckdb") as run:
        held = count_classes(run, "mlp", filter="max > 2.9 or dead")
        every = count_classes(run, "mlp")
    assert held["dead"] == every["dead"] > 0 and 0 < sum(held.values()) < sum(every.values())
    async with start(engine, "planted", size=(120, 30)) as app:
        await app.press("n", "/")
        await app.type("max > 2.9 or dead")
        await app.press("enter")
        tabs = " ".join(app.pane.query_one("#tabs").content.plain.split())
        assert f"0 all {sum(held.values())}" in tabs
        for place, name in enumerate(CLASSES, start=1):
            assert f"{place} {name} {held[name]}" in tabs


@pytest.mark.parametrize("filter_", [None, "max>1", "L1", "dead or weak"])
@pytest.mark.parametrize("options", [None, WEAK])
def test_classes_are_counted_as_they_are_listed(
    store: Path, filter_: str | None, options: HealthOptions | None
) -> None:
    with RunFile.open(store / "planted.duckdb") as run:
        counts = count_classes(run, "mlp", layer=1, filter=filter_, options=options)
        for name in CLASSES:
            listed = list_neurons(run, "mlp", cls=name, layer=1, filter=filter_, options=options, limit=0)
            assert counts[name] == listed.total


def test_what_is_typed_changes_only_what_it_names() -> None:
    chosen = thresholds.read("weak=0.2, skip-first=yes", None)
    assert chosen == HealthOptions(threshold_weak=0.2, skip_first=True)
    assert thresholds.read("scale=absolute", chosen) == HealthOptions(
        threshold_weak=0.2, skip_first=True, threshold_scale="absolute"
    )
    assert thresholds.read(thresholds.written(chosen), None) == chosen
    assert thresholds.arguments(chosen) == ("--threshold-weak", "0.2", "--skip-first")
    assert thresholds.arguments(None) == () and thresholds.told(None) == ""
    for text in ("", "0", "reset", "weak=0.1"):
        assert thresholds.read(text, None) is None
    assert thresholds.read("weak=0.1 skip-first=no", chosen) is None


@pytest.mark.parametrize("text", ["weak", "strong=1", "weak=nan", "rate=2", "scale=x", "skip-first=1", "missing=-1"])
def test_what_is_no_threshold_is_refused(text: str) -> None:
    with pytest.raises(RequestError):
        thresholds.read(text, None)
