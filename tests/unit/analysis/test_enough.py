"""A headline says what it rests on where that is too little."""

from collections.abc import Callable
from math import comb

import numpy as np
import pytest
from analysis_runs import MakeRun, array_prompt, mlp_layers

from nfinspect.analysis import enough
from nfinspect.analysis.contrasts import auroc
from nfinspect.analysis.delta import delta
from nfinspect.analysis.health import network_report
from nfinspect.analysis.ngrams import NgramAnalysis, ngrams
from nfinspect.analysis.overlap import overlap
from nfinspect.analysis.trace import trace
from nfinspect_store.reader import RunFile

NEURONS = 400


def run_of(make_run: MakeRun, prompts: int, length: int) -> RunFile:
    """Half of the prompts are of each concept, and no neuron knows which."""
    values = np.maximum(np.random.default_rng(0).normal(size=(prompts * length, NEURONS)), 0).astype(np.float32)
    texts = [array_prompt("ab"[i % 2], length) for i in range(prompts)]
    return make_run(mlp_layers(1, NEURONS, "relu"), texts, {0: values})


NOTES: dict[str, Callable[[RunFile], tuple[str, ...]]] = {
    "health": lambda run: network_report(run).notes,
    "ngrams": lambda run: ngrams(run).notes,
    "delta": lambda run: delta(run).notes,
    "trace": lambda run: trace(run, "a", "b").notes,
    "overlap": lambda run: overlap(run, ["a", "b"], "").notes,
}


@pytest.mark.parametrize("name", ["health", "ngrams", "delta", "trace"])
def test_a_few_short_prompts_are_said_and_many_are_not(make_run: MakeRun, name: str) -> None:
    said = NOTES[name](run_of(make_run, 4, 7))
    assert any(
        word in note
        for note in said
        for word in ("only 28 tokens", "only 24 tokens", "only 20 steps", "2 prompts against 2")
    ), said
    assert not [note for note in NOTES[name](run_of(make_run, 60, 60)) if "only" in note or "against" in note]


def test_the_bound_is_the_rule_of_three(make_run: MakeRun) -> None:
    """Dead on 28 tokens: a rate of up to 3/28 is possible."""
    report = network_report(run_of(make_run, 4, 7))
    assert "up to 11 %" in report.notes[0] and report.tokens == 28
    assert "over 28 tokens" in report.summary
    assert report.to_json()["notes"] == list(report.notes)
    assert "100 %" in enough.few_tokens(1) and "only 1 token:" in enough.few_tokens(1)
    assert enough.few_tokens(0).startswith("only 0 tokens: ") and "100 %" in enough.few_tokens(0)


def test_one_unit_has_no_interval_to_beware_of() -> None:
    assert enough.few_units(1, "windows") == "there is no interval: the text is one window only"
    assert "drawn from 2 windows" in enough.few_units(2, "windows") and enough.few_units(10, "documents") == ""


@pytest.mark.parametrize(("concept", "baseline"), [(1, 3), (2, 2), (3, 4)])
def test_how_many_separate_by_chance(concept: int, baseline: int) -> None:
    """Against a count of neurons that know nothing."""
    rng = np.random.default_rng(1)
    neurons = 200_000
    values = rng.normal(size=(concept + baseline, neurons)).astype(np.float32)
    found = int((auroc(values[:concept], values[concept:]) == 1).sum())
    expected = neurons / comb(concept + baseline, concept)
    assert abs(found - expected) < 5 * expected**0.5
    said = enough.separated_by_chance("a", [(concept, baseline, neurons)])
    assert f"about {expected:,.0f} would" in said
    assert enough.separated_by_chance("a", [(12, 12, neurons)]) == ""


def test_neurons_with_few_prompts_separate_by_chance_beside_those_with_many() -> None:
    """Of 800 neurons 7 against 7 do about 0.2, and 3 against 1 a quarter; of 1,600 of both kinds about 200."""
    assert enough.separated_by_chance("a", [(7, 7, 800)]) == ""
    said = enough.separated_by_chance("a", [(7, 7, 800), (3, 1, 800)])
    assert said.startswith("a: 3 to 7 prompts against 1 to 7: of 1,600 neurons") and "about 200 would" in said


def test_notes_are_no_part_of_what_is_kept(make_run: MakeRun) -> None:
    found = ngrams(run_of(make_run, 4, 7))
    assert NgramAnalysis.from_json(found.to_json()) == found and found.to_json()["notes"]
