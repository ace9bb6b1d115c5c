"""`capture` and `demo` on the sample model."""

import json
import shlex
from pathlib import Path

import nfinspect_samples
import pytest
from command_line import Run

from nfinspect.tui.captures import Captures
from nfinspect_store import kernels
from nfinspect_store.catalog import list_runs
from nfinspect_store.verify import verify_run
from nfinspect_store.writer import RunWriter

MODEL = str(nfinspect_samples.path(nfinspect_samples.MODELS[0]))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "tulip.txt"
    file.write_text("The tulips in the garden\nShe bought tulips\n")
    return file


def test_a_capture_makes_a_sound_run_and_never_replaces_one(nfinspect: Run, store: Path, prompts: Path) -> None:
    line = ("capture", MODEL, "--prompts", str(prompts), "--generate", "2", "--run", "mine")
    done = nfinspect(*line, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == "mine"
    path = store / "mine.duckdb"
    assert verify_run(path).problems == ()
    found = json.loads(nfinspect("info", "mine", "--json").stdout)
    assert (found["prompts"], found["concepts"], found["status"]) == (2, ["tulip"], "complete")
    before = path.read_bytes()
    done = nfinspect(*line)
    assert done.returncode == 1 and "already exists" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert path.read_bytes() == before


def test_values_in_fewer_bytes_are_told_of_wherever_a_run_is_described(
    nfinspect: Run, store: Path, prompts: Path
) -> None:
    line = ("capture", MODEL, "--prompts", str(prompts), "--run")
    assert nfinspect(*line, "exact").returncode == 0
    done = nfinspect(*line, "less", "--precision", "int8")
    assert done.returncode == 0, done.stderr
    exact, less = (json.loads(nfinspect("info", name, "--json").stdout) for name in ("exact", "less"))
    assert (exact["precision"], exact["worst_error"], exact["notes"]) == ("float32", {"mlp": 0}, [])
    assert less["precision"] == "int8" and 0 < less["worst_error"]["mlp"] < 1
    told = f"values are stored as int8, each a little off (at most {less['worst_error']['mlp']:.3g} at mlp)"
    assert told in less["notes"][0] and told in nfinspect("info", "less").stdout
    assert told in json.loads(nfinspect("health", "less", "--json").stdout)["notes"][0]
    shown = nfinspect("neuron", "less", "L1/N3", "--json")
    one = json.loads(shown.stdout)
    assert (one["precision"], one["worst_error"]) == ("int8", less["worst_error"]["mlp"])
    assert f"values are int8, at most {one['worst_error']:.3g} off" in shown.stderr
    for command in (("sinks", "--site", "mlp"), ("ngrams",), ("positions", "--allow-few"), ("delta",)):
        done = nfinspect(command[0], "less", *command[1:], "--json")
        assert told in done.stderr and told in json.loads(done.stdout)["notes"][0], command
        assert "stored as" not in nfinspect(command[0], "exact", *command[1:]).stderr
    refused = nfinspect(*line, "none", "--precision", "int8", "--keep", "stats")
    assert refused.returncode == 2 and "stores no values as int8" in refused.stderr


def test_writers_are_a_number_or_auto_and_no_part_of_the_run(nfinspect: Run, store: Path, prompts: Path) -> None:
    line = ("capture", MODEL, "--prompts", str(prompts), "--run", "mine", "--writers")
    for wrong in ("0", "-1", "two", ""):
        refused = nfinspect(*line, wrong)
        assert refused.returncode == 2 and "--writers" in refused.stderr, wrong
    assert nfinspect(*line, "3").returncode == 0
    assert "writers" not in json.loads(nfinspect("info", "mine", "--json").stdout)["settings"]


def test_missing_loops_are_said(nfinspect: Run, prompts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = ("capture", MODEL, "--prompts", str(prompts), "--run")
    assert (kernels.MISSING in nfinspect(*line, "mine").stderr) != kernels.compiled()
    monkeypatch.setattr(kernels, "_kernels", None)
    done = nfinspect(*line, "slow")
    assert done.returncode == 0 and done.stderr.splitlines().count(kernels.MISSING) == 1


def test_the_model_is_found_again_from_another_directory(
    nfinspect: Run, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").symlink_to(MODEL)
    done = nfinspect("capture", "./here", "--prompts", str(prompts), "--run", "mine")
    assert done.returncode == 0, done.stderr
    assert json.loads(nfinspect("info", "mine", "--json").stdout)["model"] == str(Path(MODEL).resolve())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    done = nfinspect("delta", "mine", "--substitute", "--draws", "2", "--json")
    assert done.returncode == 0, done.stderr


def test_an_estimate_captures_nothing(nfinspect: Run, store: Path, prompts: Path) -> None:
    done = nfinspect("capture", MODEL, "--prompts", f"tulip={prompts}", "--estimate", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == {"tokens", "values", "bytes", "seconds", "memory_bytes", "free_bytes", "fits"}
    assert found["values"] == found["tokens"] * found["values"] // found["tokens"] > 0
    assert found["fits"] and found["free_bytes"] > found["bytes"]
    assert {entry.name for entry in list_runs(store)} == {"planted", "stats"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("capture", "no/such-directory/model"), "model"),
        (("capture", MODEL, "--prompts", "nowhere.txt"), "nowhere.txt"),
        (("capture", MODEL, "--prompts", "empty.txt"), "empty.txt"),
        (("capture", MODEL, "--prompts", "broken.json"), "broken.json"),
        (("capture", MODEL, "--prompts", "tulip.txt", "--run", "a/b"), "slash"),
        (("capture", MODEL, "--prompts", "tulip.txt", "--sites", "mixer"), "mixer"),
        (("capture", MODEL, "--prompts", "tulip.txt", "--layers", "99"), "99"),
        (("capture", MODEL, "--prompts", "tulip.txt", "--dtype", "float7"), "float7"),
        (("capture", MODEL, "--prompts", "tulip.txt", "--device", "abacus"), "abacus"),
    ],
    ids=lambda value: " ".join(value[2:]) if isinstance(value, tuple) else None,
)
def test_what_cannot_be_captured_is_said_in_one_line(
    nfinspect: Run, store: Path, tmp_path: Path, prompts: Path, arguments: tuple[str, ...], expected: str
) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "broken.json").write_text('{"prompts": [')
    extra = () if "--prompts" in arguments else ("--prompts", str(prompts))
    done = nfinspect(*arguments, *extra, HF_HUB_OFFLINE="1")
    assert done.returncode in (1, 2)
    assert done.stdout == "" and len(done.stderr.splitlines()) == 1, done.stderr
    assert expected in done.stderr
    assert "unexpected" not in done.stderr
    assert {file.name for file in store.glob("*.duckdb*")} == {"planted.duckdb", "stats.duckdb"}


def test_the_demo_prints_health_traces_and_overlap_without_a_terminal(nfinspect: Run, store: Path) -> None:
    done = nfinspect("demo", COLUMNS="80")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Health ")
    for concept in ("tulip", "vietnam", "hanoi", "violent"):
        assert f"\n{concept} (" in done.stdout
    assert "Shared by the top" in done.stdout
    assert max(map(len, done.stdout.splitlines()[:-1])) <= 80  # the last line ends with a path
    written = (store / "demo.duckdb").stat().st_mtime_ns
    assert nfinspect("demo", "--headless").returncode == 0
    assert (store / "demo.duckdb").stat().st_mtime_ns == written  # opened, not captured again


def test_an_interrupted_run_tells_the_command_that_goes_on_with_it(nfinspect: Run, store: Path, prompts: Path) -> None:
    line = ("capture", MODEL, "--prompts", f"flower={prompts}", "--generate", "2", "--layers", "0", "--keep", "stats")
    assert nfinspect(*line, "--truncate", "--run", "mine").returncode == 0
    captures = Captures(store)
    assert captures.resume_line("mine") == "", "it is complete"
    writer = RunWriter.reopen(store / "mine.duckdb")
    writer.mark("interrupted")
    writer.close()
    told = shlex.split(captures.resume_line("mine"))
    assert set(told) == {"nfinspect", *line, "--truncate", "--store", str(store.resolve()), "--run", "mine", "--resume"}
    done = nfinspect(*told[1:])
    assert done.returncode == 0, done.stderr
    assert json.loads(nfinspect("info", "mine", "--json").stdout)["status"] == "complete"
