"""A run from a simulated network: planted faults recorded like any capture, the true classes in the table `planted`."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nfinspect.analysis.detection import ClassDetection, run_detection
from nfinspect.analysis.health import NetworkReport, network_report
from nfinspect.analysis.planted import NetworkPlan, planted_network, truth_table
from nfinspect.capturing.arrays import ArrayPrompt, array_info, write_run
from nfinspect_store.errors import RunExists
from nfinspect_store.reader import RunFile
from nfinspect_store.schema import PLANTED
from nfinspect_store.types import Layer

KIND = "simulated"

PROMPT_TOKENS = 64
"""The most tokens in one simulated prompt."""

CONCEPTS = ("one", "two", "baseline")
"""The prompts' concepts, in turn. They mean nothing: a trace of any should find nothing."""


@dataclass(frozen=True)
class Simulation:
    """A simulated run: where it is, how well its faults are found, and its health."""

    path: Path
    plan: NetworkPlan
    detection: tuple[ClassDetection, ...]
    health: NetworkReport

    def to_json(self) -> dict[str, object]:
        return {
            "run": self.path.stem,
            "path": str(self.path),
            "bytes": self.path.stat().st_size,
            **asdict(self.plan),
            "detection": [found.to_json() for found in self.detection],
            "health": self.health.to_json(),
        }


def simulate_run(path: Path, plan: NetworkPlan) -> Simulation:
    """Write the network of `plan` as a run, and diagnose it like any run.

    Raises RunExists, RequestError, StorageFull; then no new file is left.
    """
    if path.exists():
        raise RunExists(f"a run named {path.stem} already exists: choose another --run, or delete it")
    layers = list(planted_network(plan))
    prompts = [_prompt(plan.tokens, start) for start in range(0, plan.tokens, PROMPT_TOKENS)]

    def span(prompt: int) -> slice:
        return slice(prompt * PROMPT_TOKENS, (prompt + 1) * PROMPT_TOKENS)

    def gates(prompt: int, layer: Layer) -> NDArray[np.bool_]:
        fired = layers[layer.layer_id].fired
        assert fired is not None
        return fired[span(prompt)]

    gated = layers[0].fired is not None
    info = array_info(path.stem, plan.seed)
    write_run(
        path,
        layers=[planted.layer for planted in layers],
        prompts=prompts,
        values=lambda prompt, layer: layers[layer.layer_id].values[span(prompt)],
        fired=gates if gated else None,
        info=replace(info, kind=KIND, model=f"simulated {plan.activation} network", settings=asdict(plan)),
        seed=plan.seed,
        tables={PLANTED: truth_table(layers)},
    )
    with RunFile.open(path) as run:
        return Simulation(path, plan, run_detection(run), network_report(run))


def _prompt(tokens: int, start: int) -> ArrayPrompt:
    numbers = list(range(start, min(start + PROMPT_TOKENS, tokens)))
    words = [f" t{number}" for number in numbers]
    concept = CONCEPTS[start // PROMPT_TOKENS % len(CONCEPTS)]
    return ArrayPrompt(concept, "".join(words).strip(), numbers, words, len(words))
