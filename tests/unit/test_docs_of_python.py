"""The snippets of docs/python.md and of the README run."""

import re
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
