"""A command that cannot be started says so, and leaves no file open behind it."""

import gc
import warnings

import pytest

from nfinspect.tui import jobs


@pytest.mark.parametrize("arguments", [("runs", "\0"), ("x" * 5_000_000,)])
def test_a_command_that_cannot_be_started(arguments: tuple[str, ...]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(jobs.JobFailed, match="cannot start nfinspect") as failed:
            jobs.Job(arguments)
        assert "\n" not in str(failed.value)
        del failed
        gc.collect()
    assert [warning for warning in caught if issubclass(warning.category, ResourceWarning)] == []
