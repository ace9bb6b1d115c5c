"""Every analysis of a run of chosen tokens is that of these tokens alone, or is refused with the reason."""

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "capture"))

from recorded import LAYERS, Arrays, make_arrays, record_arrays  # noqa: E402

from nfinspect.analyses import spec, specs
from nfinspect.analysis.neuron import WINDOW, neuron_detail
from nfinspect.analysis.ngram_ids import read_ngrams
from nfinspect.experiments.run_text import spread_prompts
from nfinspect.experiments.substitution import draw_pairs
from nfinspect.run import Run
from nfinspect_store.errors import NfinspectError, StoreError

SIZES = [40, 7, 33, 21, 1, 5, 40, 30, 25, 12]
KEPT = 6
"""Positions of which a truncated run is made."""

OF_RUNS = [one.name for one in specs() if one.compute is not None]


def of_neuron(name: str, site: str) -> dict[str, str]:
    """The option of an analysis of one neuron."""
    layer = next(layer.layer for layer in LAYERS if layer.site == site)
    return {"neuron": f"{site}:L{layer}/N1"} if spec(name).of_neuron else {}


def part_of(arrays: Arrays, chosen: list[np.ndarray]) -> Arrays:
    """The same prompts, of which these tokens are recorded."""
    return Arrays(
        [replace(p, chosen=c) for p, c in zip(arrays.prompts, chosen, strict=True)],
        [{i: v[c] for i, v in values.items()} for values, c in zip(arrays.values, chosen, strict=True)],
        [{i: f[c] for i, f in fired.items()} for fired, c in zip(arrays.fired, chosen, strict=True)],
    )


def cut(arrays: Arrays) -> Arrays:
    """The same prompts cut to KEPT tokens, all recorded."""
    return Arrays(
        [
            replace(p, token_ids=p.token_ids[:KEPT], tokens=p.tokens[:KEPT], prompt_tokens=min(p.prompt_tokens, KEPT))
            for p in arrays.prompts
        ],
        [{i: v[:KEPT] for i, v in values.items()} for values in arrays.values],
        [{i: f[:KEPT] for i, f in fired.items()} for fired in arrays.fired],
    )


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    return make_arrays(SIZES, seed=3)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, arrays: Arrays) -> Path:
    """`begin`: positions before KEPT; `cut`: prompts that end there; `gaps`: drawn at random, never position 0."""
    rng = np.random.default_rng(5)
    store = tmp_path_factory.mktemp("where")
    begin = [np.arange(size) < KEPT for size in SIZES]
    gaps = [(np.arange(size) > 0) & (rng.random(size) < 0.6) for size in SIZES]
    record_arrays(store / "begin.duckdb", part_of(arrays, begin))
    record_arrays(store / "cut.duckdb", cut(arrays))
    record_arrays(store / "gaps.duckdb", part_of(arrays, gaps))
    return store


def plain(document: Any) -> Any:
    """Without what says that tokens are left out, and the text around examples, which is that of the whole prompt."""
    if isinstance(document, dict):
        hidden = ("notes", "window", "text", "at")
        return {name: plain(value) for name, value in document.items() if name not in hidden}
    return [plain(one) for one in document] if isinstance(document, list | tuple) else document


def same(run: Run, other: Run, document: Any) -> None:
    found, expected = (json.loads(json.dumps(plain(document(one)))) for one in (run, other))
    assert found == expected


@pytest.mark.parametrize("site", ["mlp", "resid"])
def test_a_run_of_beginnings_is_a_run_of_short_prompts(store: Path, site: str) -> None:
    with Run.open(store / "begin.duckdb") as begin, Run.open(store / "cut.duckdb") as short:
        assert begin.unrecorded and not short.unrecorded and begin.tokens == short.tokens
        for skip in (False, True):
            same(begin, short, lambda run, skip=skip: run.health(site, skip_first=skip).to_json())
        same(begin, short, lambda run: run.neurons(site, limit=None).to_json())
        for tokens, of, against in (("last", "tulip", "baseline"), ("all", "tulip", ""), ("generated", "baseline", "")):
            asked = (of, against, tokens, 5, "difference", site)
            same(begin, short, lambda run, asked=asked: run.trace(*asked).to_json())
        same(begin, short, lambda run: run.overlap(["tulip", "baseline"], "", "all", 2, site=site).to_json())
        layer = next(layer for layer in LAYERS if layer.site == site)
        same(begin, short, lambda run: neuron_detail(run, f"{site}:L{layer.layer}/N1").to_json())
        same(begin, short, lambda run: run.sql("SELECT * FROM activations ORDER BY ALL").fetchall())
        for name in OF_RUNS:
            given: dict[str, Any] = {"allow_few": True} if name == "positions" else of_neuron(name, site)
            for n in (1, 2, 3) if name == "ngrams" else (None,):
                options = {**given, **({} if n is None else {"n": n})}
                same(begin, short, lambda run, name=name, o=options: run.analyse(name, site=site, **o).to_json())


def test_what_looks_at_neighbours_meets_no_gap(store: Path, arrays: Arrays) -> None:
    with Run.open(store / "gaps.duckdb") as run:
        rows = run.sql("SELECT prompt_idx, position, token_id FROM tokens ORDER BY token_idx").fetchall()
        held = {(prompt, position): i for i, (prompt, position, _) in enumerate(rows)}
        ids = [token_id for *_, token_id in rows]
        for n in (1, 2, 3):
            grams: Counter[tuple[int, ...]] = Counter()
            for (prompt, position), i in held.items():
                before = [held.get((prompt, position - k)) for k in range(n - 1, 0, -1)]
                if None not in before:
                    grams[(*(ids[j] for j in before if j is not None), ids[i])] += 1
            index = read_ngrams(run, n)
            found = {tuple(gram): int(seen) for gram, seen in zip(index.token_ids.tolist(), index.seen, strict=True)}
            assert found == dict(grams) and len(found) > 5
        pairs = [(held[prompt, position - 1], i) for (prompt, position), i in held.items()
                 if (prompt, position - 1) in held]  # fmt: skip
        for row in run.delta(min_ratio=0, min_step=0).neurons:
            values = run.neuron(row.layer, row.neuron).astype(np.float64)
            steps = np.array([values[i] - values[j] for j, i in pairs])
            assert row.step_sensitivity == pytest.approx(np.abs(steps).mean() / values.std(ddof=1))
            assert row.von_neumann_ratio == pytest.approx((steps**2).mean() / values.var(ddof=1))


def test_positions_with_gaps_are_refused_with_the_reason(store: Path) -> None:
    with Run.open(store / "gaps.duckdb") as run:
        with pytest.raises(StoreError, match="sequences from position 0 on without a gap.*--where") as caught:
            run.positions(allow_few=True)
        assert "\n" not in str(caught.value)


def test_no_other_analysis_of_a_run_is_refused_for_gaps(store: Path) -> None:
    with Run.open(store / "gaps.duckdb") as run:
        refused = []
        for name in OF_RUNS:
            try:
                run.analyse(name, site="mlp", **of_neuron(name, "mlp"))
            except NfinspectError:
                refused.append(name)
        assert refused == ["positions"]
        assert run.analyse("sinks", site="resid", large=0.1, times=1.0).first_token_share is None  # not 0: not known
        few = run.health(skip_first=True).to_json(), run.health().to_json()
        assert plain(few[0]) == plain(few[1])  # there is nothing at position 0 to leave out


def test_text_around_an_example_is_whole(store: Path, arrays: Arrays) -> None:
    with Run.open(store / "gaps.duckdb") as run:
        detail = neuron_detail(run, "mlp:L0/N1")
        for example in (*detail.top_examples, *detail.min_examples, *detail.random_examples):
            texts = arrays.prompts[example.prompt_idx].tokens
            start = max(0, example.position - WINDOW)
            assert [one.token for one in example.window] == list(texts[start : example.position + WINDOW + 1])
            assert example.window[example.at].token_idx == example.token_idx
            assert example.window[example.at].value == example.value
            assert all((one.token_idx is None) == (one.value is None) for one in example.window)
        assert any(one.token_idx is None for example in detail.top_examples for one in example.window)


def test_a_model_reads_whole_prompts_again(store: Path, arrays: Arrays) -> None:
    with Run.open(store / "gaps.duckdb") as run:
        assert spread_prompts(run, 10**6) == [list(p.token_ids) for p in arrays.prompts if len(p.token_ids) > 1]
        chosen = {(p, q) for p, q in run.sql("SELECT prompt_idx, position FROM tokens").fetchall()}
        prompts = [tuple(p.token_ids) for p in arrays.prompts]
        for pair in draw_pairs(run, 50, seed=1, reach=99):
            of = [i for i, ids in enumerate(prompts) if ids == pair.token_ids]
            assert any((i, pair.position) in chosen for i in of)
            assert [(of[0], place) in chosen for place in range(len(pair.token_ids))] == list(pair.recorded)
