"""Fixtures of the app's tests:

a driver that presses keys and reads the screen, in both sizes that must work.
"""

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / "app"), str(TESTS), str(TESTS / "unit" / "backend")]

from app_driver import SIZES, SMALL, Driven, Start  # noqa: E402  (its folder has just been put on the path)
from fake_engine import FakeEngine  # noqa: E402
from textual.css.model import RuleSet  # noqa: E402
from textual.css.stylesheet import Stylesheet  # noqa: E402

from nfinspect.tui.app import NfinspectApp  # noqa: E402
from nfinspect.tui.engine import Engine  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def parsed_once() -> Iterator[None]:
    """A style sheet is parsed once, not again by each app."""
    parse = Stylesheet._parse_rules
    parsed: dict[tuple[object, ...], list[RuleSet]] = {}

    def once(sheet: Stylesheet, css: str, **source: Any) -> list[RuleSet]:
        key = (css, *source.items(), *sheet._variables.items())
        if key not in parsed:
            parsed[key] = parse(sheet, css, **source)
        return parsed[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stylesheet, "_parse_rules", once)
        yield


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the developer's own keys, history or clipboard file."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def start() -> Start:
    """`async with start(engine, run, size=…) as app:` — the app on an engine, headless."""

    @asynccontextmanager
    async def begin(
        engine: Engine | None = None,
        run: str | None = "demo",
        *,
        size: tuple[int, int] = SMALL,
        plain: bool = False,
    ) -> AsyncIterator[Driven]:
        app = NfinspectApp(engine or FakeEngine(), run, plain=plain)
        async with app.run_test(size=size) as pilot:
            driven = Driven(app, pilot)
            await driven.settle()
            yield driven

    return begin


@pytest.fixture(params=SIZES, ids=["80x24", "200x50"])
def size(request: pytest.FixtureRequest) -> tuple[int, int]:
    return request.param  # type: ignore[no-any-return]
