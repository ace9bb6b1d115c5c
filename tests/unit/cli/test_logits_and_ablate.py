"""`logits` and `ablate` on the sample models."""

import importlib
import json
import shutil
from pathlib import Path

import nfinspect_samples
import pytest
from command_line import Run

from nfinspect.analyses.ablate import SPEC, Ablation
from nfinspect.cli import main
from nfinspect.cli.analysis import lines

ablate = importlib.import_module("nfinspect.cli.ablate")  # where nfinspect.cli has names, it has the command

GPT2 = str(nfinspect_samples.path("gpt2-relu"))
MAMBA = str(nfinspect_samples.path("mamba"))
TEXT = str(nfinspect_samples.path("corpus", "tulip.txt"))
SHORT = ("--max-tokens", "40", "--context", "32")


@pytest.fixture
def neurons(tmp_path: Path) -> Path:
    file = tmp_path / "marked.txt"
    file.write_text("L0/N1\nL0/N2\nL3/N5\n")
    return file


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two prompt files, and a store with a run of the sample model over them."""
    folder, prompts = tmp_path_factory.mktemp("captured"), []
    for concept, words in (("tulip", "Tulips are red.\nTulips grow."), ("baseline", "The chair stood.\nHe sat.")):
        (folder / f"{concept}.txt").write_text(words)
        prompts += ["--prompts", str(folder / f"{concept}.txt")]
    assert main(["capture", GPT2, *prompts, "--run", "gpt2", "--store", str(folder / "store")]) == 0
    return folder


@pytest.fixture
def captured(made: Path, store: Path, tmp_path: Path) -> str:
    """The run in the test's own store, the prompts in its folder."""
    for file in made.glob("*.txt"):
        shutil.copy2(file, tmp_path)
    shutil.copytree(made / "store", store, dirs_exist_ok=True)
    return "gpt2"


def test_logits_of_a_neuron(nfinspect: Run) -> None:
    found = json.loads(nfinspect("logits", GPT2, "L2/N17", "--json").stdout)
    assert (found["site"], found["layer"], found["neuron"]) == ("mlp", 2, 17)
    assert len(found["promoted"]) == len(found["suppressed"]) == 10
    assert found["promoted"][0]["effect"] > 0 > found["suppressed"][0]["effect"]
    shown = nfinspect("logits", MAMBA, "resid:L1/N3", "--top", "3", COLUMNS="80").stdout
    assert "L1/N3 at resid" in shown and max(map(len, shown.splitlines())) <= 80


def test_a_neuron_of_a_run_is_at_the_default_site_of_the_run(nfinspect: Run, captured: str) -> None:
    """Which need not be the model's: L0/N5 of a run of `resid` alone is a coordinate of the stream."""
    done = nfinspect("capture", GPT2, "--prompts", "tulip.txt", "--sites", "resid", "--run", "stream")
    assert done.returncode == 0, done.stderr
    found = nfinspect("logits", GPT2, "L0/N5", "--from", "stream", "--json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["site"] == "resid"
    assert found.stdout == nfinspect("logits", GPT2, "resid:L0/N5", "--json").stdout
    assert json.loads(nfinspect("logits", GPT2, "L0/N5", "--from", captured, "--json").stdout)["site"] == "mlp"


def test_the_logit_lens(nfinspect: Run) -> None:
    found = json.loads(nfinspect("logits", GPT2, "--lens", "She planted the", "--top", "2", "--json").stdout)
    assert [layer["layer"] for layer in found["layers"]] == [0, 1, 2, 3]
    assert found["layers"][-1]["answer_rank"] == 1
    assert found["layers"][-1]["top"][0] == found["answer"]
    shown = nfinspect("logits", MAMBA, "--lens", "She planted\x1b[31m", COLUMNS="80").stdout
    assert len(shown.splitlines()) >= 6 and "\x1b" not in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_the_lens_after_every_token_is_kept_and_found_again(nfinspect: Run, tmp_path: Path) -> None:
    line = ("logits", GPT2, "--lens", "She planted", "--positions", "--store", str(tmp_path / "lenses"))
    first = nfinspect(*line)
    shown = first.stdout.splitlines()
    tokens = json.loads(nfinspect(*line, "--json").stdout)["prompt_tokens"]
    assert "".join(tokens) == "She planted"
    rows = shown[shown.index("") + 3 :]
    assert [row[: len(token) + 2] for row, token in zip(rows, tokens, strict=True)] == [f'"{t}"' for t in tokens]
    again = nfinspect(*line)
    assert "kept from" in again.stderr and "kept from" not in first.stderr
    assert again.stdout == first.stdout
    (folder,) = (tmp_path / "lenses").iterdir()
    assert folder.name == "gpt2-relu.model.results" and len(list(folder.iterdir())) == 1


def test_ablation_of_a_file_is_kept_and_found_again(nfinspect: Run, store: Path, neurons: Path) -> None:
    line = ("ablate", GPT2, "--text", TEXT, "--neurons", str(neurons), *SHORT, "--json")
    done = nfinspect(*line)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["tokens"], found["context"], found["stride"]) == (39, 32, 16)
    (one,) = found["sets"]
    assert (one["name"], one["neurons"], one["mode"], one["control"]["count"]) == ("marked", 3, "zero", 20)
    assert one["delta_nll"] == pytest.approx(one["nll"] - found["baseline"]["nll"], abs=1e-9)
    (kept,) = (store / "gpt2-relu.model.results").glob("ablation-*.duckdb")
    again = nfinspect(*line)
    assert json.loads(again.stdout) == found
    assert "--recompute computes it again" in again.stderr
    before = kept.stat().st_mtime_ns
    assert json.loads(nfinspect(*line, "--recompute").stdout) == found  # to the last digit
    assert kept.stat().st_mtime_ns > before
    neurons.write_text("L0/N1\n")
    assert json.loads(nfinspect(*line, "--controls", "0").stdout)["sets"][0]["neurons"] == 1


def test_sets_of_a_run_stand_in_one_table(nfinspect: Run, store: Path, neurons: Path, captured: str) -> None:
    line = ("ablate", GPT2, "--text", TEXT, "--from", captured, "--class", "dead", "--trace", "tulip", "--top", "4",
            "--neurons", str(neurons), *SHORT)  # fmt: skip
    done = nfinspect(*line, "--controls", "0", "--json")
    assert done.returncode == 0, done.stderr
    rows = {one["name"]: one for one in json.loads(done.stdout)["sets"]}
    assert list(rows) == ["marked", "dead", "trace:tulip"]
    assert (rows["marked"]["neurons"], rows["trace:tulip"]["neurons"]) == (3, 4)
    listed = json.loads(nfinspect("neurons", captured, "--class", "dead", "--top", "100000", "--json").stdout)
    assert rows["dead"]["neurons"] == len(listed)
    assert list((store / "gpt2.results").glob("ablation-*.duckdb"))
    shown = nfinspect(*line, "--controls", "0", COLUMNS="80").stdout
    assert max(map(len, shown.splitlines())) <= 80
    means = nfinspect(*line, "--controls", "0", "--mode", "mean", "--json")
    assert {one["mode"] for one in json.loads(means.stdout)["sets"]} == {"mean"}


def test_without_a_set_it_prints_the_perplexity_of_the_text(nfinspect: Run, store: Path, neurons: Path) -> None:
    line = ("ablate", GPT2, "--text", TEXT, *SHORT)
    done = nfinspect(*line, "--json")
    assert done.returncode == 0, done.stderr
    alone = json.loads(done.stdout)
    beside = json.loads(nfinspect(*line, "--neurons", str(neurons), "--controls", "0", "--json").stdout)
    assert alone["sets"] == [] and alone["tokens"] == 39
    assert alone["baseline"] == beside["baseline"]
    again = nfinspect(*line)
    assert "kept from" in again.stderr
    figure = next(row.split()[1] for row in again.stdout.splitlines() if row.startswith("perplexity"))
    assert float(figure) == pytest.approx(alone["baseline"]["perplexity"], rel=1e-4)
    kept = {path.name.partition("-")[0] for path in (store / "gpt2-relu.model.results").iterdir()}
    assert kept == {"ablation", "perplexity"}  # the app and the report show sets: they find none without


def test_a_run_with_too_little_text_of_its_own_asks_for_another(nfinspect: Run, captured: str) -> None:
    done = nfinspect("ablate", GPT2, "--from", captured, "--class", "normal")
    assert done.returncode == 1 and "expected 10 or more sequences" in done.stderr
    assert done.stderr.splitlines()[-1].endswith("or give another text with --text FILE")


def test_a_text_is_looked_up_once(nfinspect: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the hub is fetched each time."""
    asked: list[str] = []
    real = ablate.text_path
    monkeypatch.setattr(ablate, "text_path", lambda text: (asked.append(text), real(text))[1])
    assert nfinspect("ablate", GPT2, "--text", TEXT, "--max-tokens", "9", "--context", "8").returncode == 0
    assert asked == [TEXT]


def test_an_empty_set_is_said_and_the_others_are_cut_out(nfinspect: Run, captured: str, neurons: Path) -> None:
    line = ("ablate", GPT2, "--text", TEXT, "--from", captured, *SHORT, "--controls", "0", "--json")
    listed = nfinspect("neurons", captured, "--class", "saturated", "--json").stdout
    assert json.loads(listed) == []
    done = nfinspect(*line, "--class", "saturated", "--class", "dead", "--neurons", str(neurons))
    assert done.returncode == 0, done.stderr
    assert [one["name"] for one in json.loads(done.stdout)["sets"]] == ["marked", "dead"]
    assert "no neuron of gpt2 at mlp is saturated: there is nothing to take; the set is left out\n" in done.stderr


def test_a_share_takes_the_strongest_neurons_of_a_kind(nfinspect: Run, captured: str) -> None:
    sensitive = json.loads(nfinspect("delta", captured, "--json").stdout)["neurons"]
    sensitive = [row for row in sensitive if row["delta_sensitive"]]
    share = 0.01  # of 4 layers of 768 neurons
    assert len(sensitive) > 31
    line = ("ablate", GPT2, "--text", TEXT, "--from", captured, "--class", "delta", "--share", str(share))
    done = nfinspect(*line, *SHORT, "--controls", "0", "--json")
    assert done.returncode == 0, done.stderr
    (one,) = json.loads(done.stdout)["sets"]
    assert (one["name"], one["neurons"]) == ("delta 1%", 31)
    assert "delta: the 31 largest by step_sensitivity, 31 being a share of 0.01 of the 3,072" in done.stderr


def test_the_interval_is_whole_in_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")

    def row(name: str, neurons: int, delta: float, ci95: list[float], mean: float) -> dict[str, object]:
        control = {"count": 20, "mean_delta_nll": mean, "sd": 1e-5, "z": -123.456, "p_value": 0.047619}
        return {"name": name, "neurons": neurons, "mode": "zero", "nll": 4.0, "perplexity": 54.598150, "ci95": ci95,
                "delta_nll": delta, "control": control}  # fmt: skip

    document = {
        "model": "m", "tokens": 39, "text": "t", "context": 32, "stride": 16,
        "bootstrap": {"units": 3, "resampled": "windows"},
        "baseline": {"nll": 4.0, "perplexity": 54.598150},
        "sets": [
            row("trace:a long concept's name", 12345, -1.234567e-05, [-1.234567e-05, -1.0987e-05], -1.234567e-05),
            row("dead+positional", 1, 0.00123456, [0.00112, 0.00134], 0.0001),
        ],
    }  # fmt: skip
    shown = lines(SPEC, Ablation(document))
    assert max(map(len, shown)) <= 80
    assert " -1.23e-5 to -1.10e-5 " in shown[-2] and " 0.00112 to 0.00134 " in shown[-1]
    assert "-123.5" in shown[-2] and "0.048" in shown[-2]


def test_neurons_that_are_dead_on_the_text_itself_cost_exactly_nothing(nfinspect: Run) -> None:
    done = nfinspect("capture", GPT2, "--text", TEXT, "--max-tokens", "200", "--context", "200", "--run", "same")
    assert done.returncode == 0, done.stderr
    line = ("ablate", GPT2, "--text", TEXT, "--from", "same", "--class", "dead", "--max-tokens", "200")
    found = json.loads(nfinspect(*line, "--context", "200", "--controls", "0", "--json").stdout)
    (dead,) = found["sets"]
    assert dead["neurons"] >= 50
    assert (dead["delta_nll"], dead["nll"]) == (0.0, found["baseline"]["nll"])


def test_a_mamba_is_ablated(nfinspect: Run, neurons: Path) -> None:
    found = json.loads(nfinspect("ablate", MAMBA, "--text", TEXT, "--neurons", str(neurons), *SHORT, "--json").stdout)
    assert found["sets"][0]["delta_nll"] != 0


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        (("logits", GPT2), 2, "--lens TEXT"),
        (("logits", GPT2, "L0/N1", "--lens", "x"), 2, "--lens TEXT"),
        (("logits", GPT2, "5"), 2, "L5/N123"),
        (("logits", GPT2, "L0/N1", "--positions"), 2, "go with --lens"),
        (("logits", GPT2, "L4/N0"), 2, "between 0 and 3"),
        (("logits", GPT2, "L0/N768"), 2, "neurons 0-767"),
        (("logits", GPT2, "--lens", ""), 2, "one token or more"),
        (("logits", "nowhere/at/all", "L0/N0"), 1, "nowhere"),
        (("ablate", GPT2, "--neurons", "marked.txt"), 2, "--text"),
        (("ablate", GPT2, "--from", "planted", "--class", "dead", "--bos", "none"), 2, "--bos go with --text"),
        (("ablate", GPT2, "--text", "nowhere.txt", "--neurons", "marked.txt"), 2, "nowhere.txt"),
        (("ablate", GPT2, "--text", TEXT, "--neurons", "nowhere.txt"), 2, "nowhere.txt"),
        (("ablate", GPT2, "--text", TEXT, "--neurons", "empty.txt"), 2, "found none"),
        (("ablate", GPT2, "--text", TEXT, "--neurons", "wrong.txt"), 2, "wrong.txt:2"),
        (("ablate", GPT2, "--text", TEXT, "--neurons", "outside.txt"), 2, "neurons 0-767"),
        (("ablate", GPT2, "--text", TEXT, "--neurons", "marked.txt", "--mode", "mean"), 2, "--from RUN"),
        (("ablate", GPT2, "--text", TEXT, "--class", "dead"), 2, "--from RUN"),
        (("ablate", GPT2, "--text", TEXT, "--from", "nowhere", "--class", "dead"), 1, "no run 'nowhere'"),
        (("ablate", GPT2, "--text", TEXT, "--from", "planted", "--class", "ded"), 2, "positional"),
        (("ablate", GPT2, "--text", TEXT, "--from", "planted", "--class", "missing"), 2, "missing"),
        (
            ("ablate", GPT2, "--text", TEXT, "--from", "planted", "--class", "missing", "--class", "weak"),
            2,
            "is missing: there is nothing to take; no neuron of planted at mlp is weak",
        ),
        (("ablate", GPT2, "--text", TEXT, "--neurons", "marked.txt", "--share", "0.1"), 2, "--class positional, delta"),
        (("ablate", GPT2, "--text", TEXT, "--from", "planted", "--class", "dead", "--share", ".1"), 2, "no strength"),
        (("ablate", GPT2, "--text", TEXT, "--from", "planted", "--class", "delta", "--share", "0"), 2, "0<x<=1"),
        (("ablate", GPT2, "--text", TEXT, "--from", "planted", "--class", "delta", "--share", "nan"), 2, "found nan"),
        (("ablate", GPT2, "--text", "hf:no-such/thing", "--neurons", "marked.txt"), 1, "hf:./folder"),
        (("ablate", GPT2, "--text", TEXT, "--neurons", "marked.txt", "--controls", "5"), 2, "20 or more"),
        (("ablate", GPT2, "--text", TEXT, "--neurons", "marked.txt", "--context", "999"), 2, "from 2 to 256"),
        (("ablate", GPT2, "--text", "empty.txt", "--neurons", "marked.txt"), 2, "two tokens or more"),
        (
            ("ablate", GPT2, "--text", TEXT, "--neurons", "marked.txt", "--context", "8", "--stride", "9"),
            2,
            "--stride from 1",
        ),
    ],
    ids=lambda value: " ".join(value[2:]).replace(TEXT, "TEXT") if isinstance(value, tuple) else None,
)
def test_bad_input_ends_in_one_line(
    nfinspect: Run, tmp_path: Path, neurons: Path, arguments: tuple[str, ...], status: int, expected: str
) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "wrong.txt").write_text("L0/N1\nneuron\n")
    (tmp_path / "outside.txt").write_text("L0/N768\n")
    done = nfinspect(*arguments, HF_HUB_OFFLINE="1")
    assert done.returncode == status, done.stderr
    assert done.stdout == "" and expected in done.stderr
    assert len(done.stderr.splitlines()) == 1
