"""Massive activations: planted ones, on planted tokens, beside plain numpy."""

import json
from dataclasses import replace

import numpy as np
import pytest
from analysis_runs import MakeRun, array_prompt, mlp_layers
from numpy.typing import NDArray

from nfinspect import analyses
from nfinspect.analyses import formats, spec
from nfinspect.analyses.sinks import LARGE, TIMES, Sinks, median_size, sinks
from nfinspect.analysis.provenance import results_about
from nfinspect.figures.sections import sections_of
from nfinspect.present.charts import Absent
from nfinspect.results import find_or_compute
from nfinspect_store.errors import RequestError, StoreError
from nfinspect_store.reader import RunFile
from nfinspect_store.results import keep_result, run_results
from nfinspect_store.types import Layer

PROMPTS, TOKENS, WIDTH = 6, 20, 24
RESID = [Layer(i, "resid", i, f"h.{i}", WIDTH, "", "scale") for i in range(3)]


def planted(seed: int) -> dict[int, NDArray[np.float32]]:
    """Layer 1: neuron 5 is massive at each position 0, neuron 7 on one later token; neuron 9 is large only."""
    rng = np.random.default_rng(seed)
    values = {i: rng.normal(scale=0.05, size=(PROMPTS * TOKENS, WIDTH)).astype(np.float32) for i in range(3)}
    values[1][::TOKENS, 5] = -400
    values[1][3 * TOKENS + 11, 7] = 150
    values[1][:, 9] = 30
    return values


def run_of(make_run: MakeRun, values: dict[int, NDArray[np.float32]], layers: list[Layer] = RESID) -> RunFile:
    return make_run(layers, [array_prompt("a", TOKENS) for _ in range(PROMPTS)], values)


@pytest.mark.parametrize("seed", range(3))
def test_planted_ones_are_found_with_their_tokens(make_run: MakeRun, seed: int) -> None:
    values = planted(seed)
    run = run_of(make_run, values)
    found = sinks(run, "resid")
    assert [(one.layer, one.neuron, one.max, one.count, one.first) for one in found.coordinates] == [
        (1, 5, 400.0, PROMPTS, PROMPTS),
        (1, 7, 150.0, 1, 0),
    ]
    assert found.first_token_share == pytest.approx(PROMPTS / (PROMPTS + 1))
    assert [(layer.massive, layer.sinks) for layer in found.layers] == [(0, 0), (2, PROMPTS + 1), (0, 0)]
    for layer in found.layers:
        sizes = np.abs(values[layer.layer])
        assert layer.median == pytest.approx(float(np.median(sizes)), rel=1e-3)
        assert layer.max == sizes.max()
    rows = run.prompt_tokens(3)
    assert [(token.token, token.count, token.max) for token in found.coordinates[1].tokens] == [
        (rows.token[11], 1, 150.0)
    ]
    assert found.coordinates[0].ratio == pytest.approx(400 / found.layers[1].median)


def test_the_limits_are_both_exceeded(make_run: MakeRun) -> None:
    """In a layer whose values are large all over, what exceeds 100 is not massive; the options say otherwise."""
    values = planted(1)
    values[1][:, 10:] = 1.0 + values[1][:, 10:]  # the median is near 1
    run = run_of(make_run, values)
    assert sinks(run, "resid").coordinates == ()
    assert [one.neuron for one in sinks(run, "resid", times=100).coordinates] == [5, 7]
    assert [one.neuron for one in sinks(run, "resid", times=25, large=20).coordinates] == [5, 7, 9]
    assert sinks(run, "resid", times=100).first_token_share == pytest.approx(PROMPTS / (PROMPTS + 1))
    assert (LARGE, TIMES) == (100, 1000)


@pytest.mark.parametrize("size", [1, 2, 7, 1000, 100_003])
def test_the_median_is_that_of_numpy(make_run: MakeRun, size: int) -> None:
    values = np.random.default_rng(size).lognormal(size=(size, 3)).astype(np.float32)
    values[::2] *= -1
    run = make_run(mlp_layers(1, 3, "gelu"), [array_prompt("a", size)], {0: values})
    low, high = np.sort(np.abs(values).ravel())[[(values.size - 1) // 2, values.size // 2]]
    assert low * (1 - 2**-11) <= median_size(run, run.layers[0]) <= high * (1 + 2**-11)


def test_a_layer_that_is_silent_has_a_median_of_0(make_run: MakeRun) -> None:
    values = {i: np.zeros((PROMPTS * TOKENS, WIDTH), np.float32) for i in range(3)}
    values[2][4, 3] = 200
    found = sinks(run_of(make_run, values), "resid")
    assert [(one.layer, one.neuron, one.median, one.ratio) for one in found.coordinates] == [(2, 3, 0.0, None)]
    assert found.layers[0].median == 0 and found.layers[0].max == 0


def test_it_is_kept_and_read_again(make_run: MakeRun) -> None:
    run = run_of(make_run, planted(2))
    result, found = find_or_compute(spec("sinks"), run)
    again, same = find_or_compute(spec("sinks"), run)
    assert result.made_at == again.made_at and same == found == sinks(run, "resid")
    assert Sinks.from_json(json.loads(json.dumps(found.to_json()))) == found
    other, _ = find_or_compute(spec("sinks"), run, times=10.0)
    assert other.path != result.path


def test_what_is_kept_in_another_format_counts_as_not_kept(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(make_run, planted(2))
    result, _ = find_or_compute(spec("sinks"), run)
    assert [kept.path for kept in results_about(run, "sinks", formats())] == [result.path]
    later = replace(spec("sinks"), format=spec("sinks").format + 1)
    monkeypatch.setattr(analyses, "specs", lambda: (later,))
    assert results_about(run, "sinks", formats()) == ()
    again, _ = find_or_compute(later, run)
    assert again.path == result.path and again.made_at > result.made_at
    assert [kept.made_at for kept in results_about(run, "sinks", formats())] == [again.made_at]


@pytest.mark.parametrize("document", [{}, {"site": "resid", "coordinates": [{"neuron": 1}], "layers": []}])
def test_a_report_takes_a_document_of_another_form_for_none(make_run: MakeRun, document: dict[str, object]) -> None:
    run = run_of(make_run, planted(0))
    keep_result(run_results(run.path), "sinks", {"site": "resid"}, document, run_id=run.info.run_id)
    (section,) = [one for one in sections_of(run, "resid") if one.name == "massive-activations"]
    assert isinstance(section, Absent) and section.command == f"nfinspect sinks {run.name}"


def test_what_cannot_be_had(make_run: MakeRun) -> None:
    values = {0: np.ones((PROMPTS * TOKENS, 4), np.float32)}
    mlp = run_of(make_run, values, mlp_layers(1, 4, "relu"))
    with pytest.raises(RequestError, match="resid"):
        find_or_compute(spec("sinks"), mlp)
    assert "and this is mlp" in sinks(mlp).notes[0]
    stats = make_run(RESID, [array_prompt("a", TOKENS) for _ in range(PROMPTS)], planted(0), keep="stats")
    with pytest.raises(StoreError, match="statistics only"):
        sinks(stats, "resid")


@pytest.mark.parametrize("name", ["neuron_kinds", "spec", "", "..models", "nowhere"])
def test_a_name_that_is_no_analysis_imports_nothing(name: str) -> None:
    """Names come from files, too, which may be a stranger's."""
    with pytest.raises(KeyError):
        spec(name)
