"""A capture by one process and in parts, and how the two are compared: for the tests of merged and attached runs."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nfinspect as nf
from nfinspect.capturing.classification import classify_tables
from nfinspect.capturing.plan import read_files
from nfinspect.capturing.request import CaptureRequest, PromptFile
from nfinspect.capturing.session import Capture, Listener, load
from nfinspect.capturing.shard import Shard
from nfinspect.capturing.where import parse_where
from nfinspect.models import LoadedModel
from nfinspect_store.reader import RunFile
from nfinspect_store.statistics import NeuronStatistics
from nfinspect_store.verify import verify_run

MakeDir = Callable[[str], Path]

MOMENTS = ("mean", "m2", "m3", "m4", "sum_abs")
ROUNDING = 1e-12
"""Of moments, as a share of what they would be if every value were as large as the largest: sums of the same float64
numbers in another order."""

SAME_TABLES = (
    "prompts",
    "tokens",
    "unrecorded",
    "layers",
    "prompt_means",
    "histograms",
    "examples",
    "routed",
    "activations",
)


@pytest.fixture(scope="session")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """23 prompts of 2 to 30 tokens, three concepts."""
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    rng = np.random.default_rng(11)
    rows = [
        {"text": " ".join(f"w{w}" for w in rng.integers(3, 101, rng.integers(2, 31))), "concept": "abc"[i * i % 3]}
        for i in range(23)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def loaded(model_dir: MakeDir) -> Callable[[str], LoadedModel]:
    made: dict[str, LoadedModel] = {}

    def model(family: str) -> LoadedModel:
        if family not in made:
            made[family] = load(CaptureRequest(str(model_dir(family)), Path("nowhere")))
        return made[family]

    return model


@pytest.fixture
def request_(model_dir: MakeDir, tmp_path: Path, prompts: Path) -> Callable[..., CaptureRequest]:
    def request(family: str = "gpt2", **options: Any) -> CaptureRequest:
        given: dict[str, Any] = {"prompts": (PromptFile(prompts),), "run": "r", "batch_size": 3, **options}
        return CaptureRequest(str(model_dir(family)), tmp_path / "store", **given)

    return request


def captured(request: CaptureRequest, loaded: LoadedModel) -> Path:
    return Capture(request, loaded, Listener(), read_files(request)).run()


def parts_of(request: CaptureRequest, loaded: LoadedModel, count: int) -> list[Path]:
    return [captured(replace(request, shard=Shard(i + 1, count)), loaded) for i in range(count)]


def sound(path: Path) -> None:
    found = verify_run(path, lambda tables, exact: classify_tables(tables, exact=exact))
    assert found.ok, found.problems


def digests(run: RunFile) -> dict[str, tuple[int, int]]:
    return {part: (rows, value) for part, rows, value in run.sql("FROM digests").fetchall()}


def assert_near(one: NeuronStatistics, other: NeuronStatistics) -> None:
    for name in ("n", "fired", "minimum", "maximum"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    largest = np.maximum(np.abs(one.minimum), np.abs(one.maximum)).astype(np.float64)
    for power, name in zip((1, 2, 3, 4, 1), MOMENTS, strict=True):
        most = one.n * largest**power if name != "mean" else largest
        assert (np.abs(getattr(one, name) - getattr(other, name)) <= ROUNDING * most).all(), name


def assert_same(single: Path, merged: Path, *, attached: bool = False) -> None:
    """Everything that users can ask. attached: the values of the merged run, and their digests, are in its parts."""
    with RunFile.open(single) as a, RunFile.open(merged) as b:
        told, found = digests(a), digests(b)
        tables = [name for name in SAME_TABLES if not (attached and name == "activations")]
        assert {name: found.get(name) for name in tables} == {name: told.get(name) for name in tables}
        assert bool(b.attached) == attached
        assert b.info.status == "complete" and b.tokens == a.tokens > 0
        settings = dict(b.info.settings)
        assert settings.pop("merged")["missing"] == []
        worst = settings.pop("worst_error", None)
        own = ("worst_error", "command", "directory")  # of one process, and of who typed it
        assert settings == {name: value for name, value in a.info.settings.items() if name not in own}
        assert worst == a.info.settings.get("worst_error")
        assert b.notes == a.notes
        for layer in a.layers:
            if a.has_values:
                np.testing.assert_array_equal(
                    a.activations(layer.site, layer.layer), b.activations(layer.site, layer.layer)
                )
            mine, others = a.statistics_apart(layer), b.statistics_apart(layer)
            assert mine.keys() == others.keys()
            for first in mine:
                assert_near(mine[first], others[first])
            for concept, one in a.concept_statistics(layer).items():
                other = b.concept_statistics(layer)[concept]
                for name in ("n", "fired", "maximum"):
                    np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
                np.testing.assert_allclose(one.mean, other.mean, rtol=1e-11, atol=1e-12)
        columns = "site, layer, neuron, n, min, max, firing_rate, class, near_dead, rate_upper95, approximate"
        query = f"SELECT {columns} FROM neurons ORDER BY ALL"
        assert a.sql(query).fetchall() == b.sql(query).fetchall()
        counts = "dead, missing, weak, saturated, sporadic"
        query = f"SELECT site, layer, neurons, pattern, {counts} FROM layer_health ORDER BY ALL"
        assert a.sql(query).fetchall() == b.sql(query).fetchall()
        for table in ("neurons", "layer_health", "mamba_delta"):
            one, other = (run.cursor().sql(f"FROM {table} ORDER BY layer, 2, 3").to_arrow_table() for run in (a, b))
            for name in one.column_names:
                if "DOUBLE" in str(a.sql(f"SELECT typeof({name}) FROM {table} LIMIT 1").fetchall()):
                    values = (np.asarray(t.column(name).to_numpy(), np.float64) for t in (one, other))
                    np.testing.assert_allclose(*values, rtol=1e-9, atol=1e-12, err_msg=f"{table}.{name}")
    with nf.open_run(single) as x, nf.open_run(merged) as y:
        ours, theirs = x.trace("a", baseline="b"), y.trace("a", baseline="b")
        assert [(n.layer, n.neuron, n.occurrences) for n in ours.neurons] == [
            (n.layer, n.neuron, n.occurrences) for n in theirs.neurons
        ]
        assert [n.difference for n in ours.neurons] == [n.difference for n in theirs.neurons]
        assert x.health().summary == y.health().summary


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "values": ("gpt2", {}),
    "statistics": ("gpt2", {"keep": "stats"}),
    "sampled": ("gpt2", {"generate": 5, "temperature": 1.0, "seed": 3}),
    "sampled statistics": ("gpt2", {"generate": 5, "temperature": 1.0, "seed": 3, "keep": "stats"}),
    "gates, int8": ("llama", {"sites": ("mlp", "resid"), "precision": "int8", "generate": 3}),
    "gates, float16": ("llama", {"precision": "float16"}),
    "gates, statistics": ("llama", {"sites": ("mlp", "attn", "resid"), "keep": "stats"}),
    "mamba": ("mamba", {"generate": 2}),
    "mamba statistics": ("mamba", {"keep": "stats"}),
    "where": ("gpt2", {"generate": 4, "where": parse_where("answers")}),
    "where few": ("gpt2", {"where": parse_where("tokens=20-")}),
    "where few statistics": ("gpt2", {"where": parse_where("tokens=20-"), "keep": "stats", "seed": 9}),
}


def whole_and_parts(
    case: str, count: int, request_: Callable[..., CaptureRequest], loaded: Callable[[str], LoadedModel]
) -> tuple[Path, list[Path]]:
    """A case captured by one process, and in parts."""
    family, options = CASES[case]
    request = request_(family, **options)
    whole = captured(replace(request, run="whole"), loaded(family))
    return whole, parts_of(request, loaded(family), count)
