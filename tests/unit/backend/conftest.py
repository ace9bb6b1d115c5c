"""The sample model, and a backend of it in a process of its own, which a module's tests share."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))

from running_backends import SAMPLES, ended, started, wait_until  # noqa: E402  (its folder has just been put there)

from nfinspect.backend.directory import FOLDER  # noqa: E402


@pytest.fixture(scope="session")
def model() -> Path:
    """The sample model: loaded in the backend only, not in the tests' own process."""
    return SAMPLES / "gpt2-relu"


@pytest.fixture(scope="session")
def text() -> Path:
    return sorted((SAMPLES / "corpus").glob("*.txt"))[0]


@pytest.fixture(scope="module")
def shared(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store with one backend of the tiny model, called `gpt2`. Nothing of it is left afterwards."""
    store = tmp_path_factory.mktemp("shared") / "store"
    process, backend = started(store, model, "--id", "gpt2")
    try:
        with backend:
            wait_until(lambda: backend.status().state == "ready")
        yield store
    finally:
        status = ended(process)
    assert status == 0, (store / "stderr.txt").read_text()
    assert not (store / FOLDER).exists()
