"""The snippet of docs/training.md runs, and the page names every alert."""

import re
from pathlib import Path

import pytest

from nfinspect.analysis.history import Alert, read_history

PAGE = (Path(__file__).parents[3] / "docs/training.md").read_text(encoding="utf-8")


def test_the_snippet_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("NFINSPECT_STORE", str(tmp_path))
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(code, {})
    history = read_history(tmp_path / "night.history.jsonl")
    assert history.status == "complete" and [r.step for r in history.readings] == [1, 50, 100, 150, 200]
    assert str(history.readings[-1].health_score) in capsys.readouterr().out


def test_every_kind_of_alert_is_told() -> None:
    assert Alert.__doc__
    kinds = re.findall(r"[a-z]+(?: [a-z]+)?", Alert.__doc__.split("kind:")[1].split(";")[0])
    assert len(kinds) == 10
    assert not [kind for kind in kinds if f"`{kind}`" not in PAGE]


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (Path(__file__).parents[3] / "docs" / target).exists(), target
