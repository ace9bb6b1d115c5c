"""The contents of the tables `neurons` and `layer_health`, computed from a run's statistics at each segment."""

import pyarrow as pa

from nfinspect.analysis.site_health import classify_run
from nfinspect_store.tables import RunTables


def classify_tables(tables: RunTables, *, exact: bool) -> tuple[pa.Table, pa.Table]:
    """Rows of `neurons` and of `layer_health`.

    exact (in the last segment): count what depends on the layer scale from the stored values; otherwise estimate it
    from the histograms, as a pass over all values at every segment would make the cost quadratic in the tokens.
    """
    run = tables if exact else tables.without_values()
    sites = [classify_run(run, site) for site in run.sites]
    return pa.concat_tables([s.table for s in sites]), pa.concat_tables([s.layer_table() for s in sites])
