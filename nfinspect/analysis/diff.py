"""Two runs neuron by neuron: who died, woke or moved (methods §16)."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfinspect.analysis.contrasts import benjamini_hochberg
from nfinspect.analysis.enough import few_tokens
from nfinspect.analysis.health import network_report
from nfinspect.analysis.numbers import number
from nfinspect.json_values import Document
from nfinspect_store.errors import RequestError
from nfinspect_store.marks import Subject, same_model
from nfinspect_store.reader import RunFile
from nfinspect_store.types import ABSENT, CLASSES

MOVED_EFFECT = 0.2
"""|h| from which a neuron whose rate differs has moved: Cohen's "small" effect."""

MOVED_Q = 0.05

EXPECTED = 5
"""Smallest expected count with which the two-proportion test is used; below it, Fisher's exact test (Cochran 1954)."""

CHUNK = 1 << 20
"""Probabilities of Fisher's test computed at a time."""

READ_NEURONS = """
SELECT layer, neuron, n, firing_rate, "class" AS cls FROM neurons WHERE site = $site ORDER BY layer, neuron
"""

READ_PROMPT_TOKENS = """
SELECT md5(string_agg(token_id::VARCHAR, ',' ORDER BY prompt_idx, position)) FROM tokens WHERE generated = $generated
"""

FIGURES = ("died", "woke", "moved", "changed", "health", *CLASSES, "neurons")
"""What a condition may name: counts of neurons; `health`: overall score, B minus A; a class: its neurons, B minus A."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class NeuronDiff(Document):
    """One neuron in both runs. change: died, woke, moved, `class` if only its class differs, or empty.

    effect_size: Cohen's h, B minus A; p_value, q_value: of the difference between the firing rates.
    """

    site: str
    layer: int
    neuron: int
    change: str
    class_a: str
    class_b: str
    firing_rate_a: float | None
    firing_rate_b: float | None
    effect_size: float | None
    p_value: float | None
    q_value: float | None

    @property
    def address(self) -> str:
        return f"L{self.layer}/N{self.neuron}"


@dataclass(frozen=True)
class Scores(Document):
    """The overall health score of each run, 0-1."""

    a: float
    b: float


@dataclass(frozen=True)
class ClassPair(Document):
    """How many neurons are of class_a in A and of class_b in B."""

    class_a: str
    class_b: str
    neurons: int


@dataclass(frozen=True)
class Diff(Document):
    """Two runs compared. neurons: those that died, woke, moved or changed their class; dead ones first, then by |h|."""

    a: str
    b: str
    site: str
    compared: int
    tokens_a: int
    tokens_b: int
    health: Scores
    died: int
    woke: int
    moved: int
    changed: int
    classes: tuple[ClassPair, ...]
    neurons: tuple[NeuronDiff, ...]
    notes: tuple[str, ...]

    def figures(self) -> Mapping[str, float]:
        """What a condition may name (FIGURES)."""
        held = {name: 0 for name in CLASSES}
        for pair in self.classes:
            held[pair.class_b] += pair.neurons
            held[pair.class_a] -= pair.neurons
        return {
            "died": self.died,
            "woke": self.woke,
            "moved": self.moved,
            "changed": self.changed,
            "health": self.health.b - self.health.a,
            **held,
            "neurons": self.compared,
        }


def diff(a: RunFile, b: RunFile, site: str | None = None, *, other_texts: bool = False) -> Diff:
    """Compare B with A at one site, A's default one if not given. other_texts: also if model and texts both differ.

    Raises RequestError for runs that cannot be compared neuron by neuron.
    """
    site = a.resolve_site(site)
    notes = _comparable(a, b, site, other_texts)
    columns = [one.cursor().execute(READ_NEURONS, {"site": site}).fetchnumpy() for one in (a, b)]
    for one, read in zip((a, b), columns, strict=True):
        if len(read["layer"]) != sum(layer.neurons for layer in one.site_layers(site)):
            raise RequestError(f"{one.name} has no table of neurons yet: its capture was cut short; resume it first")
    n = [np.asarray(read["n"], np.float64) for read in columns]
    rates = [np.ma.filled(np.ma.asarray(read["firing_rate"], np.float64), np.nan) for read in columns]
    classes = [np.asarray(read["cls"]).astype(str) for read in columns]
    fired = [np.rint(rate * count) for rate, count in zip(rates, n, strict=True)]
    h = cohens_h(rates[0], rates[1])
    p = rate_p_values(fired[0], n[0], fired[1], n[1])
    q = benjamini_hochberg(p)
    there = (classes[0] != ABSENT) & (classes[1] != ABSENT)
    if not there.all():
        notes = (
            *notes,
            f"{int((~there).sum()):,} neurons of experts that one run never routed a token to are left out",
        )
    died = there & (classes[0] != "dead") & (classes[1] == "dead")
    woke = there & (classes[0] == "dead") & (classes[1] != "dead")
    moved = ~died & ~woke & (q <= MOVED_Q) & (np.abs(h) >= MOVED_EFFECT)
    changed = there & (classes[0] != classes[1])
    layers, neurons = (np.asarray(columns[0][name]) for name in ("layer", "neuron"))
    chosen = np.flatnonzero(died | woke | moved | changed)
    strength = np.nan_to_num(np.abs(h[chosen]), nan=-1.0)
    order = chosen[np.lexsort((neurons[chosen], layers[chosen], -strength, ~(died | woke)[chosen]))]
    rows = tuple(
        NeuronDiff(
            site,
            int(layers[i]),
            int(neurons[i]),
            "died" if died[i] else "woke" if woke[i] else "moved" if moved[i] else "class",
            str(classes[0][i]),
            str(classes[1][i]),
            *(number(float(x[i])) for x in (*rates, h, p, q)),
        )
        for i in order
    )
    pairs = Counter(zip(classes[0].tolist(), classes[1].tolist(), strict=True))
    return Diff(
        a=a.name,
        b=b.name,
        site=site,
        compared=int(there.sum()),
        tokens_a=a.tokens,
        tokens_b=b.tokens,
        health=Scores(*(network_report(one, site).overall_health_score for one in (a, b))),
        died=int(died.sum()),
        woke=int(woke.sum()),
        moved=int(moved.sum()),
        changed=int(changed.sum()),
        classes=tuple(
            ClassPair(one, other, pairs[one, other]) for one in CLASSES for other in CLASSES if pairs[one, other]
        ),
        neurons=rows,
        notes=notes,
    )


def _comparable(a: RunFile, b: RunFile, site: str, other_texts: bool) -> tuple[str, ...]:
    """Notes on the comparison. Raises RequestError where neurons or figures do not correspond."""
    if site not in b.sites:
        common = [one for one in a.sites if one in b.sites]
        further = (
            f"both have {', '.join(common)}: choose it with --site" if common else "the runs have no site in common"
        )
        raise RequestError(f"{b.name} has no site {site}, only {', '.join(b.sites)}; {further}")
    sizes = [{x.layer: x.neurons for x in one.site_layers(site)} for one in (a, b)]
    for layer in sorted(sizes[0].keys() | sizes[1].keys()):
        one, other = (held.get(layer) for held in sizes)
        if one != other:
            told = (f"{name.name} has {f'{count:,}' if count else 'no'}" for name, count in ((a, one), (b, other)))
            raise RequestError(
                f"expected the same layers and widths at {site}, found at L{layer}: {' neurons, '.join(told)}: neurons "
                "of different networks do not correspond; nfinspect ngrams --runs A,B compares layers by depth"
            )
    kinds = [{(x.layer, x.activation, x.fires) for x in one.site_layers(site)} for one in (a, b)]
    notes = [f"{one.name}: {note}" for one in (a, b) for note in one.figure_notes]
    fewer = min(a, b, key=lambda one: one.tokens)
    if few := few_tokens(fewer.tokens):
        notes.append(f"{fewer.name}: {few}")
    if kinds[0] != kinds[1]:
        notes.append("the layers' activation functions differ: so do what counts as firing and the rule for dead")
    prompts, generated = ([_hash(one, said) for one in (a, b)] for said in (False, True))
    if prompts[0] == prompts[1]:
        if generated[0] != generated[1]:
            notes.append(
                "the texts that the models wrote differ, and rates are over them too; the prompts are the same"
            )
        return tuple(notes)
    subjects = [Subject.of(one.info, one.name).fingerprint for one in (a, b)]
    one_model = all(subjects) and same_model(*(dict(s or {}) for s in subjects))
    if not one_model and not other_texts:
        raise RequestError(
            f"{a.name} and {b.name} read other texts, and are not known to be of one model: a rate that differs could "
            "be the text's or the model's; capture both on the same prompts (--other-texts compares them all the same)"
        )
    same = "of one model" if one_model else "of two models, so that differences may be the texts' or the models'"
    notes.append(f"the runs read other texts and are {same}")
    return tuple(notes)


def _hash(run: RunFile, generated: bool) -> object:
    return run.cursor().execute(READ_PROMPT_TOKENS, {"generated": generated}).fetchall()[0][0]


def cohens_h(a: Floats, b: Floats) -> Floats:
    """2 asin √b − 2 asin √a (Cohen 1988, §6.2): B minus A, −π to π; NaN where a rate is undefined."""
    return np.asarray(2 * np.arcsin(np.sqrt(b)) - 2 * np.arcsin(np.sqrt(a)), np.float64)


def rate_p_values(fired_a: Floats, n_a: Floats, fired_b: Floats, n_b: Floats) -> Floats:
    """Two-sided p of each pair of rates: the two-proportion z test with pooled variance; Fisher's exact test where an
    expected count is below EXPECTED. float64[neurons]; NaN where a rate is undefined or there are no tokens.
    """
    from scipy import special

    total, fired = n_a + n_b, fired_a + fired_b
    with np.errstate(divide="ignore", invalid="ignore"):
        pooled = fired / total
        error = np.sqrt(pooled * (1 - pooled) * (1 / n_a + 1 / n_b))
        z = np.where(error > 0, (fired_b / n_b - fired_a / n_a) / error, 0.0)
        least = np.minimum(pooled, 1 - pooled) * np.minimum(n_a, n_b)
    p = np.asarray(special.erfc(np.abs(z) / np.sqrt(2)), np.float64)
    p[~np.isfinite(pooled) | (np.minimum(n_a, n_b) < 1)] = np.nan
    few = np.flatnonzero((least < EXPECTED) & np.isfinite(p))
    events = np.minimum(fired, total - fired)[few]  # the rarer of firing and not firing: fewer tables to sum
    rare_b = np.where(fired <= total - fired, fired_b, n_b - fired_b)[few]
    support = int(np.minimum(events, np.minimum(n_a, n_b)[few]).max(initial=0)) + 1
    step = max(1, CHUNK // support)
    for start in range(0, len(few), step):
        part = slice(start, start + step)
        p[few[part]] = _fisher(events[part], rare_b[part], n_a[few[part]], n_b[few[part]])
    return p


def _fisher(events: Floats, seen: Floats, n_a: Floats, n_b: Floats) -> Floats:
    """Σ of the probabilities of all tables that are no likelier than the one seen: `seen` of `events` in B."""
    from scipy.special import gammaln

    def log_choose(n: Floats, k: Floats) -> Floats:
        return np.asarray(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1), np.float64)

    lowest, highest = np.maximum(0, events - n_a), np.minimum(events, n_b)
    x = lowest[:, None] + np.arange(int((highest - lowest).max(initial=0)) + 1, dtype=np.float64)
    inside = x <= highest[:, None]
    x = np.asarray(np.where(inside, x, highest[:, None]), np.float64)
    every = [column[:, None] for column in (events, n_a, n_b)]
    log_p = log_choose(every[2], x) + log_choose(every[1], every[0] - x) - log_choose(every[1] + every[2], every[0])
    likely = np.where(inside, np.exp(log_p), 0.0)
    here = np.take_along_axis(likely, (seen - lowest)[:, None].astype(np.int64), axis=1)
    return np.asarray(np.minimum(1.0, np.where(likely <= here * (1 + 1e-7), likely, 0.0).sum(axis=1)), np.float64)
