"""Every command on every hostile run file: nothing leaks, nothing is written, nothing is called sound, one line ends.

All of them take minutes: `make faults` asks for them by NFINSPECT_EVERY_HOSTILE_FILE; the whole suite takes a few.
"""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from hostile import UNSAFE
from hostile_files import ESCAPES, NAMES, PROGRAMS, make

from nfinspect.capturing.arrays import ArrayPrompt, write_run
from nfinspect.cli import main
from nfinspect_store.types import Layer

EVERY = bool(os.environ.get("NFINSPECT_EVERY_HOSTILE_FILE"))
SOME = (
    "view run",
    "macro max",
    "settings deep",
    "neurons negative",
    "histograms short",
    ESCAPES,
)

SECRET = "nobody may read this"
SECONDS = 10.0

COMMANDS: tuple[tuple[str, ...], ...] = (
    ("runs",),
    ("info", "h", "--json"),
    ("neuron", "h", "L0/N1"),
    ("trace", "h", "--concept", "one"),
    ("sql", "h", "FROM neurons"),
    ("verify", "h"),
)
MORE: tuple[tuple[str, ...], ...] = (
    ("runs", "--json"),
    ("info", "h"),
    ("health", "h"),
    ("neurons", "h"),
    ("neurons", "h", "--json"),
    ("overlap", "h", "--concepts", "one,two"),
    ("ngrams", "h"),
    ("positions", "h"),
    ("delta", "h"),
    ("sql", "h", "FROM activations", "--format", "json"),
    ("migrate", "h"),
    ("export", "h", "--out", "exported"),
    ("verify", "h", "--json"),
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "sound.duckdb"
    layers = [Layer(i, "mlp", i, f"h.{i}", 6, "relu", "positive") for i in range(2)]
    prompts = [
        ArrayPrompt(("one", "two", "baseline")[i % 3], f"p {i}", list(range(9)), [f" w{j}" for j in range(9)], 7)
        for i in range(9)
    ]

    def values(prompt: int, layer: Layer) -> np.ndarray:
        return np.random.default_rng([prompt, layer.layer_id]).normal(size=(9, 6)).astype(np.float32)

    write_run(path, layers=layers, prompts=prompts, values=values)
    return path


@pytest.mark.parametrize(
    "name", NAMES if EVERY else [*SOME, pytest.param("tokens by the million", marks=pytest.mark.slow)]
)
def test_a_hostile_file_harms_nobody(
    name: str, sound: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, written, store = tmp_path / "secret.txt", tmp_path / "written", tmp_path / "store"
    secret.write_text(SECRET)
    store.mkdir()
    monkeypatch.chdir(tmp_path)
    path = make(store / "h.duckdb", name, sound, secret, written)
    before = path.read_bytes()
    capfd.readouterr()
    for command in (*COMMANDS, *MORE) if EVERY else COMMANDS:
        started = time.monotonic()
        status = main([*command, "--store", str(store)])
        took = time.monotonic() - started
        out, err = capfd.readouterr()
        said = f"{command}: {status} {err}"
        assert SECRET not in out + err, said
        assert not UNSAFE.search(out + err), said
        assert "this is a bug" not in err and "Traceback" not in err, said
        if status and command[0] != "verify":
            assert len(err.strip().splitlines()) == 1 or command[0] == "export", said
        if command[0] == "verify":
            assert status == 1, said
        elif name in PROGRAMS and command[0] != "runs":
            assert status == 1 and not out, said
        assert took < SECONDS or not EVERY, f"{said} took {took:.0f} s"
    assert path.read_bytes() == before and not written.exists() and secret.read_text() == SECRET
