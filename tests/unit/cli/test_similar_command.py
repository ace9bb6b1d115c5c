"""`similar` on a capture of the sample model: values from the store, weights from the model itself."""

import json
from pathlib import Path

import nfinspect_samples
import numpy as np
import pytest
from command_line import Run
from safetensors.numpy import load_file

from nfinspect_store.reader import RunFile

GPT2 = nfinspect_samples.path("gpt2-relu")


@pytest.fixture
def captured(nfinspect: Run, tmp_path: Path) -> str:
    (tmp_path / "a.txt").write_text("Tulips are red.\nTulips grow in the garden.\nThe chair stood in a room.\n")
    done = nfinspect("capture", str(GPT2), "--prompts", "a.txt", "--run", "gpt2")
    assert done.returncode == 0, done.stderr
    return "gpt2"


def firing(store: Path, run: str) -> tuple[str, int]:
    with RunFile.open(store / f"{run}.duckdb") as file:
        values = file.activations("mlp", 1)
        return f"L1/N{int(np.argmax((values > 0).sum(axis=0)))}", len(values)


def test_values_and_weights(nfinspect: Run, captured: str, store: Path) -> None:
    address, tokens = firing(store, captured)
    first = nfinspect("similar", captured, address, "--json")
    assert first.returncode == 0, first.stderr
    found = json.loads(first.stdout)
    assert found["of"] == f"mlp:{address}" and found["n"] == tokens and found["output"] == []
    sizes = [abs(row["correlation"]) for row in found["neurons"]]
    assert len(sizes) == 100 and sizes == sorted(sizes, reverse=True)
    assert "kept from" in nfinspect("similar", captured, address).stderr

    done = nfinspect("similar", captured, address, "--weights", "--json")
    assert done.returncode == 0, done.stderr
    weighed = json.loads(done.stdout)
    assert [row["correlation"] for row in weighed["neurons"]] == [row["correlation"] for row in found["neurons"]]
    assert weighed["gate"] == [] and weighed["weights"]
    best = weighed["output"][0]
    weights = load_file(next(Path(GPT2).glob("*.safetensors")))
    neuron = int(address.partition("N")[2])

    def row(layer: int, number: int) -> np.ndarray:
        name = next(name for name in weights if name.endswith(f"h.{layer}.mlp.c_proj.weight"))
        return np.asarray(weights[name][number], np.float64)

    own, other = row(1, neuron), row(best["layer"], best["neuron"])
    cosine = own @ other / np.sqrt((own @ own) * (other @ other))
    assert best["output_cosine"] == pytest.approx(cosine, abs=1e-5)
    assert abs(weighed["input"][0]["input_cosine"]) >= abs(best["input_cosine"])
    shown = nfinspect("similar", captured, address, "--weights", "--top", "3", COLUMNS="80")
    assert "by the weights of output" in shown.stdout and max(map(len, shown.stdout.splitlines())) <= 80


def test_what_is_refused_is_refused_in_a_line(nfinspect: Run, captured: str) -> None:
    for line, said in (
        (("L9/N0",), "no layer 9"),
        (("L0",), "a neuron is written L5/N123"),
        (("L0/N0", "--model", "elsewhere"), "go with --weights"),
        (("L0/N0", "--site", "attn"), "no site 'attn'"),
    ):
        done = nfinspect("similar", captured, *line)
        assert done.returncode != 0 and said in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    nfinspect("capture", str(GPT2), "--prompts", "a.txt", "--run", "stats", "--keep", "stats")
    done = nfinspect("similar", "stats", "L0/N1")
    assert done.returncode == 1 and "statistics only (--keep stats): expected one that keeps every value" in done.stderr
