"""docs/methods.md: every section that the code cites, the constants of the code, SQL that gives the same figures."""

import re
from pathlib import Path

import numpy as np
import pytest

from nfinspect.analyses import sinks
from nfinspect.analysis import (
    attention_scores,
    classes,
    delta,
    distribution,
    enough,
    positions,
    profiles,
    recommendations,
    scores,
    sequences,
    site_health,
    substitution,
    training_alerts,
    triggers,
)
from nfinspect.cli.concepts import TRACE_TOP
from nfinspect.experiments import bootstrap, controls, perplexity
from nfinspect.experiments.substitution import DRAWS
from nfinspect.training.analyzer import ACTIVATION_RATE
from nfinspect_store import examples, histogram
from nfinspect_store.console import Console
from nfinspect_store.reader import RunFile

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
HEADINGS = re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)
SECTIONS = {int(number) for number in re.findall(r"^## (\d+)\. ", PAGE, re.MULTILINE)}
FLAT = " ".join(PAGE.split())
TEXT = FLAT.replace("\\|", "|")
CITED = re.compile(r"\bmethods\s+(?:#\s*)?§(\d+)")
DEFAULTS = classes.HealthOptions()

STATED = {
    "thresholds": f"*missing* is {DEFAULTS.threshold_missing} and *weak* {DEFAULTS.threshold_weak} if not given",
    "weak firing": f"|a| >= {DEFAULTS.threshold_weak} layer scales",
    "rho": f"ρ_B >= {classes.SATURATED_RHO} (",
    "bins of rho": f"B = {classes.RHO_BINS} equal bins",
    "spread": f"std <= {classes.SATURATED_SPREAD} · |mean|",
    "sporadic strength": f"max|a| >= {classes.SPORADIC_STRENGTH:g} layer scales",
    "sporadic rate": f"fewer than {classes.SPORADIC_PERCENT} % of them",
    "relu family": "The ReLU family: " + ", ".join(f"`{name}`" for name in sorted(classes.RELU_FAMILY)),
    "bounded": " and ".join(classes.BOUNDED) + ": ρ_B",
    "rule of three": f"{enough.RULE_OF_THREE:g}/n",
    "near-dead": f"firing rate below {site_health.NEAR_DEAD_RATE}",
    "issues": f"holds {scores.ISSUE_PERCENT} % of the layer's neurons or more",
    "activation rate": f"{DEFAULTS.threshold_activation_rate} for runs, {ACTIVATION_RATE:.2f} for",
    "layer score": "1 − (" + " + ".join(f"{weight:g} · {name}" for name, weight in scores.WEIGHTS.items()) + ")",
    "problematic": f"{scores.PROBLEM_WEIGHT} · (problematic layers / layers)",
    "degradation": f"{scores.DEGRADATION_WEIGHT} · max(0, mean score of the first third",
    "readings": ", ".join(f"from {floor:g} {word}" for floor, word, _ in scores.READINGS if floor) + ", else critical",
    "missing alert": f"missing percentage > {scores.MISSING_ALERT_PERCENT};",
    "problem alert": f"> {scores.PROBLEM_ALERT_PERCENT} % of the layers problematic",
    "fall": f"where it is {recommendations.DEGRADED_BY} or more",
    "percentiles": "percentiles " + ", ".join(map(str, distribution.PERCENTILES)),
    "health alert": f"below {training_alerts.FALL} times the one before",
    "dying": f"critical from {training_alerts.MOSTLY_DEAD_PERCENT} % dead on",
    "vanishing": f"below {training_alerts.VANISHING:.0e} of".replace("e-0", "e-"),
    "exploding": f"more than {training_alerts.EXPLODING:g} times its median so far, from "
    f"{training_alerts.ENOUGH_GRADIENTS} readings on",
    "trace": f"(`--top`, {TRACE_TOP})",
    "attention neurons": f"the {attention_scores.TOP} with the largest |score|",
    "share of activations": f"together hold {triggers.PERCENT} % of",
    "coverage": f"coverage >= {triggers.PERCENT / 100}",
    "seen": f"seen {triggers.FEWEST_SEEN} times or more [own] on {triggers.PERCENT} % of",
    "detectors": f"K_n <= {triggers.MOST[1]} for tokens, <= {triggers.MOST[2]} for bigrams [own] and trigrams",
    "buckets": "by K_n: " + ", ".join(triggers.BUCKETS),
    "positional": f"I > {positions.POSITIONAL}.",
    "sequences": f"S >= {sequences.ENOUGH};",
    "window": f"over {profiles.WINDOW} positions, {profiles.WINDOW // 2} before to {profiles.WINDOW // 2 - 1} after",
    "extremes": f"<= {profiles.LOW / 100} for {profiles.WINDOW} positions in a row, and >= {profiles.HIGH / 100}",
    "strength": f"reaches {profiles.FAINT / 1000} or {profiles.FULL / 1000}",
    "delta": f"ratio >= {delta.MIN_RATIO:g} (`--min-ratio`) and step >= {delta.MIN_STEP} (",
    "lags": ", ".join(map(str, substitution.LAGS[1:-1])) + f" and {substitution.LAGS[-1]} tokens later",
    "draws": f"{DRAWS} draws if not given",
    "bootstrap": f"{bootstrap.DRAWS:,} bootstrap samples",
    "controls": f"; {controls.FEWEST} or more.",
    "context": f"{perplexity.DEFAULT_CONTEXT:,} at most",
    "histogram": f"{histogram.BINS} bins",
    "edges": f"from 2^−{-histogram.SMALLEST_EXPONENT} to 2^{histogram.LARGEST_EXPONENT}",
    "examples": f"{examples.KEPT} of each kind",
    "massive": f"|a| > {sinks.LARGE:g} (`--large`) and |a| > {sinks.TIMES:,g} (`--times`)",
    "median": f"one part in 2^{23 - sinks.SHIFT}",
}


def test_every_section_that_is_cited_is_there() -> None:
    sources = [path for top in ("nfinspect", "store", "samples", "tests") for path in (ROOT / top).rglob("*.py")]
    cited = {int(number) for path in sources for number in CITED.findall(path.read_text(encoding="utf-8"))}
    assert cited and cited <= SECTIONS
    assert sorted(SECTIONS) == list(range(1, len(SECTIONS) + 1))
    assert "**[own]** marks a choice of this project" in PAGE


def test_every_section_says_where_its_figures_are() -> None:
    for section in re.split(r"^## (?=\d+\. )", PAGE, flags=re.MULTILINE)[1:]:
        section = section.split("\n## ")[0]
        assert re.search(r"\*Command\* .+· \*SQL\* .+· \*app\* ", " ".join(section.split())), section[:30]


def test_links_within_the_page_lead_somewhere() -> None:
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in HEADINGS}
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= slugs


@pytest.mark.parametrize("what", STATED)
def test_the_constants_are_those_of_the_code(what: str) -> None:
    assert STATED[what] in TEXT


def test_the_sql_gives_the_figures_of_the_commands(planted_runs: Path) -> None:
    from nfinspect.analysis.trace import trace

    statements = {
        text.split("\n")[0].split(" (§")[0]: text for text in re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    }
    assert len(statements) == 5
    path = planted_runs / "planted.duckdb"
    with Console({"planted": path}) as console, RunFile.open(path) as run:

        def rows(what: str) -> list[tuple[float | None, ...]]:
            return [tuple(row) for row in console.run(statements[f"-- {what}"]).page()]

        stored = run.sql("SELECT neuron, dormancy FROM neurons WHERE site = 'mlp' AND layer = 1 ORDER BY neuron")
        assert np.allclose(rows("dormancy score"), stored.fetchall())

        of_layer = [row for row in trace(run, "tulip", tokens="all", top=200).neurons if row.layer == 1]
        found = dict(rows("difference"))
        assert np.allclose([found[row.neuron] for row in of_layer], [row.difference for row in of_layer], atol=1e-6)

        steps = {row.neuron: row for row in delta.delta(run, layers=[1]).neurons}
        for neuron, step, ratio in rows("step sensitivity and von Neumann ratio"):
            assert step == pytest.approx(steps[int(neuron)].step_sensitivity)  # type: ignore[arg-type]
            assert ratio == pytest.approx(steps[int(neuron)].von_neumann_ratio)  # type: ignore[arg-type]

        profile = [rate for _, rate in rows("profile")]
        fired = (run.neuron(1, 5) > 0).reshape(-1, len(profile))
        assert np.allclose(profile, fired.mean(axis=0))
        assert sum(row[-1] for row in rows("triggers")) == fired[:, 1:].sum()  # type: ignore[misc]
