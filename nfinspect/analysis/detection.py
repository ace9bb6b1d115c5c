"""How well planted faults are found: precision and recall of each class."""

from collections.abc import Sequence
from dataclasses import dataclass

from nfinspect_store.tables import RunTables
from nfinspect_store.types import CLASSES

READ_BOTH = """
SELECT p.class, n.class FROM planted p JOIN neurons n USING (site, layer, neuron)
"""


@dataclass(frozen=True)
class ClassDetection:
    """One class. correct: neurons both planted and found in it. precision = correct / found, recall = correct /
    planted; None where there is nothing to divide by.
    """

    name: str
    planted: int
    found: int
    correct: int

    @property
    def precision(self) -> float | None:
        return self.correct / self.found if self.found else None

    @property
    def recall(self) -> float | None:
        return self.correct / self.planted if self.planted else None

    def to_json(self) -> dict[str, object]:
        return {
            "class": self.name,
            "planted": self.planted,
            "found": self.found,
            "correct": self.correct,
            "precision": self.precision,
            "recall": self.recall,
        }


def detection(planted: Sequence[str], found: Sequence[str]) -> tuple[ClassDetection, ...]:
    """One row for every class of methods §2, from the true and the found classes of the same neurons in one order."""
    pairs = list(zip(planted, found, strict=True))
    return tuple(
        ClassDetection(
            name,
            planted=sum(truth == name for truth, _ in pairs),
            found=sum(said == name for _, said in pairs),
            correct=sum(truth == said == name for truth, said in pairs),
        )
        for name in CLASSES
    )


def run_detection(run: RunTables) -> tuple[ClassDetection, ...]:
    """The detection in a simulated run: its table `planted` compared with its table `neurons`."""
    rows = run.cursor().execute(READ_BOTH).fetchall()
    return detection([truth for truth, _ in rows], [said for _, said in rows])
