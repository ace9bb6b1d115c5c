"""Commands are run as users run them: in a process of their own, with no terminal."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def nfinspect(store: Path, tmp_path: Path) -> Run:
    """Run a command on the store with the planted runs; returns the finished process."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
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
