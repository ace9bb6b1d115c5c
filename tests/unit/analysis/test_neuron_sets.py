"""Named sets of neurons: from files, by kind, from traces."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from nfinspect.analyses.neuron_kinds import set_of_kinds
from nfinspect.analysis.neuron_sets import NeuronSet, set_from_file, set_of_trace
from nfinspect_store.addresses import Address
from nfinspect_store.errors import RequestError
from nfinspect_store.reader import RunFile
from nfinspect_store.results import keep_result, model_results, run_results


@pytest.fixture
def run(store: Path) -> Iterator[RunFile]:
    """The planted run: neuron 0 dead, 1 saturated, 5 higher for tulip, in each of three layers of 64."""
    with RunFile.open(store / "planted.duckdb") as file:
        yield file


def keep(run: RunFile, kind: str, field: str, neurons: list[tuple[int, int]], site: str = "mlp") -> None:
    rows = [{"site": site, "layer": layer, "neuron": neuron} for layer, neuron in neurons]
    settings = {"site": site, "rows": len(rows)}
    keep_result(run_results(run.path), kind, settings, {"site": site, field: rows}, run_id=run.info.run_id)


def places(found: NeuronSet) -> list[tuple[int, int]]:
    return [(address.layer, address.neuron) for address in found.addresses]


def test_a_file_has_an_address_a_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("# marked\nL2/N3\n\n  resid:L0/N7   # an outlier\nL0/N9\nL2/N3\n")
    found = set_from_file(file)
    assert found.name == "mine"
    assert found.addresses == (Address(0, 9), Address(2, 3), Address(0, 7, "resid"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"L1/N2\nneuron 5\n", r"mine.txt:2: .*L5/N123"),
        (b"# none\n", "found none"),
        (b"\xff\xfe", "expected UTF-8 text"),
    ],
)
def test_files_that_hold_no_neurons_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "mine.txt"
    file.write_bytes(content)
    with pytest.raises(RequestError, match=message):
        set_from_file(file)
    with pytest.raises(RequestError, match="nowhere.txt"):
        set_from_file(tmp_path / "nowhere.txt")


def test_classes_and_their_union(run: RunFile) -> None:
    dead = set_of_kinds(run, "dead")
    assert dead.name == "dead"
    assert places(dead) == [(0, 0), (1, 0), (2, 0)]
    assert {address.site for address in dead.addresses} == {"mlp"}
    both = set_of_kinds(run, " Dead + saturated ")
    assert both.name == "dead+saturated"
    assert places(both) == [(layer, neuron) for layer in range(3) for neuron in (0, 1)]
    assert set_of_kinds(run, "dead+dead").addresses == dead.addresses


def test_kinds_that_an_analysis_found_come_from_its_newest_result(run: RunFile) -> None:
    keep(run, "positions", "neurons", [(0, 4)])
    keep(run, "positions", "neurons", [(1, 9), (1, 8)])
    keep(run, "positions", "neurons", [], site="resid")
    keep(run, "ngrams", "detectors", [(2, 2)])
    assert places(set_of_kinds(run, "positional")) == [(1, 8), (1, 9)]
    assert places(set_of_kinds(run, "dead+positional+ngram")) == [(0, 0), (1, 0), (1, 8), (1, 9), (2, 0), (2, 2)]


def test_of_all_neurons_that_delta_lists_those_count_that_are_sensitive(run: RunFile) -> None:
    rows = [{"site": "mlp", "layer": 1, "neuron": n, "delta_sensitive": n == 3} for n in range(5)]
    keep_result(run_results(run.path), "delta", {"site": "mlp"}, {"neurons": rows}, run_id=run.info.run_id)
    assert places(set_of_kinds(run, "delta")) == [(1, 3)]


def test_attention_neurons_are_kept_with_the_model(run: RunFile) -> None:
    folder = model_results(run.path.parent, run.info.model)
    document = {"site": "mlp", "neurons": [{"layer": 1, "neuron": 3, "score": 1.0, "rank": 1}]}
    keep_result(folder, "attention", {"model": run.info.model}, document, run_id=None)
    assert places(set_of_kinds(run, "attention")) == [(1, 3)]


def test_a_share_is_of_all_neurons_and_takes_the_strongest_of_a_kind(run: RunFile) -> None:
    """The site has 3 layers of 64 neurons: a share of 0.02 is 4 of them."""

    def kept(kind: str, field: str, strength: str, values: list[float | None], **settings: object) -> None:
        rows = [{"layer": i % 3, "neuron": 10 + i, strength: value} for i, value in enumerate(values)]
        document = {"site": "mlp", field: rows, **settings}
        keep_result(run_results(run.path), kind, {"site": "mlp", **settings}, document, run_id=run.info.run_id)

    kept("positions", "neurons", "mutual_information", [0.1, 0.5, None, 0.4, 0.6, 0.2])
    kept("delta", "neurons", "step_sensitivity", [1.0, 1.0, 1.0, 1.0, 1.0, 3.0])
    kept("ngrams", "detectors", "coverage", [0.96, 0.99, 1.0], n=1)
    positional = set_of_kinds(run, "positional", share=0.02)
    assert positional.name == "positional 2%"
    assert sorted(a.neuron for a in positional.addresses) == [11, 13, 14, 15]
    ties = set_of_kinds(run, "delta", share=0.02)  # the strongest, then by layer and neuron
    assert places(ties) == [(0, 10), (0, 13), (1, 11), (2, 15)]
    few = set_of_kinds(run, "ngram", share=0.02)
    assert len(few.addresses) == 3
    assert few.notes == ("ngram: all 3, there are not 4, 4 being a share of 0.02 of the 192 neurons at mlp",)
    assert [a.neuron for a in set_of_kinds(run, "ngram", share=0.001).addresses] == [12]  # one at least
    joined = set_of_kinds(run, "dead+ngrams1", share=0.01)
    assert (joined.name, len(joined.addresses)) == ("dead+ngrams1 1%", 3 + 2)
    assert joined.notes[0] == "dead: all of them, a health class has no strength to take a share by"
    assert set_of_kinds(run, "dead", share=0.01).name == "dead"


def test_a_share_of_attention_neurons_is_of_all_scores(run: RunFile) -> None:
    scores = [{"layer": i % 3, "neuron": i} for i in range(60)]
    keep_result(
        model_results(run.path.parent, run.info.model),
        "attention",
        {"model": run.info.model},
        {"site": "mlp", "neurons": scores[:20]},
        run_id=None,
        tables={"scores": pa.Table.from_pylist(scores)},
    )
    found = set_of_kinds(run, "attention", share=0.15)  # 29 of 192
    assert sorted(a.neuron for a in found.addresses) == list(range(29))
    assert sorted(a.neuron for a in set_of_kinds(run, "attention", share=0.05).addresses) == list(range(10))


def test_a_kind_that_is_not_known_or_not_kept_is_said(run: RunFile) -> None:
    with pytest.raises(RequestError, match="no kind of neurons 'ded': choose of dead, .*positional"):
        set_of_kinds(run, "dead+ded")
    with pytest.raises(RequestError, match="run nfinspect delta planted first"):
        set_of_kinds(run, "delta")
    with pytest.raises(RequestError, match="no neuron of planted at mlp is missing"):
        set_of_kinds(run, "missing")
    keep(run, "positions", "neurons", [])
    with pytest.raises(RequestError, match="no neuron of planted at mlp is positional"):
        set_of_kinds(run, "positional")
    with pytest.raises(RequestError, match="mlp, resid"):
        set_of_kinds(run, "dead", site="attn")


def test_results_of_another_run_do_not_count(run: RunFile) -> None:
    rows = [{"site": "mlp", "layer": 0, "neuron": 1}]
    keep_result(run_results(run.path), "positions", {"site": "mlp"}, {"neurons": rows}, run_id="captured before")
    with pytest.raises(RequestError, match="run nfinspect positions planted first"):
        set_of_kinds(run, "positional")


def test_a_trace_is_a_set(run: RunFile) -> None:
    found = set_of_trace(run, "tulip", top=3)
    assert found.name == "trace:tulip"
    assert places(found) == [(0, 5), (1, 5), (2, 5)]
    assert any("'baseline'" in note for note in found.notes)
    assert {address.site for address in set_of_trace(run, "tulip", top=3, site="resid").addresses} == {"resid"}
    with pytest.raises(RequestError, match="rose"):
        set_of_trace(run, "rose")
