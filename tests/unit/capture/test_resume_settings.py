"""Which run a line goes on with: options that are younger than the run are as by default."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nfinspect.capturing.errors import CannotResume
from nfinspect.capturing.request import CaptureRequest
from nfinspect.capturing.resume import check_same_capture, settings_of

NOW = settings_of(CaptureRequest("gpt2", Path("store")), [])
OPTIONS = sorted(NOW.keys() - {"model", "files", "prompts_sha256"})


def begun_with(settings: dict[str, Any]) -> Any:
    return SimpleNamespace(name="r", info=SimpleNamespace(status="interrupted", settings=settings))


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_that_an_older_run_does_not_tell_is_as_by_default(option: str) -> None:
    older = begun_with({key: value for key, value in NOW.items() if key != option})
    check_same_capture(older, NOW)
    with pytest.raises(CannotResume, match=f"begun by another command .{option}: "):
        check_same_capture(older, {**NOW, option: "other"})


@pytest.mark.parametrize("setting", ["model", "prompts_sha256"])
def test_what_has_no_default_has_to_be_told(setting: str) -> None:
    without = begun_with({key: value for key, value in NOW.items() if key != setting})
    with pytest.raises(CannotResume, match=f"begun by another command .{setting}: "):
        check_same_capture(without, NOW)
