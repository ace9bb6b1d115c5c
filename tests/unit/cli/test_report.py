"""Reports: the figures, their data, the page; what they take the place of, and what they leave alone."""

import hashlib
import json
import re
import shutil
import signal
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import nfinspect_samples
import numpy as np
import pytest
from command_line import Run
from matplotlib.figure import Figure
from planted_report import CONCEPTS, DEAD, DETECTORS, POSITIONAL, contents, document, rows_of, write_planted

from nfinspect.analyses import formats
from nfinspect.analyses.ablate.charts import ablation_chart
from nfinspect.analyses.attention.charts import attention_chart
from nfinspect.analyses.kind_overlap import overlap_of_kinds
from nfinspect.analyses.neuron_kinds import newest
from nfinspect.analyses.positions import positions
from nfinspect.analysis.attention_scores import AttentionScores
from nfinspect.analysis.delta import delta
from nfinspect.analysis.enough import few_tokens
from nfinspect.analysis.ngrams import ngrams
from nfinspect.analysis.overlap import overlap
from nfinspect.cli import main
from nfinspect.cli.report_parts import make_from_run
from nfinspect.figures.sections import Part, compared_sections, sections_of
from nfinspect.present import style
from nfinspect.present.charts import Chart, Section
from nfinspect.results import kept_line
from nfinspect_store.reader import RunFile
from nfinspect_store.results import list_results, run_results

OF_RUN = {
    *("health-by-layer", "dead-by-layer", "activation-histograms", "positional-neurons", "ngram-detectors"),
    *("ngram-coverage", "ngram-new", "ngram-buckets", "delta-sensitive-neurons", "concept-overlap", "kind-overlap"),
}
OTHER = "a-run-with-a-name-that-needs-a-line-of-its-own"
COMPARED = {
    *("compared-dead", "compared-token-detectors", "compared-coverage", "compared-new-tokens"),
    *("compared-token-buckets", "compared-positional"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the store `store`, run `words`, and its report `report`. Not to be changed."""
    directory = tmp_path_factory.mktemp("reports")
    (directory / "store").mkdir()
    write_planted(directory / "store" / "words.duckdb")
    arguments = ("report", "words", "--store", str(directory / "store"), "--out", str(directory / "report"))
    assert main(arguments) == 0
    return directory


@pytest.fixture
def report(made: Path, tmp_path: Path) -> Path:
    """A report of the test's own."""
    return Path(shutil.copytree(made / "report", tmp_path / "report"))


@pytest.fixture
def words(made: Path, store: Path) -> Path:
    """The run in the test's own store, with the results of its report."""
    shutil.copy2(made / "store" / "words.duckdb", store)
    shutil.copytree(made / "store" / "words.results", store / "words.results")
    return store / "words.duckdb"


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """The figures that are drawn, by name."""
    drawn: dict[str, Figure] = {}
    save = style.save

    def kept(figure: Figure, path: Path) -> None:
        drawn[path.stem] = figure
        save(figure, path)

    monkeypatch.setattr(style, "save", kept)
    return drawn


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files with the figures' names in place of pictures, which take their time."""
    monkeypatch.setattr("nfinspect.figures.report.draw", lambda chart, path: path.write_text(chart.name))


def test_a_report_has_every_figure_with_its_data(made: Path) -> None:
    files = contents(made / "report")
    assert {Path(name).stem for name in files if name.endswith(".png")} == OF_RUN
    for name in OF_RUN:
        held = document(made / "report" / f"{name}.json")
        assert held["figure"] == name and held["title"] and held["n"].startswith("n = ") and held["findings"]
        for of, table in held["tables"].items():
            rows = rows_of(made / "report" / f"{of}.csv")
            assert [list(row) for row in rows] == [list(table["columns"])] * len(table["rows"])
            plain = [["" if v is None else str(v).lower() if v in (True, False) and isinstance(v, bool) else str(v)
                      for v in row.values()] for row in table["rows"]]  # fmt: skip
            assert [list(row.values()) for row in rows] == plain  # the same digits
    manifest = json.loads(files.pop("report.json"))
    assert manifest["files"] == {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    assert {one["figure"] for one in manifest["figures"]} == OF_RUN


def test_the_page_shows_and_links_everything(made: Path) -> None:
    page = (made / "report" / "report.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)]+)\)", page)
    files = set(contents(made / "report"))
    assert set(targets) == files - {"report.md", "report.json"}
    assert {target for target in targets if target.endswith(".png")} == {f"{name}.png" for name in OF_RUN}
    assert "\x1b" not in page
    assert "    nfinspect report words --with-model --out DIR" in page
    # What was found is said in words.
    assert "3 neurons of 20 (15.0%) dead" in page
    assert "2 token detectors among 20 neurons, covering 2 tokens" in page
    assert "none is a trigram detector" in page
    assert "1 neuron of 20 positional" in page


def test_the_data_are_those_of_the_analyses(made: Path) -> None:
    directory = made / "report"
    with RunFile.open(made / "store" / "words.duckdb") as run:
        tokens = run.tokens
        kinds = overlap_of_kinds(run, ["dead", "positional", "delta", "ngrams1", "ngrams2", "ngrams3"])
        detectors = {n: ngrams(run, n).detectors for n in (1, 2, 3)}
        positional, changing = positions(run), delta(run)
    dead = {layer: sum(place[0] == layer for place in DEAD) for layer in (0, 1)}
    assert {int(r["layer"]): int(r["dead"]) for r in rows_of(directory / "dead-by-layer.csv")} == dead
    listed = rows_of(directory / "ngram-detectors-list.csv")
    assert {(int(r["layer"]), int(r["neuron"])) for r in listed if r["n"] == "1"} == set(DETECTORS)
    assert [(int(r["n"]), int(r["neuron"]), int(r["k"]), float(r["coverage"])) for r in listed] == [
        (n, x.neuron, x.k, x.coverage) for n in (1, 2, 3) for x in detectors[n]
    ]
    found = rows_of(directory / "positional-neurons.csv")
    assert {(int(r["layer"]), int(r["neuron"])) for r in found} == POSITIONAL
    assert [float(r["mutual_information"]) for r in found] == [x.mutual_information for x in positional.neurons]
    sensitive = rows_of(directory / "delta-sensitive-neurons-scatter.csv")
    assert {(int(r["layer"]), int(r["neuron"])) for r in sensitive if r["delta_sensitive"] == "true"} == {
        (x.layer, x.neuron) for x in changing.delta_sensitive
    }
    overlaps = rows_of(directory / "kind-overlap.csv")
    assert [(r["a"], r["b"], int(r["overlap"]), r["p_value"]) for r in overlaps] == [
        (x.a, x.b, x.overlap, "" if x.p_value is None else str(x.p_value)) for x in kinds.pairs
    ]
    histogram = rows_of(directory / "activation-histograms.csv")
    assert sum(int(r["count"]) for r in histogram if r["layer"] == "1") == tokens * 10


def test_analyses_that_were_missing_are_kept(made: Path) -> None:
    kept = list_results(run_results(made / "store" / "words.duckdb"))
    assert sorted((one.kind, one.document.get("n")) for one in kept if one.kind == "ngrams") == [
        ("ngrams", n) for n in (1, 2, 3)
    ]
    assert {one.kind for one in kept} == {"ngrams", "positions", "delta"}


@pytest.mark.slow
def test_the_same_run_gives_the_same_bytes(
    nfinspect: Run, made: Path, store: Path, tmp_path: Path, figures: dict[str, Figure]
) -> None:
    shutil.copy2(made / "store" / "words.duckdb", store)  # without its results: they are made anew
    done = nfinspect("report", "words", "--out", "again", "--json")
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "again") == contents(made / "report")
    assert json.loads(done.stdout)["files"] == sorted(contents(made / "report"))
    assert set(figures) == OF_RUN
    for name, figure in figures.items():
        check_figure(tmp_path / "again" / f"{name}.png", figure)


def check_figure(file: Path, figure: Figure) -> None:
    """It is grey, nothing is cut off at its edges, n stands in its title, and its axes say what they show."""
    assert np.ptp(matplotlib.image.imread(file)[..., :3], axis=2).max() == 0, f"{file.stem} has a colour"
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert min(box.x0, box.y0, width - box.x1, height - box.y1) > -0.02, file.stem
    assert "n = " in figure.get_suptitle()
    if file.stem in ("kind-overlap", "concept-overlap"):
        return  # both axes are names
    for axes in figure.axes:
        assert axes.get_xlabel() or figure.get_supxlabel(), file.stem
        shared = not axes.yaxis.get_tick_params().get("labelleft")  # the panel on the left says it
        assert axes.get_ylabel() or figure.get_supylabel() or shared, file.stem


@pytest.mark.slow
def test_several_runs_in_the_same_figures(
    nfinspect: Run, words: Path, tmp_path: Path, figures: dict[str, Figure]
) -> None:
    write_planted(words.with_name(f"{OTHER}.duckdb"), layers=3, seed=1)
    done = nfinspect("report", "--runs", f"words,{OTHER}", "--out", "both", "--json")
    assert done.returncode == 0, done.stderr
    assert {one["figure"] for one in json.loads(done.stdout)["figures"]} == set(figures) == COMPARED
    for name, figure in figures.items():
        check_figure(tmp_path / "both" / f"{name}.png", figure)
    rows = rows_of(tmp_path / "both" / "compared-token-detectors.csv")
    assert [(r["run"], float(r["depth"]), int(r["detectors"])) for r in rows] == [
        *[("words", 0, 1), ("words", 1, 1)],
        *[(OTHER, 0, 1), (OTHER, 0.5, 1), (OTHER, 1, 0)],
    ]
    dead = rows_of(tmp_path / "both" / "compared-dead.csv")
    assert [float(r["dead_percent"]) for r in dead] == [10, 20, 10, 20, 0]
    page = (tmp_path / "both" / "report.md").read_text(encoding="utf-8")
    assert "compared: words" in page and f"compared: {OTHER}" in page


@pytest.mark.slow
def test_a_run_and_others_beside_it(nfinspect: Run, words: Path, undrawn: None) -> None:
    write_planted(words.with_name("other.duckdb"), layers=3, seed=1)
    done = nfinspect("report", "words", "--runs", "other", "--out", "both", "--json")
    assert done.returncode == 0, done.stderr
    assert {one["figure"] for one in json.loads(done.stdout)["figures"]} == OF_RUN | COMPARED


@pytest.mark.slow
def test_an_earlier_report_is_replaced_and_nothing_else_is(
    nfinspect: Run, words: Path, report: Path, undrawn: None
) -> None:
    before = contents(report)
    (report / "report.md").write_text("my notes", encoding="utf-8")
    done = nfinspect("report", "words", "--out", "report")
    assert done.returncode == 1 and "report.md has been changed" in done.stderr
    assert (report / "report.md").read_text(encoding="utf-8") == "my notes"
    (report / "report.md").write_bytes(before["report.md"])
    (report / "mine.txt").write_text("mine")
    done = nfinspect("report", "words", "--out", "report")
    assert done.returncode == 1 and "mine.txt, which is of no report" in done.stderr
    assert (report / "mine.txt").read_text() == "mine"
    (report / "mine.txt").unlink()
    (report / "health-by-layer.png").unlink()  # what is gone is no loss
    assert nfinspect("report", "words", "--out", "report").returncode == 0
    after = contents(report)
    assert after.keys() == before.keys()
    assert all(after[f"{name}.png"] == name.encode() for name in OF_RUN)
    assert [file.name for file in report.parent.iterdir() if file.name.startswith(".report")] == []


def test_directories_of_others_are_refused_before_any_work(nfinspect: Run, made: Path, store: Path) -> None:
    shutil.copy2(made / "store" / "words.duckdb", store)
    Path("full").mkdir()
    Path("full", "report.json").write_text('{"files": []}')
    Path("file").write_text("")
    Path("loop").symlink_to("loop")
    for out, message in (
        ("full", "holds no report"),
        ("file", "found a file"),
        ("file/report", "cannot write"),
        ("new/" + 260 * "n", "cannot write"),  # too long for a name
        ("loop", "cannot write loop"),
    ):
        done = nfinspect("report", "words", "--out", out)
        assert done.returncode == 1 and message in done.stderr
        assert len(done.stderr.splitlines()) == 1 and not Path("new").exists()
    assert not run_results(store / "words.duckdb").exists()
    assert [file.name for file in Path("full").iterdir()] == ["report.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected RUN"),
        (("--runs", "words"), "two or more different runs"),
        (("words", "--runs", "words"), "two or more different runs"),
        (("words", "--model", "m"), "--with-model"),
        (("--runs", "words,planted", "--with-model"), "needs RUN"),
        (("words", "--with-model"), "pass --model"),
        (("words", "--site", "attn"), "it holds mlp"),
        (("--runs", ",".join(f"r{i}" for i in range(40))), "more lines look alike"),
    ],
)
def test_wrong_requests_write_nothing(nfinspect: Run, words: Path, arguments: tuple[str, ...], message: str) -> None:
    done = nfinspect("report", *arguments, "--out", "out")
    assert done.returncode == 2 and message in done.stderr.splitlines()[-1]
    assert not Path("out").exists()


@pytest.mark.slow
def test_an_interrupted_report_leaves_nothing(
    nfinspect: Run, words: Path, report: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, beside = contents(report), sorted(Path().iterdir())

    def interrupted(figure: Figure, path: Path) -> None:
        if path.stem == "activation-histograms":  # the third
            raise KeyboardInterrupt

    monkeypatch.setattr(style, "save", interrupted)
    for out in ("report", "new"):
        assert nfinspect("report", "words", "--out", out).returncode == 130
    assert contents(report) == before
    assert sorted(Path().iterdir()) == beside


@pytest.mark.slow
def test_ctrl_c_that_a_library_swallows_stops_the_report(
    nfinspect: Run, words: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled code may make a ValueError of it, as matplotlib's does, or go on."""
    drawn: list[str] = []
    mistakes = iter([ValueError("Invalid bounding box"), None])

    def draw(chart: Chart, path: Path) -> None:
        drawn.append(chart.name)
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        if mistake := next(mistakes):
            raise mistake
        path.write_text(chart.name)

    monkeypatch.setattr("nfinspect.figures.report.draw", draw)
    for _ in range(2):
        done = nfinspect("report", "words", "--out", "out")
        assert (done.returncode, done.stderr.splitlines()[-1]) == (130, "nfinspect: interrupted")
    assert len(drawn) == 2 and list(Path().glob("*out*")) == [] and list(Path().glob(".*out*")) == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_without_matplotlib_the_extra_is_named(
    nfinspect: Run, made: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy2(made / "store" / "words.duckdb", store)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = nfinspect("report", "words", "--out", "out")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "pip install 'nfinspect[figures]'" in done.stderr
    assert not Path("out").exists() and not run_results(store / "words.duckdb").exists()


def test_a_run_of_statistics_says_what_it_lacks(nfinspect: Run, undrawn: None) -> None:
    done = nfinspect("report", "stats", "--out", "out", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {"health-by-layer", "dead-by-layer", "activation-histograms"} <= {x["figure"] for x in found["figures"]}
    why = {one["name"]: one["why"] for one in found["absent"]}
    assert {"positional-neurons", "ngrams1", "delta-sensitive-neurons", "attention", "ablation"} <= set(why)
    assert "statistics only" in why["positional-neurons"] and "statistics only" in why["ngrams1"]


def said(chart: Section) -> str:
    """A figure's findings, each of them a sentence."""
    assert isinstance(chart, Chart)
    for one in chart.findings:
        assert one.endswith(".") and not one.endswith("..") and one[0] == one[0].upper(), one
    return " ".join(chart.findings).lower()


def test_what_rests_on_too_little_is_said_under_its_figure(store: Path) -> None:
    """Six prompts are too few for any of the analyses."""
    path = write_planted(store / "Few.duckdb", prompts=6)
    with RunFile.open(path) as run:
        make_from_run(run, "mlp")
        drawn = {chart.name: said(chart) for chart in sections_of(run, "mlp") if isinstance(chart, Chart)}
        beside = {chart.name: said(chart) for chart in compared_sections({"Few": Part(run, "mlp")})}
        notes = {kind: newest(run, kind, "mlp").document["notes"] for kind in ("ngrams1", "positional", "delta")}  # type: ignore[union-attr]
        notes["concepts"] = overlap(run, list(CONCEPTS[:2])).notes
        notes["dead"] = [few_tokens(run.tokens)]
    assert all(notes.values()), notes
    of_ngrams = ("ngram-detectors", "ngram-coverage", "ngram-new", "ngram-buckets")
    wanted = [(name, "ngrams1") for name in of_ngrams]
    wanted += [
        ("positional-neurons", "positional"),
        ("delta-sensitive-neurons", "delta"),
        ("concept-overlap", "concepts"),
    ]
    wanted += [("dead-by-layer", "dead"), ("health-by-layer", "dead")]
    wanted += [("kind-overlap", kind) for kind in ("dead", "positional", "delta", "ngrams1")]
    for figure, kind in wanted:
        for note in notes[kind]:
            assert note.lower() in drawn[figure], (figure, kind)
    for figure in COMPARED:
        kind = {"compared-dead": "dead", "compared-positional": "positional"}.get(figure, "ngrams1")
        for note in notes[kind]:
            assert f"few: {note.lower()}" in beside[figure], figure


@pytest.mark.slow
def test_with_its_model_the_report_is_whole(
    nfinspect: Run, undrawn: None, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nfinspect.cli.report_parts.CUT", ("dead", "ngrams3", "attention"))  # fewer passes
    model, text = str(nfinspect_samples.path("gpt2-relu")), str(nfinspect_samples.path("corpus", "tulip.txt"))
    read = ("--text", text, "--context", "8", "--max-tokens", "96", "--layers", "1")
    assert nfinspect("capture", model, *read, "--run", "gpt2").returncode == 0
    done = nfinspect("report", "gpt2", "--with-model", "--out", "out", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [one["name"] for one in found["absent"]] == ["concept-overlap"]  # the text is one concept
    drawn = {one["figure"] for one in found["figures"]}
    assert {"ablation", *(f"attention-{name}" for name in ("attention-weighted", "gradient-guided", "rollout"))} < drawn
    rows = {row["set"]: row for row in rows_of(tmp_path / "out" / "ablation.csv")}
    assert list(rows) == ["dead", "attention"]  # the run has no trigram detectors
    assert float(rows["dead"]["delta_nll"]) == 0  # ReLU neurons that are dead on this very text
    assert document(tmp_path / "out" / "ablation.json")["facts"]["tokens"] == 12 * 7
    assert len(rows_of(tmp_path / "out" / "ablation-controls.csv")) == 20 * len(rows)
    scores = rows_of(tmp_path / "out" / "attention-rollout-neurons.csv")
    assert len(scores) == 768 and [int(row["rank"]) for row in scores] == list(range(1, 769))
    for result in list_results(run_results(store / "gpt2.duckdb"), kind="attention"):
        scores = replace(AttentionScores.from_json(result.document, result.table), notes=("only 3 prompts",))
        assert "only 3 prompts." in said(attention_chart(scores, "of this run"))
    (result,) = list_results(run_results(store / "gpt2.duckdb"), kind="ablation", formats=formats())
    assert result.document["model_of_run"]
    chart = ablation_chart({**result.document, "notes": ["dead holds nearly all"]})
    assert "dead holds nearly all." in said(chart) and "of gpt2-relu on the run gpt2 (windows" in chart.text[0]
    again = nfinspect("report", "gpt2", "--out", "again")  # what was made with the model is kept
    assert again.returncode == 0 and contents(tmp_path / "again") == contents(tmp_path / "out")
    # The commands find it, too, and the app tells what it is.
    for line in (("attention", model, "--from", "gpt2", "--method", "rollout"), ("ablate", model, "--from", "gpt2",
                 "--class", "dead", "--class", "attention")):  # fmt: skip
        done = nfinspect(*line)
        assert done.returncode == 0 and "kept from" in done.stderr, done.stderr
    assert "84 tokens of the run gpt2 (windows" in " ".join(done.stdout.split())
    told = [kept_line(result) for result in list_results(run_results(store / "gpt2.duckdb"), formats=formats())]
    assert told and not any("of another version" in line for line in told), told
    assert any("prompts, 96 tokens; of run gpt2" in line for line in told)


def test_another_model_is_refused(nfinspect: Run, words: Path) -> None:
    done = nfinspect("report", "words", "--with-model", "--model", str(nfinspect_samples.path("gpt2-relu")),
                     "--out", "out")  # fmt: skip
    assert done.returncode == 2 and "captured from another model" in done.stderr
    assert nfinspect("report", "words", "--with-model", "--model", "no/such", "--out", "out").returncode == 1
    assert not Path("out").exists()
