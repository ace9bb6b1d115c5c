"""Two runs neuron by neuron: planted deaths, awakenings and moves, and the tests of rates against scipy's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nfinspect.analysis.diff import FIGURES, cohens_h, diff, rate_p_values
from nfinspect.analysis.fail_if import parse_expression
from nfinspect.capturing.arrays import ArrayPrompt, write_run
from nfinspect_store.errors import RequestError
from nfinspect_store.reader import RunFile
from nfinspect_store.types import Layer

PROMPTS, LENGTH, NEURONS = 10, 40, 12


def a_run(
    path: Path,
    *,
    dead: tuple[int, ...],
    rare: tuple[int, ...] = (),
    neurons: int = NEURONS,
    first: int = 0,
    sites: tuple[str, ...] = ("mlp",),
) -> Path:
    """Every neuron fires on half of the tokens, `rare` ones on a tenth, dead ones on none."""

    def values(prompt: int, layer: Layer) -> np.ndarray:
        found = np.random.default_rng((prompt, 1)).random((LENGTH, neurons)).astype(np.float32) + 0.5
        found[::2] = 0
        found[np.arange(LENGTH) % 10 > 0][:, list(rare)] = 0
        found[np.ix_(np.arange(LENGTH) % 10 != 1, list(rare))] = 0
        found[:, list(dead)] = 0
        return found

    ids = range(first, first + LENGTH)
    prompts = [ArrayPrompt("one", "text", list(ids), [f" {x}" for x in ids], LENGTH) for _ in range(PROMPTS)]
    places = [(site, i) for site in sites for i in range(2)]
    layers = [Layer(n, site, i, f"h.{i}.{site}", neurons, "relu", "positive") for n, (site, i) in enumerate(places)]
    write_run(path, layers=layers, prompts=prompts, values=values)
    return path


def of(a: Path, b: Path, **options: Any) -> Any:
    with RunFile.open(a) as one, RunFile.open(b) as other:
        return diff(one, other, **options)


def test_planted_truths(tmp_path: Path) -> None:
    a = a_run(tmp_path / "a.duckdb", dead=(0, 1))
    found = of(a, a_run(tmp_path / "b.duckdb", dead=(1, 2, 3), rare=(4,)))
    told = {(row.layer, row.neuron): row.change for row in found.neurons}
    assert {n: told[0, n] for n in range(5) if (0, n) in told} == {0: "woke", 2: "died", 3: "died", 4: "moved"}
    assert (found.died, found.woke, found.moved, found.compared) == (4, 2, 2, 2 * NEURONS)
    pairs = {(pair.class_a, pair.class_b): pair.neurons for pair in found.classes}
    assert pairs["dead", "dead"] == 2 and pairs["normal", "dead"] == 4 and sum(pairs.values()) == found.compared
    moved = next(row for row in found.neurons if row.change == "moved")
    assert (moved.firing_rate_a, moved.firing_rate_b) == (0.5, 0.1)
    assert moved.effect_size == pytest.approx(2 * np.arcsin(0.1**0.5) - 2 * np.arcsin(0.5**0.5))
    assert moved.q_value < 1e-10 and found.health.b < found.health.a
    assert [row.change for row in found.neurons[:6]].count("moved") == 0
    figures = found.figures()
    assert set(figures) == set(FIGURES) and figures["dead"] == 2 and figures["health"] < 0
    (few,) = found.notes
    assert few.startswith("a: only ") and "may still come alive" in few, "the run of fewer tokens bounds what is said"
    same = of(a, a)
    assert not same.neurons and same.health.a == same.health.b and not any(same.figures()[n] for n in FIGURES[:-1])


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    a = a_run(tmp_path / "a.duckdb", dead=())
    with pytest.raises(RequestError, match="L0: a has 12 neurons, b has 11"):
        of(a, a_run(tmp_path / "b.duckdb", dead=(), neurons=11))
    texts = a_run(tmp_path / "texts.duckdb", dead=(), first=7)
    with pytest.raises(RequestError, match="read other texts"):
        of(a, texts)
    assert "read other texts" in of(a, texts, other_texts=True).notes[-1]
    attn, both = (a_run(tmp_path / f"{'-'.join(x)}.duckdb", dead=(), sites=x) for x in (("attn",), ("mlp", "attn")))
    with pytest.raises(RequestError, match="only attn; the runs have no site in common"):
        of(a, attn, site="mlp")
    with pytest.raises(RequestError, match="only attn; both have attn: choose it with --site"):
        of(both, attn, site="mlp")
    with pytest.raises(RequestError, match="site"):
        of(a, a, site="resid")


def test_p_values_are_those_of_the_books() -> None:
    from scipy import stats

    rng = np.random.default_rng(0)
    n_a, n_b = np.repeat([400.0, 12.0, 300.0], 20), np.repeat([400.0, 900.0, 80.0], 20)
    a = np.floor(rng.random(60) ** 3 * (n_a + 1))
    b = np.floor(rng.random(60) ** 3 * (n_b + 1))
    a[:4], b[:4] = (0, 0, 400, 3), (0, 3, 400, 0)
    got = rate_p_values(a, n_a, b, n_b)
    for i in range(60):
        table = [[a[i], n_a[i] - a[i]], [b[i], n_b[i] - b[i]]]
        if 0 < a[i] + b[i] < n_a[i] + n_b[i] and stats.contingency.expected_freq(table).min() >= 5:
            expected = stats.chi2_contingency(table, correction=False).pvalue
        else:
            expected = stats.fisher_exact(table).pvalue
        assert got[i] == pytest.approx(expected, rel=1e-6, abs=1e-300), table
    assert np.isnan(rate_p_values(*(np.array([x]) for x in (np.nan, 5.0, 1.0, 5.0)))).all()
    assert cohens_h(np.array([0.0, 1.0, np.nan]), np.array([1.0, 0.0, 0.5])) == pytest.approx(
        [np.pi, -np.pi, np.nan], nan_ok=True
    )


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("died>10", True), ("died > 11", False), ("health<-0.05", True), ("health<-5e-1", False),
        ("died>11 or health<-0.05", True), ("died>10 and health<-1", False), ("woke=0", True), ("woke!=0", False),
        ("died>99 AND woke=0 or dead>=3", True), ("dead<=2", False),
    ],
)  # fmt: skip
def test_conditions(text: str, holds: bool) -> None:
    figures = {**dict.fromkeys(FIGURES, 0.0), "died": 11.0, "health": -0.1, "dead": 3.0}
    assert parse_expression(text, FIGURES).holds(figures) is holds


@pytest.mark.parametrize(
    "text",
    ["", "died", "died>", "died>x", "died>nan", "died>inf", "died>1 or", "and", "__import__('os')>1", "died>1; woke>1",
     "died>1>2", "alive>1", "died>1 xor woke>1"],
)  # fmt: skip
def test_what_is_no_condition(text: str) -> None:
    with pytest.raises(RequestError):
        parse_expression(text, FIGURES)
