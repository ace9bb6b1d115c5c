"""Lists of neurons: filters, sorting, paging; and one neuron in detail."""

import json
import random
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from analysis_runs import MakeRun, array_prompt, mlp_layers

from nfinspect.analysis.classes import HealthOptions
from nfinspect.analysis.filters import COLUMNS, parse_filter
from nfinspect.analysis.neuron import WINDOW, neuron_detail
from nfinspect.analysis.neurons import NeuronRow, list_neurons
from nfinspect_store.errors import RequestError
from nfinspect_store.reader import RunFile
from nfinspect_store.types import Layer

TOKENS = 240


Case = tuple[RunFile, dict[int, np.ndarray]]


def make_case(make_run: MakeRun, keep: str = "all") -> Case:
    rng = np.random.default_rng(8)
    layers = [*mlp_layers(2, 30, "relu"), Layer(2, "resid", 1, "h.1", 6, "", "scale")]
    values = {x.layer_id: rng.normal(size=(TOKENS, x.neurons)).astype(np.float32) for x in layers}
    for n in (0, 1):
        values[n] = np.maximum(values[n], 0)
    values[1][:, 3:6] = 0
    prompts = [array_prompt(("tulip", "baseline")[i % 2], 40, 30) for i in range(TOKENS // 40)]
    return make_run(layers, prompts, values, keep=keep), values


@pytest.fixture(scope="module")
def case(make_shared_run: MakeRun) -> Case:
    """An open run and its values: float32[tokens, neurons] by layer_id."""
    return make_case(make_shared_run)


@pytest.fixture(scope="module")
def case_of_statistics(make_shared_run: MakeRun) -> Case:
    """The same, of which only statistics are kept."""
    return make_case(make_shared_run, "stats")


def test_rows_have_the_columns_of_the_table(case: Case) -> None:
    run, values = case
    page = list_neurons(run, layer=0, limit=None)
    stored = run.sql("SELECT * FROM neurons WHERE layer = 0 AND site = 'mlp' ORDER BY max DESC, neuron")
    assert tuple(column[0] for column in stored.description) == COLUMNS
    assert [tuple(row.to_json().values()) for row in page.rows] == stored.fetchall()
    assert tuple(page.rows[0].to_json()) == COLUMNS
    assert page.rows[0].max == float(values[0].max())


def test_sorting_paging_and_totals(case: Case) -> None:
    run, _ = case
    whole = list_neurons(run, sort="mean_abs", limit=None)
    assert whole.total == 60
    strengths = [row.mean_abs for row in whole.rows]
    assert strengths == sorted(strengths, key=lambda x: -(x or 0))
    page = list_neurons(run, sort="mean_abs", limit=7, offset=20)
    assert page.rows == whole.rows[20:27]
    assert (page.total, page.offset) == (60, 20)
    up = list_neurons(run, sort="mean_abs", descending=False, limit=None)
    assert [row.neuron for row in up.rows[:3]] == [3, 4, 5]  # ties in order of layer and neuron


def test_undefined_values_come_last_in_either_direction(case: Case) -> None:
    run, _ = case
    for descending in (True, False):
        rows = list_neurons(run, sort="skewness", descending=descending, limit=None).rows
        assert [row.skewness for row in rows[-3:]] == [None] * 3
        assert rows[0].skewness is not None


@pytest.mark.parametrize(
    ("text", "keeps"),
    [
        ("max>4", lambda r: r.max > 4),
        ("max >= 2.5 and layer = 1", lambda r: r.max >= 2.5 and r.layer == 1),
        ("class=dead", lambda r: r.cls == "dead"),
        ("dead", lambda r: r.cls == "dead"),
        ("DEAD and neuron<5", lambda r: r.cls == "dead" and r.neuron < 5),
        ("class != dead AND firing_rate<0.5", lambda r: r.cls != "dead" and r.firing_rate < 0.5),
        ("near_dead=true", lambda r: r.near_dead),
        ("site='mlp' and mean_abs <= 4e-1", lambda r: r.mean_abs <= 0.4),
        ("fires<0.5 and tokens>0", lambda r: r.firing_rate < 0.5),  # as the lists are headed
        ("rate_upper95>0", lambda r: r.rate_upper95 is not None),
    ],
)
def test_filters(case: Case, text: str, keeps: object) -> None:
    run, _ = case
    expected = [row for row in list_neurons(run, limit=None).rows if keeps(row)]  # type: ignore[operator]
    found = list_neurons(run, filter=text, limit=None)
    assert list(found.rows) == expected
    assert found.total == len(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size>3", "size.*firing_rate"),
        ("max", "cannot read"),
        ("max>", "number"),
        ("max>high", "number, found 'high'"),
        ("max>nan", "number"),
        ("max>3 or min<", "number"),
        ("class>dead", "= and !="),
        ("class=deaf", "deaf.*saturated"),
        ("sleepy", "sleepy.*saturated"),
        ("near_dead=perhaps", "true or false"),
        ("1=1", "no column"),
        ("max>3 and", "number"),
        ("max>3; DROP TABLE neurons", "number"),
        ('"max" > 3', "cannot read"),
        ("site='mlp' OR 1=1 --'", "no column '1'"),
        ("site='mlp'/**/OR/**/1=1 --'", None),
        ("class=dead'/**/OR/**/'1'='1", "no class"),
    ],
)
def test_wrong_filters_are_refused_and_none_becomes_sql(case: Case, text: str, message: str | None) -> None:
    run, _ = case
    if message is None:
        assert list_neurons(run, filter=text).total == 0  # a value like any other: no such site
        return
    with pytest.raises(RequestError, match=message):
        list_neurons(run, filter=text)


def test_random_filters_are_read_or_refused(case: Case) -> None:
    run, _ = case
    chance = random.Random(0)
    pieces = [
        *COLUMNS,
        "=",
        "<",
        ">=",
        "!=",
        " and ",
        "'",
        '"',
        ";",
        "--",
        "1",
        "1e9",
        "dead",
        " ",
        "(",
        "%",
        "é",
        "\n",
    ]
    for _ in range(300):
        text = "".join(chance.choices(pieces, k=chance.randint(1, 7)))
        try:
            list_neurons(run, filter=text)
        except RequestError as error:
            assert "\n" not in str(error)


def test_values_are_bound() -> None:
    condition = parse_filter("site=x'/**/OR/**/1=1 and max>2 or L3/N4")
    assert condition.sql == '("site" = ? AND "max" > ? OR "layer" = ? AND "neuron" = ?)'
    assert condition.values == ("x'/**/OR/**/1=1", 2.0, 3, 4)


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("L1", lambda r: r.layer == 1),
        ("n3", lambda r: r.neuron == 3),
        ("L1/N3", lambda r: (r.layer, r.neuron) == (1, 3)),
        ("L0 and N3 or L1 and N5", lambda r: (r.layer, r.neuron) in ((0, 3), (1, 5))),
        ("dead or saturated", lambda r: r.cls in ("dead", "saturated")),
        ("dead and L1 or max > 1 and L0", lambda r: (r.cls == "dead" and r.layer == 1) or (r.max > 1 and r.layer == 0)),
    ],
)
def test_places_and_alternatives(case: Case, text: str, passes: Callable[[NeuronRow], bool]) -> None:
    run, _ = case
    every = list_neurons(run, limit=None).rows
    wanted = {row.address for row in every if passes(row)}
    assert 0 < len(wanted) < len(every)
    assert {row.address for row in list_neurons(run, limit=None, filter=text).rows} == wanted


def test_an_alternative_holds_within_the_site_class_and_layer_of_the_list(case: Case) -> None:
    run, _ = case
    page = list_neurons(run, cls="dead", layer=1, filter="max >= 0 or max < 0", limit=None)
    assert page.rows and all(row.cls == "dead" and row.layer == 1 for row in page.rows)


@pytest.mark.parametrize("text", ["L", "N", "/", "L1/", "/N1", "L1N2", "L1 N2", "max>1 or", "or max>1"])
def test_what_is_no_place_is_refused(case: Case, text: str) -> None:
    with pytest.raises(RequestError):
        list_neurons(case[0], filter=text)


def test_wrong_columns_classes_layers_and_pages(case: Case) -> None:
    run, _ = case
    for wrong in ({"sort": "max; DROP"}, {"cls": "ill"}, {"layer": 9}, {"offset": -1}, {"site": "attn"}):
        with pytest.raises(RequestError):
            list_neurons(run, **wrong)  # type: ignore[arg-type]


def test_other_options_sort_and_filter_the_recomputed_neurons(case: Case) -> None:
    run, _ = case
    strict = HealthOptions(threshold_weak=10.0, threshold_scale="absolute")
    page = list_neurons(run, cls="weak", sort="max", filter="layer=1", limit=4, options=strict)
    assert page.total == 27
    assert all(row.cls == "weak" and row.layer == 1 for row in page.rows)
    assert list_neurons(run, cls="weak", options=HealthOptions()).total == 0


def test_detail_of_a_neuron(case: Case) -> None:
    run, values = case
    found = neuron_detail(run, "L1/N8")
    column = values[1][:, 8]
    assert isinstance(found.row, NeuronRow)
    assert found.histogram.linear
    assert len(found.histogram.counts) == 60
    assert sum(found.histogram.counts) == TOKENS
    assert (found.histogram.edges[0], found.histogram.edges[-1]) == (column.min(), column.max())
    assert found.median == np.median(column.astype(np.float64))
    best = found.top_examples[0]
    assert best.token_idx == int(column.argmax())
    assert best.value == float(column.max())
    for example in (*found.top_examples, *found.min_examples, *found.random_examples):
        position = example.token_idx % 40
        assert (example.prompt_idx, example.position) == (example.token_idx // 40, position)
        assert example.value == column[example.token_idx]
        assert example.token == f" w{position}"
        assert example.concept == ("tulip", "baseline")[example.prompt_idx % 2]
        near = range(max(0, position - WINDOW), min(40, position + WINDOW + 1))
        assert [token.position for token in example.window] == list(near)
        assert [token.value for token in example.window] == column[[t.token_idx for t in example.window]].tolist()
        assert example.window[example.at].token_idx == example.token_idx
        assert example.text == "".join(f" w{i}" for i in near)
        assert [token.generated for token in example.window] == [i >= 30 for i in near]


def test_concept_means_of_a_neuron(case: Case) -> None:
    run, values = case
    concept_of = np.arange(TOKENS) // 40 % 2
    for address, column in (("L0/N2", values[0][:, 2]), ("resid:L1/N2", values[2][:, 2])):
        scale = float(np.abs(values[2].astype(float)).mean())
        for i, concept in enumerate(neuron_detail(run, address).concepts):
            part = column[concept_of == i].astype(float)
            fires = part > 0 if "resid" not in address else np.abs(part) >= 0.1 * scale
            assert concept.concept == ("tulip", "baseline")[i]
            assert (concept.prompts, concept.tokens) == (3, 120)
            assert concept.mean == pytest.approx(part.mean())
            assert concept.max == part.max()
            assert concept.firing_rate == pytest.approx(fires.mean())


def test_detail_without_values_comes_from_the_statistics(case_of_statistics: Case) -> None:
    run, values = case_of_statistics
    found = neuron_detail(run, "resid:L1/N0")
    column = values[2][:, 0]
    assert not found.histogram.linear
    assert sum(found.histogram.counts) == TOKENS
    assert (found.histogram.edges[0], found.histogram.edges[-1]) == (column.min(), column.max())
    edges = np.array(found.histogram.edges)
    assert (np.diff(edges) > 0).all()
    inside = [((column >= a) & (column <= b)).sum() for a, b in zip(edges[:-1], edges[1:], strict=True)]
    assert list(found.histogram.counts) == inside
    # Exact to the bin: that of the value which half of them reach down to.
    middle = np.searchsorted(edges, np.sort(column)[TOKENS // 2 - 1])
    assert edges[middle - 1] <= found.median <= edges[middle]
    assert all(token.value is None for token in found.top_examples[0].window)
    assert found.concepts[0].firing_rate is None
    assert found.concepts[0].mean == pytest.approx(column[np.arange(TOKENS) // 40 % 2 == 0].mean(), abs=1e-6)


def test_a_constant_neuron_has_a_histogram(case: Case, case_of_statistics: Case) -> None:
    for run, _ in (case, case_of_statistics):
        histogram = neuron_detail(run, "L1/N4").histogram
        assert sum(histogram.counts) == TOKENS
        assert len(histogram.edges) == len(histogram.counts) + 1


@pytest.mark.parametrize("address", ["L9/N0", "L0/N30", "attn:L0/N0", "N4", ""])
def test_no_such_neuron(case: Case, address: str) -> None:
    with pytest.raises(RequestError):
        neuron_detail(case[0], address)


def test_json_of_a_neuron(case: Case) -> None:
    document = json.loads(json.dumps(neuron_detail(case[0], "L1/N4").to_json(), allow_nan=False))
    assert set(document) > {*COLUMNS, "histogram", "top_examples", "min_examples", "random_examples"}
    fields = {"token_idx", "prompt_idx", "position", "token", "value", "text"}
    assert set(document["top_examples"][0]) >= fields
    assert set(document["histogram"]) >= {"edges", "counts"}


def test_analysis_imports_no_torch_no_terminal_and_scipy_stats_only_when_needed() -> None:
    modules = [
        "health",
        "neurons",
        "neuron",
        "trace",
        "overlap",
        "contrasts",
        "filters",
        "recommendations",
        "site_health",
    ]
    code = f"""
import importlib, sys
for name in {modules!r}:
    importlib.import_module("nfinspect.analysis." + name)
heavy = {{"torch", "transformers", "textual", "plotext", "scipy.stats", "nfinspect.models"}}
print(sorted(heavy & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
