"""When a training monitor raises an alert (methods §2; thresholds marked [own] have no source).

    health       the score is below 0.9 x that of the reading before
    slow fall    it is below 0.9 x the highest since the last alert about it [own]
    dying        a layer's dead neurons have grown by 10 % of the layer over their lowest number since the first reading
                 or the last such alert [own]
    saturation   the same for its saturated neurons [own]
    vanishing    a layer's gradient is below 1e-4 of that of the layer read last [own]
    exploding    a layer's gradient is more than 100 x its median so far, or not finite [own]

The alerts of a single report (missing firing, problematic layers) are raised when they begin, not at every reading.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfinspect.analysis.history import Alert, Reading
from nfinspect.analysis.module_names import layer_words
from nfinspect.analysis.scores import ISSUE_PERCENT
from nfinspect.text import counted

FALL = 0.9  # share of the score before
MOSTLY_DEAD_PERCENT = 50  # of its neurons dead, from which a dying layer is critical [own]
VANISHING = 1e-4
EXPLODING = 100.0
ENOUGH_GRADIENTS = 3
"""Finite gradients from which their median is used [own]."""

NAMED = 12
"""Neurons that an alert's text names; all of them are in `neurons`."""


@dataclass(frozen=True)
class LayerChange:
    """What a reading changed in a layer."""

    died: tuple[int, ...]
    revived: tuple[int, ...]
    alerts: tuple[Alert, ...]


class _Growth:
    """Tells when a set of a layer's neurons has grown by 10 % of the layer over its smallest size since the first
    reading or the last such growth.
    """

    def __init__(self, held: NDArray[np.bool_]) -> None:
        self._base = held

    def grown(self, held: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The new neurons if the set has grown by that much, else none: int64[new]."""
        count, base = int(held.sum()), int(self._base.sum())
        new = np.flatnonzero(held & ~self._base)
        # The counts are compared, not the members: neurons that come and go by chance are no growth.
        if 100 * (count - base) >= ISSUE_PERCENT * len(held):
            self._base = held
            return new
        if count < base:
            self._base = held
        return new[:0]


class LayerWatch:
    """One layer over its readings: which neurons died when, and the alerts about it."""

    def __init__(self, layer: int, name: str) -> None:
        self.layer, self.name = layer, name
        self._dead_since: NDArray[np.int64] | None = None
        self._dying: _Growth | None = None
        self._saturating: _Growth | None = None
        self._gradients: list[float] = []
        self._bad_gradient = ""

    def take(self, step: int, since: int, classes: NDArray[np.str_]) -> LayerChange:
        """Take a reading. classes: str[neurons]; since: the step of the oldest values that they rest on."""
        dead, saturated = classes == "dead", classes == "saturated"
        if self._dead_since is not None and len(self._dead_since) != len(classes):
            self._dead_since = None  # it is another layer now
        if self._dead_since is None or self._dying is None or self._saturating is None:
            self._dead_since = np.where(dead, since, -1)
            self._dying, self._saturating = _Growth(dead), _Growth(saturated)
            return LayerChange((), (), ())
        was_dead = self._dead_since >= 0
        died, revived = np.flatnonzero(dead & ~was_dead), np.flatnonzero(~dead & was_dead)
        self._dead_since = np.where(dead, np.where(was_dead, self._dead_since, since), -1)
        alerts = []
        new = self._dying.grown(dead)
        if len(new):
            alerts.append(self._dying_alert(step, new, int(dead.sum()), len(dead)))
        new = self._saturating.grown(saturated)
        if len(new):
            text = (
                f"saturation grows in {layer_words(self.name)}: {len(new)} more neurons stuck at one value "
                f"({int(saturated.sum())} of {len(dead)}): {named(new)}"
            )
            alerts.append(self._alert(step, "saturation", "warning", text, tuple(new.tolist())))
        return LayerChange(tuple(died.tolist()), tuple(revived.tolist()), tuple(alerts))

    def take_gradient(self, step: int, rms: float, reference: float) -> tuple[Alert, ...]:
        """Take a gradient. rms: its root mean square; reference: that of the layer read last."""
        usual = statistics.median(self._gradients) if len(self._gradients) >= ENOUGH_GRADIENTS else math.inf
        state, text = "", ""
        if not math.isfinite(rms):
            state, text = "exploding", "is not finite"
        elif rms > EXPLODING * usual > 0:
            state, text = "exploding", f"is {rms:.2g}, {rms / usual:.0f} times its median so far"
        elif rms < VANISHING * reference and math.isfinite(reference):
            state, text = "vanishing", f"is {rms:.2g}, that of the last layer {reference:.2g}"
        if math.isfinite(rms):
            self._gradients.append(rms)
        began, self._bad_gradient = state != self._bad_gradient, state
        if not state or not began:
            return ()
        text = f"gradient {state} in {layer_words(self.name)}: its root mean square {text}"
        return (self._alert(step, state, "warning", text),)

    def _dying_alert(self, step: int, new: NDArray[np.int64], dead: int, neurons: int) -> Alert:
        assert self._dead_since is not None
        at = self._dead_since[new]
        steps = sorted(set(at.tolist()))
        when = f"at step {steps[0]}" if len(steps) == 1 else f"between steps {steps[0]} and {steps[-1]}"
        text = (
            f"{layer_words(self.name)} is dying: {counted(len(new), 'neuron')} died {when}, {dead} of {neurons} are "
            f"dead: {named(new)}"
        )
        level = "critical" if 100 * dead >= MOSTLY_DEAD_PERCENT * neurons else "warning"
        return self._alert(step, "dying", level, text, tuple(new.tolist()), tuple(at.tolist()))

    def _alert(
        self, step: int, kind: str, level: str, text: str, neurons: tuple[int, ...] = (), at: tuple[int, ...] = ()
    ) -> Alert:
        return Alert(step, kind, level, text, self.layer, self.name, neurons, at)


class NetworkWatch:
    """The network's score over the readings, and the alerts of each report."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._highest = 0.0
        self._held: set[str] = set()

    def take(self, reading: Reading, report_alerts: Sequence[str]) -> tuple[Alert, ...]:
        """Take a reading and its report's alerts (scores.alerts)."""
        return (*self._of_score(reading), *self._of_report(reading.step, report_alerts))

    def _of_score(self, reading: Reading) -> tuple[Alert, ...]:
        score, last = reading.health_score, self._last
        if score is None:
            return ()
        self._last = score
        if last is not None and score < FALL * last:
            self._highest = score
            return (Alert(reading.step, "health", "warning", f"health fell from {last:.3f} to {score:.3f}"),)
        if score < FALL * self._highest:
            highest, self._highest = self._highest, score
            text = f"health has fallen to {score:.3f}, from {highest:.3f} at its best"
            return (Alert(reading.step, "slow fall", "warning", text),)
        self._highest = max(self._highest, score)
        return ()

    def _of_report(self, step: int, texts: Sequence[str]) -> tuple[Alert, ...]:
        now = {"missing" if "missing" in text.split(",")[0] else "problematic": text for text in texts}
        found = []
        for kind, text in now.items():
            level, _, rest = text.partition(": ")
            if kind not in self._held:
                found.append(Alert(step, kind, level.lower(), rest))
        self._held = set(now)
        return tuple(found)


def named(neurons: Sequence[int] | NDArray[np.int64]) -> str:
    """`N3, N17 … and 20 more`."""
    shown = ", ".join(f"N{n}" for n in neurons[:NAMED])
    return shown + (f" and {len(neurons) - NAMED} more" if len(neurons) > NAMED else "")
