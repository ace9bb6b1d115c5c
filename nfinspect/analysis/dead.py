"""Dead and near-dead neurons by layer, and on how many other tokens the dead ones may come alive (methods §2)."""

from dataclasses import dataclass

from nfinspect.analysis.classes import HealthOptions
from nfinspect.analysis.classification_cache import kept_classification
from nfinspect.analysis.enough import RULE_OF_THREE
from nfinspect.json_values import Document
from nfinspect_store.tables import RunTables
from nfinspect_store.types import ABSENT

COUNT_DEAD = """
SELECT layer, count(*) AS neurons, count(*) FILTER (class = 'dead') AS dead,
    count(*) FILTER (near_dead AND class != 'dead') AS near_dead, max(n) AS tokens,
    coalesce(min(n) FILTER (class = 'dead'), max(n)) AS least, count(*) FILTER (class = '{absent}') AS absent
FROM {source} WHERE site = $site GROUP BY layer ORDER BY layer
"""

RECOMPUTED = "neurons_by_class"


@dataclass(frozen=True)
class DeadLayer(Document):
    """One layer. near_dead: neurons that fired on less than one token in a thousand and are not dead.

    rate_upper95: 95 % upper bound on the share of other tokens on which a neuron that was dead on all `tokens` comes
    alive, 3/n, at most 1; None without a token. Of a mixture of experts `tokens` are those of its busiest expert, and n
    those of the dead neuron with the fewest; absent: neurons of experts that no token was routed to, of which nothing
    is known.
    """

    site: str
    layer: int
    neurons: int
    dead: int
    near_dead: int
    tokens: int
    rate_upper95: float | None
    absent: int = 0

    @property
    def reached(self) -> int:
        """Neurons that are not absent, of which shares are taken."""
        return self.neurons - self.absent


def dead_by_layer(run: RunTables, site: str | None = None) -> tuple[DeadLayer, ...]:
    """The layers of a site in order. Raises RequestError for an unknown site."""
    site = run.resolve_site(site)
    cursor = run.cursor()
    rows = cursor.execute(COUNT_DEAD.format(source="neurons", absent=ABSENT), {"site": site}).fetchall()
    if not rows:  # an interrupted capture did not get this far
        cursor.register(RECOMPUTED, kept_classification(run, site, HealthOptions()).table)
        rows = cursor.execute(COUNT_DEAD.format(source=RECOMPUTED, absent=ABSENT), {"site": site}).fetchall()
    return tuple(
        DeadLayer(
            site, layer, neurons, dead, near_dead, tokens, min(1.0, RULE_OF_THREE / least) if least else None, absent
        )
        for layer, neurons, dead, near_dead, tokens, least, absent in rows
    )
