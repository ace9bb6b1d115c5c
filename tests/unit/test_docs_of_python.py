"""The snippets of docs/python.md and of the README run."""

import dataclasses
import inspect
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from nfinspect_store.catalog import list_runs

ROOT = Path(__file__).parents[2]


def snippets(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def test_the_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NFINSPECT_STORE", raising=False)
    runs, networks, text = snippets("docs/python.md")
    exec(runs, {})
    said = capsys.readouterr().out
    assert ", 768)" in said and "('tulip', 'baseline')" in said and "dead" in said
    assert {entry.name for entry in list_runs(tmp_path / "nfinspect-store")} == {"tulips", "passes"}
    exec(networks, {})
    assert (tmp_path / "firing.png").stat().st_size > 10_000
    exec(text, {})
    assert "firing patterns" in capsys.readouterr().out
    (readme,) = snippets("README.md")
    exec(readme.replace("5", "3"), {})  # the sample model has four layers


def test_the_methods_of_a_run_take_what_the_analyses_take() -> None:
    """Their parameters are spelled out: the same names, order and defaults, but for the tick."""
    from nfinspect.analyses.positions import positions
    from nfinspect.analysis.classes import HealthOptions
    from nfinspect.analysis.delta import delta
    from nfinspect.analysis.neurons import list_neurons
    from nfinspect.analysis.ngrams import ngrams
    from nfinspect.analysis.overlap import overlap
    from nfinspect.analysis.trace import trace
    from nfinspect.run import Run

    def taken(function: Callable[..., object]) -> list[tuple[str, object]]:
        every = inspect.signature(function).parameters.values()
        return [(one.name, one.default) for one in every if one.name not in ("self", "run", "tick")]

    pairs: list[tuple[Callable[..., object], Callable[..., object]]] = [
        (Run.neurons, list_neurons),
        (Run.trace, trace),
        (Run.overlap, overlap),
        (Run.ngrams, ngrams),
        (Run.positions, positions),
        (Run.delta, delta),
    ]
    for method, function in pairs:
        assert taken(method) == taken(function), method.__name__
    assert taken(Run.health) == [("site", None), *taken(HealthOptions)]


def test_capture_takes_what_a_capture_is_asked() -> None:
    import nfinspect as nf
    from nfinspect.capturing.request import CaptureRequest

    fields = {one.name: one.default for one in dataclasses.fields(CaptureRequest)}
    mine = {name: one.default for name, one in inspect.signature(nf.capture).parameters.items()}
    for name in ("model", "tokenizer", "prompts", "store"):
        del mine[name]
    assert mine == {name: fields[name] for name in mine}
