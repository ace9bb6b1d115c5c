"""Neurons by kind: classes of the run, and what analyses found and kept."""

from dataclasses import replace

import numpy as np
import pytest
from analysis_runs import MakeRun, array_prompt, mlp_layers
from kept_kinds import keep_attention, keep_kind

from nfinspect.analyses import spec
from nfinspect.analyses.neuron_kinds import NoKeptResult, check_kinds, command, find_kind, kept_over_all_layers, newest
from nfinspect.analyses.positions import positions
from nfinspect.analysis.delta import delta
from nfinspect.analysis.ngrams import ngrams
from nfinspect_store.errors import RequestError, StoreError
from nfinspect_store.reader import RunFile
from nfinspect_store.results import keep_result, run_results
from nfinspect_store.types import Keep, Layer

NEURONS, TOKENS, PROMPTS = 12, 20, 110
DEAD = {(0, 0), (1, 0), (1, 11)}


def case(make_run: MakeRun, keep: Keep = "all") -> RunFile:
    """ReLU noise; L0/N3 fires on token 7 alone, L1/N4 in the first half alone, L1/N6 on every other token."""
    rng = np.random.default_rng(4)
    ids = rng.integers(0, 50, (PROMPTS, TOKENS))
    prompts = [replace(array_prompt("a", TOKENS), token_ids=row) for row in ids.tolist()]
    values = {n: np.maximum(rng.normal(size=(PROMPTS * TOKENS, NEURONS)), 0).astype(np.float32) for n in range(2)}
    # Slow noise: no step is larger than what a value stays at.
    for n in range(2):
        values[n] = np.repeat(values[n][:: TOKENS // 4], TOKENS // 4, axis=0)
    for layer, neuron in DEAD:
        values[layer][:, neuron] = 0
    place = np.tile(np.arange(TOKENS), PROMPTS)
    values[0][:, 3] = ids.reshape(-1) == 7
    values[1][:, 4] = place < TOKENS // 2
    values[1][:, 6] = place % 2
    layers = mlp_layers(2, NEURONS, "relu")
    layers += [Layer(2 + i, "resid", i, f"h.{i}", 3, "", "scale") for i in range(2)]
    values |= {2 + n: rng.normal(size=(PROMPTS * TOKENS, 3)).astype(np.float32) for n in range(2)}
    return make_run(layers, prompts, values, keep=keep)


def test_each_kind_is_what_its_analysis_finds(make_run: MakeRun) -> None:
    run = case(make_run)
    detectors, positional, changing = ngrams(run), positions(run), delta(run)
    folder, run_id = run_results(run.path), run.info.run_id
    keep_result(folder, "ngrams", {"n": 1, "site": "mlp"}, detectors.to_json(), run_id=run_id)
    keep_result(folder, "positions", {"site": "mlp"}, positional.to_json(), run_id=run_id)
    keep_result(folder, "delta", {"site": "mlp"}, changing.to_json(), run_id=run_id)
    assert set(find_kind(run, "dead").neurons) == DEAD
    assert find_kind(run, "ngrams1").neurons == find_kind(run, "ngram").neurons == ((0, 3),)
    assert find_kind(run, "positional").neurons == ((1, 4), (1, 6))
    sensitive = find_kind(run, "delta")
    assert sensitive.neurons == tuple(sorted((x.layer, x.neuron) for x in changing.delta_sensitive))
    assert (1, 6) in sensitive.neurons and len(sensitive.neurons) < 2 * NEURONS - len(DEAD)
    assert not DEAD & {*sensitive.neurons, *find_kind(run, "positional").neurons}
    joined = find_kind(run, " Ngrams1+dead ")
    assert (joined.name, joined.parts) == ("ngrams1+dead", ("ngrams1", "dead"))
    assert joined.neurons == tuple(sorted({(0, 3), *DEAD}))
    assert [str(address) for address in find_kind(run, "ngrams1").addresses] == ["mlp:L0/N3"]


def test_the_newest_fitting_result_counts(make_run: MakeRun) -> None:
    run = case(make_run)
    keep_kind(run, "positions", [(0, 1)], length=10)
    keep_kind(run, "positions", [(0, 2)], length=20)
    keep_kind(run, "positions", [(1, 5)], layers=[1])  # not all layers of the site
    keep_kind(run, "positions", [(0, 0)], site="resid")
    keep_kind(run, "positions", [(0, 7)], length=5, layers=[0, 1])
    keep_result(run_results(run.path), "positions", {"of": "another run"}, {"neurons": []}, run_id="another")
    assert find_kind(run, "positional").neurons == ((0, 7),)
    assert find_kind(run, "positional", "resid").neurons == ((0, 0),)
    for n, place in ((1, (0, 3)), (2, (1, 3)), (3, (0, 4))):
        keep_kind(run, "ngrams", [place], n=n)
        assert find_kind(run, f"ngrams{n}").neurons == find_kind(run, "ngram").neurons == (place,)


def test_results_about_another_model_of_the_same_name_do_not_count(make_run: MakeRun) -> None:
    run = case(make_run)
    document = {"neurons": [{"layer": 0, "neuron": 1}], "layers": [{"layer": i, "neurons": 99} for i in range(2)]}
    keep_result(run_results(run.path), "positions", {"site": "mlp"}, document, run_id=run.info.run_id)
    assert newest(run, "positional", "mlp") is None
    document["layers"] = [{"layer": i, "neurons": NEURONS} for i in range(2)]
    keep_result(run_results(run.path), "positions", {"site": "mlp"}, document, run_id=run.info.run_id)
    assert newest(run, "positional", "mlp") is not None


def test_attention_takes_the_first_of_all_scores(make_run: MakeRun) -> None:
    run = case(make_run)
    order = [(layer, neuron) for neuron in range(NEURONS) for layer in (1, 0)]
    keep_attention(run, order)
    assert find_kind(run, "attention", top=3).neurons == ((0, 0), (1, 0), (1, 1))
    assert find_kind(run, "attention").neurons == tuple(sorted(order[:20]))
    assert len(find_kind(run, "attention", top=23).neurons) == 23  # more than the document lists
    own = keep_result(
        run_results(run.path),
        "attention",
        {"site": "mlp", "of_run": run.name},
        {"site": "mlp", "method": "rollout", "neurons": [{"layer": 1, "neuron": 7}], "notes": []},
        run_id=run.info.run_id,
    )
    assert newest(run, "attention", "mlp") == own  # made over the run's own prompts, and later
    assert find_kind(run, "attention").neurons == ((1, 7),)


def test_what_has_not_been_made_names_its_command(make_run: MakeRun) -> None:
    run = case(make_run)
    with pytest.raises(NoKeptResult, match=rf"ngrams2 .* nfinspect ngrams {run.name} --n 2 first"):
        find_kind(run, "ngrams2")
    assert command(run, "positional") == f"nfinspect positions {run.name}"
    assert command(run, "positional", "resid") == f"nfinspect positions {run.name} --site resid"
    with pytest.raises(RequestError, match="'ded'.*dead.*positional"):
        check_kinds("dead+ded")
    with pytest.raises(RequestError, match="no site 'attn'"):
        find_kind(run, "dead", "attn")


def test_statistics_alone_do_not_tell_what_is_delta_sensitive(make_run: MakeRun) -> None:
    run = case(make_run, keep="stats")
    keep_kind(run, "delta", [])
    with pytest.raises(StoreError, match="did not keep every value"):
        find_kind(run, "delta")


def test_ablations_of_a_site(make_run: MakeRun) -> None:
    run = case(make_run)
    folder, run_id, in_format = run_results(run.path), run.info.run_id, spec("ablate").format
    for sets in ({"a": ["L0/N1"], "b": ["mlp:L1/N2"]}, {"c": ["resid:L0/N1"]}, {"d": ["L0/N1", "resid:L0/N2"]}):
        settings = {"sets": sets}
        keep_result(folder, "ablation", settings, {"model_of_run": True}, run_id=run_id, in_format=in_format)
    # Another model without the run's neurons says nothing of the run's own.
    settings = {"sets": {"e": ["L0/N3"]}}
    keep_result(folder, "ablation", settings, {"model_of_run": False}, run_id=run_id, in_format=in_format)
    assert [list(one.settings["sets"]) for one in kept_over_all_layers(run, spec("ablate"), "mlp")] == [["a", "b"]]
    assert [list(one.settings["sets"]) for one in kept_over_all_layers(run, spec("ablate"), "resid")] == [["c"]]
