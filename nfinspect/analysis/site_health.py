"""Every neuron of a site with its class, and every layer with its health: the rows of the tables `neurons` and
`layer_health`.

One layer at a time; values are streamed, and only where statistics and histograms do not decide.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfinspect.analysis import classes, counting
from nfinspect.analysis.classes import FAULTS, HealthOptions
from nfinspect.analysis.distribution import distribution
from nfinspect.analysis.enough import RULE_OF_THREE
from nfinspect.analysis.numbers import nullable
from nfinspect.analysis.router import router_load
from nfinspect.analysis.scores import LayerHealth, make_layer_health
from nfinspect_store.errors import RequestError, StoreError
from nfinspect_store.histogram import share_beyond
from nfinspect_store.statistics import NeuronStatistics
from nfinspect_store.tables import RunTables
from nfinspect_store.types import ABSENT, Layer

NEAR_DEAD_RATE = 1e-3  # methods §2


@dataclass(frozen=True)
class SiteHealth:
    """A site's neurons and layers. table: the columns of the table `neurons`, its rows in the order of
    `run.index(site)`.
    """

    site: str
    options: HealthOptions
    table: pa.Table
    layers: tuple[LayerHealth, ...]

    def layer_table(self) -> pa.Table:
        """The columns of the table `layer_health`, one row per layer."""
        layers = self.layers
        return pa.table(
            {
                "site": pa.array([x.site for x in layers], pa.string()),
                "layer": pa.array([x.layer for x in layers], pa.int32()),
                "neurons": pa.array([x.neurons for x in layers], pa.int32()),
                "activation_rate": pa.array([x.activation_rate for x in layers], pa.float64()),
                "pattern": pa.array([x.firing_pattern for x in layers], pa.string()),
                **{name: pa.array([x.count(name) for x in layers], pa.int32()) for name in FAULTS},
                "score": pa.array([x.health_score for x in layers], pa.float64()),
                "issues": pa.array([list(x.issues) for x in layers], pa.list_(pa.string())),
                "scale": pa.array([x.scale for x in layers], pa.float64()),
            }
        )


@dataclass(frozen=True)
class LayerClasses:
    """One layer's neurons, [neurons] in every array. fired: on how many tokens each fired, not a whole number where it
    is estimated.
    """

    layer: Layer
    stats: NeuronStatistics
    scale: float
    fired: NDArray[np.float64]
    classes: NDArray[np.str_]
    approximate: NDArray[np.bool_]

    @property
    def firing_rate(self) -> NDArray[np.float64]:
        return _share(self.fired, self.stats.n)

    def table(self) -> pa.Table:
        """The columns of the table `neurons`, NULL where a statistic is undefined."""
        stats, rate = self.stats, self.firing_rate
        bound = np.minimum(1.0, _share(np.full(rate.shape, RULE_OF_THREE), stats.n))
        return pa.table(
            {
                "site": pa.array([self.layer.site] * self.layer.neurons, pa.string()),
                "layer": np.full(self.layer.neurons, self.layer.layer, np.int32),
                "neuron": np.arange(self.layer.neurons, dtype=np.int32),
                "n": stats.n,
                "mean": nullable(np.where(stats.n > 0, stats.mean, np.nan)),
                "std": nullable(stats.std),
                "min": nullable(stats.minimum),
                "max": nullable(stats.maximum),
                "mean_abs": nullable(stats.mean_abs),
                "firing_rate": nullable(rate),
                "class": pa.array(self.classes.tolist(), pa.string()),
                "dormancy": nullable(classes.dormancy(stats, self.scale)),
                "skewness": nullable(stats.skewness),
                "excess_kurtosis": nullable(stats.excess_kurtosis),
                "near_dead": pa.array(rate < NEAR_DEAD_RATE, mask=~np.isfinite(rate)),
                "rate_upper95": nullable(np.where(self.classes == "dead", bound, np.nan)),
                "approximate": pa.array(self.approximate),
            }
        )


def classify_run(run: RunTables, site: str | None = None, options: HealthOptions | None = None) -> SiteHealth:
    """Classify every neuron of a site from the run's statistics, histograms and, where needed, values.

    Raises RequestError for an unknown site, or when no token is left to count; StoreError for NaN or infinite
    values.
    """
    options = options or HealthOptions()
    site = run.resolve_site(site)
    counted = counting.counted_tokens(run, options.skip_first)
    tables, layers = [], []
    for layer in run.layers:
        if layer.site != site:
            continue
        counts = run.histograms(site, layer.layer, skip_first=options.skip_first)
        found = classify_layer(run, layer, options, counts, counted)
        tables.append(found.table())
        layers.append(health_of_layer(found, counts, options))
    return SiteHealth(site, options, pa.concat_tables(tables).combine_chunks(), tuple(layers))


def classify_layer(
    run: RunTables,
    layer: Layer,
    options: HealthOptions,
    counts: NDArray[np.int64],
    counted: NDArray[np.bool_],
) -> LayerClasses:
    """Classify one layer. counts: its histograms int64[neurons, BINS]; counted: see
    `counting.counted_tokens`.

    The layer's values are read if they were kept and the histograms do not decide.
    """
    stats = run.statistics(layer.site, layer=layer.layer, skip_first=options.skip_first)
    check_layer(layer, stats, options)
    scale = classes.layer_scale(stats)
    approximate = np.zeros(layer.neurons, np.bool_)

    def reaching(threshold: float, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
        """On how many counted tokens |a| >= threshold, for the chosen neurons: float64[chosen]."""
        approximate[chosen] = not run.has_values or run.rounds_values
        if not run.has_values:
            return share_beyond(counts[chosen], threshold)
        return counting.count_reaching(run, layer, chosen, counted, threshold).astype(np.float64)

    fired = stats.fired.astype(np.float64)
    if layer.fires == "scale":
        fired = np.zeros(layer.neurons)
        threshold = options.threshold_weak * scale
        # In a layer of nothing but zeros nothing fires, though 0 >= 0.1 x 0.
        reached = (classes.largest_magnitude(stats) >= threshold) & (threshold > 0)
        fired[reached] = reaching(threshold, reached)
        approximate[:] = not run.has_values or run.rounds_values

    rho = None
    if layer.activation in classes.BOUNDED and layer.fires == "positive":
        rho, unsure = _saturation(run, layer, stats, counted)
        approximate |= unsure

    # The count above the layer scale matters only for neurons that no earlier rule takes.
    earlier = classes.classify(stats, layer.activation, scale, np.zeros(layer.neurons), options, rho)
    candidates = classes.is_sporadic_candidate(stats, scale) & (earlier != "dead") & (earlier != "saturated")
    above = np.zeros(layer.neurons)
    if candidates.any():
        fewest, most = counting.bounds_reaching(counts, scale)
        above[candidates] = most[candidates]
        percent = classes.SPORADIC_PERCENT * stats.n
        undecided = candidates & (fewest * 100 < percent) & (most * 100 >= percent) if run.has_values else candidates
        if undecided.any():
            above[undecided] = np.maximum(reaching(scale, undecided), 1.0)
    found = classes.classify(stats, layer.activation, scale, above, options, rho)
    if layer.experts:
        found = np.where(stats.n == 0, ABSENT, found)
    return LayerClasses(layer, stats, scale, fired, found, approximate)


def _saturation(
    run: RunTables, layer: Layer, stats: NeuronStatistics, counted: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """ρ_B of a layer with a bounded activation, float64[neurons], and where it is an estimate that leaves open whether
    the neuron is saturated, bool[neurons].
    """
    low, high = classes.BOUNDED[layer.activation]
    lowest, highest = classes.saturation_bounds(stats, low, high)
    rho = (lowest + highest) / 2
    undecided = (lowest < classes.SATURATED_RHO) & (highest >= classes.SATURATED_RHO)
    if run.has_values and undecided.any():
        sums = np.zeros((int(undecided.sum()), classes.RHO_BINS))
        for rows in counting.read_blocks(run, layer, undecided, counted):
            classes.bin_sums(sums, rows.place, rows.values, rows.counted, low, high)
        rho[undecided] = classes.saturation(sums, stats.n[undecided])
        undecided &= run.rounds_values
    return rho, undecided


def health_of_layer(found: LayerClasses, counts: NDArray[np.int64], options: HealthOptions) -> LayerHealth:
    """The layer's health from its neurons' classes. counts: histograms of its values, int64[any number, BINS]."""
    stats, layer = found.stats, found.layer
    return make_layer_health(
        layer_name=layer.module or f"{layer.site} L{layer.layer}",
        site=layer.site,
        layer=layer.layer,
        neurons=layer.neurons,
        counts={name: int((found.classes == name).sum()) for name in FAULTS},
        activation_rate=float(found.fired.sum() / stats.n.sum()),
        threshold_activation_rate=options.threshold_activation_rate,
        scale=found.scale,
        activation=layer.activation,
        approximate=bool(found.approximate.any()),
        distribution=distribution(stats.n, stats.mean, stats.m2, stats.minimum, stats.maximum, counts.sum(axis=0)),
        absent=int((found.classes == ABSENT).sum()),
        router=router_load(layer, stats.n),
    )


def check_layer(layer: Layer, stats: NeuronStatistics, options: HealthOptions | None = None) -> None:
    """Raises RequestError where no token is left to count, StoreError for NaN or infinite values."""
    reached = stats.n > 0
    if not reached.any():
        what = (
            "no token past position 0 is left to count" if options and options.skip_first else "no token was captured"
        )
        raise RequestError(f"{layer.site} layer {layer.layer} cannot be classified: {what}")
    if not (np.isfinite(stats.sum_abs[reached]).all() and np.isfinite(stats.m2[reached]).all()):
        raise StoreError(
            f"{layer.site} layer {layer.layer} ({layer.module}) holds NaN or infinite values: "
            "capture it again in float32"
        )


def _share(part: NDArray[np.float64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
    return result
