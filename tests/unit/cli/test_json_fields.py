"""docs/json.md tells every field of every document, and none that is not there."""

import json
import re
from pathlib import Path
from typing import Any

import nfinspect_samples
import numpy as np
import pytest
from command_line import Run

from nfinspect.capturing.arrays import ArrayPrompt, write_run
from nfinspect_store.types import Layer

PAGE = (Path(__file__).parents[3] / "docs/json.md").read_text(encoding="utf-8")
GPT2, MAMBA = (str(nfinspect_samples.path(name)) for name in sorted(nfinspect_samples.MODELS))
PROMPTS, LENGTH, NEURONS = 110, 24, 8
ANY = "any"
"""The shape of an object whose keys are data, or that is told elsewhere."""

OF_RUNS = {
    "runs": "runs",
    "backends": "backends",
    "info": "info study",
    "verify": "verify study",
    "migrate": "migrate study",
    "export": "export study --out exported",
    "simulate": "simulate --layers 2 --neurons 60 --tokens 256 --run simulated",
    "health": "health study",
    "diff": "diff study study",
    "marks": "marks --run study --add L0/N3 --note L0/N4 even",
    "neurons": "neurons study",
    "neuron": "neuron study L0/N4",
    "trace": "trace study --concept one",
    "overlap --concepts": "overlap study --concepts one,two --top 6",
    "overlap --kinds": "overlap study --kinds normal,positional",
    "ngrams": "ngrams study",
    "positions": "positions study",
    "delta": "delta study",
    "similar": "similar study L0/N4",
}
OF_MODELS = {
    "capture": f"capture {GPT2} --prompts one.txt --run other",
    "merge": "merge merged mine.part-1-of-1",
    "walk": f"walk other --model {GPT2}",
    "capture --estimate": f"capture {GPT2} --prompts one.txt --estimate",
    "attention": f"attention {GPT2} --prompts one.txt",
    "logits": f"logits {GPT2} L1/N5",
    "logits --lens": f"logits {GPT2} --lens Tulips",
    "ablate": f"ablate {GPT2} --text one.txt --neurons neurons.txt --context 8",
    "generate": f"generate {GPT2} Tulips --new-tokens 3 --zero L0/N1",
    "text": "text Tulips",
    "delta": "delta mamba --substitute --draws 8",
}


def shapes() -> dict[str, Any]:
    """What the page says of each command: dicts, lists of one shape, None for a value; keys may end in `?`."""
    lines = re.findall(r"^ {4}(.*)$", PAGE, re.MULTILINE)
    found: dict[str, str] = {}
    name = ""
    for line in lines:
        if line[0] != " ":
            name, _, line = line.partition("  ") if re.search(r"  [\[{]", line) else (line, "", "")
        found[name] = found.get(name, "") + line
    return {name: Shape(re.findall(r"[\w?]+|[\[\]{}]", text)).value() for name, text in found.items()}


class Shape:
    """Reads `{a, b[], c?{d}}`."""

    def __init__(self, words: list[str]) -> None:
        self._words = words

    def value(self) -> Any:
        opening = self._words[0] if self._words else ""
        if opening == "[":
            return [self._inside("]", self.value)]
        if opening == "{":
            return self._inside("}", self._fields)
        return None

    def _inside(self, closing: str, read: Any) -> Any:
        self._words.pop(0)
        found = read()
        assert self._words.pop(0) == closing
        return found

    def _fields(self) -> Any:
        fields = {}
        while self._words[0] != "}":
            name = self._words.pop(0)
            fields[name] = self.value()
        return fields or ANY


def compare(document: Any, shape: Any, place: str) -> None:
    """Raises AssertionError where a document is of another shape. Lists are compared by their first element."""
    if shape == ANY:
        assert isinstance(document, dict), place
    elif isinstance(shape, list):
        assert isinstance(document, list), place
        for one in document[:1]:
            compare(one, shape[0], f"{place}[]")
    elif isinstance(shape, dict):
        assert isinstance(document, dict), place
        required = {name for name in shape if name[-1] != "?"}
        assert required <= set(document) <= {name.rstrip("?") for name in shape}, place
        for name, inner in shape.items():
            if name.rstrip("?") in document:
                compare(document[name.rstrip("?")], inner, f"{place}.{name}")
    elif place != "runs[].progress":
        assert not isinstance(document, dict | list), place


@pytest.fixture
def study(nfinspect: Run, store: Path, tmp_path: Path) -> Run:
    """A run in which every analysis finds something: a detector, a positional neuron, one that never rests."""
    ids = np.random.default_rng(0).integers(0, 40, (PROMPTS, LENGTH))

    def values(prompt: int, layer: Layer) -> np.ndarray:
        found = np.maximum(np.random.default_rng(prompt).normal(size=(LENGTH, NEURONS)), 0).astype(np.float32)
        found[:, 0] = 0
        found[:, 1] = ids[prompt] == 7
        found[:, 2] = np.arange(LENGTH) < LENGTH // 2
        found[:, 3] = np.arange(LENGTH) % 2
        return found

    prompts = [
        ArrayPrompt(("one", "two", "baseline")[i % 3], "text", row, [f" {x}" for x in row], LENGTH)
        for i, row in enumerate(ids.tolist())
    ]
    layers = [Layer(0, "mlp", 0, "h.0.mlp", NEURONS, "relu", "positive")]
    write_run(store / "study.duckdb", layers=layers, prompts=prompts, values=values)
    (tmp_path / "one.txt").write_text("Tulips are red.\nTulips grow in the garden.\n")
    (tmp_path / "neurons.txt").write_text("L0/N1\n")
    return nfinspect


def check(run: Run, name: str, line: str) -> Any:
    done = run(*line.split(), "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    compare(document, shapes()[name], name)
    return document


def test_shapes_are_read() -> None:
    assert Shape(["{", "a", "b", "[", "]", "c?", "{", "d", "}", "e", "{", "}", "}"]).value() == {
        "a": None,
        "b": [None],
        "c?": {"d": None},
        "e": ANY,
    }
    for document in ({"a": 1}, {"a": 1, "b": [{"c": 2}], "d": 3}, {"a": 1, "b": [{"d": 2}]}, {"a": [], "b": []}):
        with pytest.raises(AssertionError):
            compare(document, {"a": None, "b": [{"c": None}]}, "x")
    assert set(shapes()) == {*OF_RUNS, *OF_MODELS, "report"}


def test_documents_of_a_run(study: Run) -> None:
    found = {name: check(study, name, line) for name, line in OF_RUNS.items()}
    assert found["ngrams"]["detectors"] and found["positions"]["neurons"] and found["delta"]["delta_sensitive"]
    assert found["overlap --concepts"]["pairs"][0]["shared"] and found["overlap --kinds"]["pairs"][0]["shared"]


def test_documents_with_a_model(study: Run) -> None:
    study("capture", MAMBA, "--prompts", "one.txt", "--run", "mamba")
    study("capture", GPT2, "--prompts", "one.txt", "--run", "mine", "--shard", "1/1")
    found = {name: check(study, name, line) for name, line in OF_MODELS.items()}
    assert found["delta"]["mamba_delta"] and found["delta"]["substitution"]
    assert found["text"]["neural_firing_analysis"]["processing_stages"][1]["reports"]


@pytest.mark.slow
def test_the_document_of_a_report(study: Run) -> None:
    check(study, "report", "report study --out page")


def test_the_saved_results_of_a_run(study: Run) -> None:
    assert json.loads(study("info", "study", "--results", "--json").stdout)["results"] == []
    for command in (("ngrams",), ("positions",), ("ngrams", "--n", "2")):
        assert study(command[0], "study", *command[1:]).returncode == 0
    check(study, "info", "info study --results")
    found = json.loads(study("info", "study", "--results", "--json").stdout)["results"]
    assert [one["kind"] for one in found] == ["ngrams", "ngrams", "positions"]
    shown = study("info", "study", "--results").stdout
    assert all(f"{one['kind']}, {one['made_at'][:16].replace('T', ' ')}: {one['about']}" in shown for one in found)


def test_documents_of_several_runs(study: Run, store: Path) -> None:
    for name in ("ngrams", "positions"):
        (store / "again.duckdb").write_bytes((store / "study.duckdb").read_bytes())
        done = study(name, "--runs", "study,again", "--json")
        assert done.returncode == 0, done.stderr
        first, second = json.loads(done.stdout)["runs"]
        assert (first.pop("run"), second.pop("run")) == ("study", "again")
        assert first.pop("edits") is second.pop("edits") is None
        compare(first, shapes()[name], name)
        assert [layer["depth"] for layer in second["layers"]] == [0]
