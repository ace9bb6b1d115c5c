"""The strongest neurons at a token, against the run's own values; texts part by part."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nfinspect.analysis import prompt_text
from nfinspect.analysis.prompt_text import read_part
from nfinspect.analysis.token_neurons import (
    SiteFigures,
    at_token,
    read_below,
    site_figures,
    unusual_tokens,
)
from nfinspect_store.errors import RequestError
from nfinspect_store.histogram import BINS, bin_of
from nfinspect_store.reader import RunFile
from tests.walked_run import LONG, STRANGE, texts, write_walked


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("walked")


@pytest.fixture(scope="module")
def run(folder: Path) -> Iterator[RunFile]:
    with RunFile.open(write_walked(folder / "all.duckdb")) as run:
        yield run


@pytest.fixture(scope="module")
def figures(run: RunFile) -> SiteFigures:
    found = site_figures(run, "mlp")
    return replace(found, below=read_below(run, found.layers))


def test_value_finds_the_large_neuron_and_z_the_one_that_is_far_from_its_own_mean(
    run: RunFile, figures: SiteFigures
) -> None:
    by_value, by_z = (at_token(run, figures, 5, rank, 10).neurons for rank in ("value", "z"))
    assert (by_value[0].layer, by_value[0].neuron, by_value[0].value) == (1, 5, 8.0)
    assert (by_z[0].layer, by_z[0].neuron) == (2, 3), "0.9, where it is else within 0.1 of 0"
    assert by_value[1].value != by_z[1].value
    assert [abs(one.value) for one in by_value] == sorted((abs(one.value) for one in by_value), reverse=True)


@pytest.mark.parametrize("rank", ["value", "z", "percentile"])
@pytest.mark.parametrize("layer", [None, 1])
def test_every_figure_is_that_of_the_values(run: RunFile, figures: SiteFigures, rank: str, layer: int | None) -> None:
    token = 700
    found = at_token(run, figures, token, rank, 7, layer)  # type: ignore[arg-type]
    every = {}
    for one in figures.layers:
        values = run.activations("mlp", one.layer).astype(np.float64)
        for neuron in range(one.neurons):
            own = values[:, neuron]
            z = (own[token] - own.mean()) / own.std(ddof=1)
            every[(one.layer, neuron)] = (own[token], z, 100 * (own < own[token]).mean())
    for row in found.neurons:
        value, z, percentile = every[(row.layer, row.neuron)]
        assert row.value == pytest.approx(value)
        assert row.z == pytest.approx(z)
        assert row.percentile == pytest.approx(percentile, abs=6), "exact to the bin of a histogram"
        assert row.contribution is None
    if rank != "percentile":
        measure = {"value": 0, "z": 1}[rank]
        among = [abs(told[measure]) for (at, _), told in every.items() if layer in (None, at)]
        assert len(found.neurons) == 7
        shown = [abs(every[(row.layer, row.neuron)][measure]) for row in found.neurons]
        assert shown == pytest.approx(sorted(among, reverse=True)[:7])
        assert found.ranked == len(among)


def test_a_percentile_says_no_more_than_the_tokens_can(figures: SiteFigures) -> None:
    values = np.linspace(-3, 5, 20, dtype=np.float32)
    below = np.cumsum([0, *np.bincount(bin_of(values), minlength=BINS)[:-1]])
    ends = {"minimum": values[:1], "maximum": values[-1:], "mean": values[:1], "std": values[-1:]}
    few = SiteFigures(
        figures.layers[:1], np.array([0, 1]), np.array([20]), **ends, below=below[None].astype(np.float32)
    )
    assert few.percentile(values[-1:], slice(None)) == pytest.approx(97.5)
    assert few.percentile(values[:1], slice(None)) == pytest.approx(2.5)


def test_the_extremes_of_a_neuron_are_at_the_ends(run: RunFile, figures: SiteFigures) -> None:
    every = np.arange(figures.starts[-1])
    tokens = run.tokens
    assert figures.percentile(figures.maximum, every) == pytest.approx(100 * (1 - 0.5 / tokens))
    assert figures.percentile(figures.minimum, every) == pytest.approx(100 * 0.5 / tokens)


def test_contribution_is_the_size_times_the_length_of_the_output_weights(run: RunFile, figures: SiteFigures) -> None:
    norms = np.linspace(0.1, 3, len(figures.mean)).astype(np.float32)
    norms[3] = np.nan
    found = at_token(run, replace(figures, norms=norms), 40, "contribution", 200)
    assert len(found.neurons) == len(norms) - 1, "a neuron whose weights are not known is not ranked"
    values = run.token_values(40, "mlp")
    expected = np.sort(np.abs(values) * norms)[::-1][1:]  # NaN first
    assert [row.contribution for row in found.neurons] == pytest.approx(expected.tolist())
    with pytest.raises(RequestError, match="not known"):
        at_token(run, figures, 40, "contribution")


def test_a_layer_is_unusual_where_all_its_neurons_are(run: RunFile, figures: SiteFigures) -> None:
    layers = at_token(run, figures, 8).layers
    assert max(layers, key=lambda one: one.unusual or 0).layer == 0
    assert [one.layer for one in layers] == [0, 1, 2]
    found = unusual_tokens(run, figures, 0, 3, 600)
    values = run.activations("mlp", 0).astype(np.float64)
    z = (values - values.mean(axis=0)) / values.std(axis=0, ddof=1)
    assert found == pytest.approx(np.sqrt((z**2).mean(axis=1))[3:600])
    assert found[8 - 3] == pytest.approx(layers[0].unusual)
    assert found.argmax() == 8 - 3


def test_neurons_that_never_vary_are_not_unusual(run: RunFile, figures: SiteFigures) -> None:
    std = figures.std.copy()
    std[:16] = 0
    std[16] = np.nan
    still = replace(figures, std=std)
    layers = at_token(run, still, 8).layers
    assert layers[0].unusual is None
    assert layers[1].unusual is not None
    assert np.isnan(unusual_tokens(run, still, 0, 0, 9)).all()
    assert not np.isnan(unusual_tokens(run, still, 1, 0, 9)).any()


def test_of_statistics_alone_the_examples_are_known(folder: Path) -> None:
    with RunFile.open(write_walked(folder / "stats.duckdb", keep="stats")) as run:
        figures = site_figures(run, "mlp")
        found = at_token(run, figures, 5)
        assert found.examples
        assert found.layers == ()
        assert (found.neurons[0].layer, found.neurons[0].neuron, found.neurons[0].value) == (1, 5, 8.0)
        held = {
            (one.layer, neuron)
            for one in figures.layers
            for neuron in range(one.neurons)
            if 5 in [example.token_idx for example in run.examples("mlp", one.layer, neuron)]
        }
        assert {(row.layer, row.neuron) for row in found.neurons} == held
        assert {(row.layer, row.neuron) for row in at_token(run, figures, 5, layer=1).neurons} == {
            one for one in held if one[0] == 1
        }
        with pytest.raises(RequestError, match="no token"):
            at_token(run, figures, run.tokens)


def read_whole(run: RunFile, prompt_idx: int) -> tuple[str, list[str]]:
    """All parts, one after the other: their text, and each token's own characters."""
    text, tokens, place, number = "", [], 0, 0
    size = run.prompt_size(prompt_idx)
    while place < size:
        part = read_part(run, prompt_idx, number)
        assert part.start == place, "no token is read twice or left out"
        text += part.whole.text
        tokens += [part.whole.token(i) for i in range(len(part.rows.token))]
        place, number = part.stop, number + 1
    return text, tokens


@pytest.mark.parametrize(
    "size", [pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow), 3, 5, 7, 512]
)
def test_parts_join_to_the_text_wherever_they_are_cut(run: RunFile, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {i: read_whole(run, i) for i in range(3)}
    monkeypatch.setattr(prompt_text, "PART", size)
    for i, written in enumerate(texts()):
        text, tokens = read_whole(run, i)
        assert text == b"".join(written.tokens).decode()
        assert tokens == whole[i][1]
    for number in range(-(-len(STRANGE.encode()) // size)):
        assert not read_part(run, 1, number).whole.text.startswith("\u0301"), "its letter is in the part before"


def test_a_token_that_is_not_recorded_is_in_the_text(folder: Path) -> None:
    with RunFile.open(write_walked(folder / "odd.duckdb", where=True)) as run:
        part = read_part(run, 0, 0)
        assert part.whole.text == "The red tulip\nof Hanoi and of Vietnam."
        assert part.rows.token_idx.tolist() == [-1, 0, -1, 1, -1, 2, -1, 3, -1, 4]
        assert run.prompt_size(0) == 10
        assert run.prompt_tokens(0, 3, 6).token == ["\n", "of", " Hanoi"]
        assert run.prompt_size(2) == LONG
