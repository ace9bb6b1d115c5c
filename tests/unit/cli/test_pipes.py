"""What a pipe holds is read once: from `<(…)` of a shell, and from a named one."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import nfinspect_samples
import pytest
from command_line import Run

GPT2 = str(nfinspect_samples.path(min(nfinspect_samples.MODELS)))
LINES = "The tulips in the garden\nShe bought a bunch of tulips at the market"

Pipe = Callable[[str, Path], AbstractContextManager[str]]


@contextmanager
def of_a_shell(content: str, folder: Path) -> Iterator[str]:
    """As `<(…)`: whoever opens it again finds nothing more."""
    read, write = os.pipe()
    os.write(write, content.encode())
    os.close(write)
    try:
        yield f"/dev/fd/{read}"
    finally:
        os.close(read)


@contextmanager
def of_a_name(content: str, folder: Path) -> Iterator[str]:
    """As mkfifo: whoever opens it again waits, and finds other words in the end."""
    path = folder / "pipe.txt"
    os.mkfifo(path)
    over = threading.Event()

    def write() -> None:
        path.write_text(content)
        while not over.wait(2):
            try:
                file = os.open(path, os.O_WRONLY | os.O_NONBLOCK)  # ENXIO where nobody waits
            except OSError:
                continue
            os.write(file, b"Something else")
            os.close(file)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    try:
        yield str(path)
    finally:
        over.set()
        writer.join(10)
        path.unlink()


@pytest.mark.parametrize(
    ("option", "pipe"), [("--prompts", of_a_shell), ("--prompts", of_a_name), ("--text", of_a_name)]
)
def test_a_capture_reads_a_pipe_once(option: str, pipe: Pipe, nfinspect: Run, tmp_path: Path) -> None:
    with pipe(LINES, tmp_path) as name:
        done = nfinspect("capture", GPT2, "--layers", "0", "--keep", "stats", "--run", "r", option, name)
    assert done.returncode == 0, done.stderr
    held = nfinspect("sql", "r", "SELECT text FROM prompts ORDER BY prompt_idx", "--format", "json")
    texts = [row["text"] for row in json.loads(held.stdout)]
    assert texts == (LINES.split("\n") if option == "--prompts" else [LINES])


def test_an_estimate_reads_a_pipe_once(nfinspect: Run, tmp_path: Path) -> None:
    with of_a_shell(LINES, tmp_path) as name:
        done = nfinspect("capture", GPT2, "--layers", "0", "--estimate", "--json", "--prompts", name)
    assert done.returncode == 0 and json.loads(done.stdout)["tokens"] > 10, done.stderr


def test_attention_reads_a_pipe_once_and_has_no_answer_for_it_from_before(nfinspect: Run, tmp_path: Path) -> None:
    counts = []
    for content, option in ((LINES, "--prompts"), ("A tulip", "--prompts")):
        with of_a_name(content, tmp_path) as name:
            done = nfinspect("attention", GPT2, "--layers", "0", "--json", option, name)
        assert done.returncode == 0, done.stderr
        counts.append(json.loads(done.stdout)["samples"])
    assert counts == [2, 1]
