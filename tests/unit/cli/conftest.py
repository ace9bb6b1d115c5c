"""Commands on a store with the planted runs: in this process, or in one of their own."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "models"), str(Path(__file__).parents[2])]

from command_line import Finished, Run  # noqa: E402  (its folder has just been put on the path)


@pytest.fixture
def nfinspect(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call the entry point; returns what a finished process would show."""
    from nfinspect.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NFINSPECT_STORE", str(store))
    monkeypatch.setattr("sys.stdin", io.StringIO())

    def run(*arguments: str, **environment: str) -> Finished:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        status = main(arguments)
        shown = capsys.readouterr()
        return subprocess.CompletedProcess(list(arguments), status, shown.out, shown.err)

    return run


@pytest.fixture
def process(store: Path, tmp_path: Path) -> Run:
    """Run a command as users run it, in a process of its own without a terminal."""

    def run(*arguments: str, **environment: str) -> Finished:
        return subprocess.run(
            [sys.executable, "-m", "nfinspect", *arguments],
            cwd=tmp_path,
            env={**os.environ, "NFINSPECT_STORE": str(store), "PYTHONIOENCODING": "utf-8", **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )

    return run
