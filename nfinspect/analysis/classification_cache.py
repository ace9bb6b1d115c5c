"""Classifications with other options than the defaults, kept in memory as long as their run is open."""

import threading
from weakref import WeakKeyDictionary

from nfinspect.analysis.classes import HealthOptions
from nfinspect.analysis.site_health import SiteHealth, classify_run
from nfinspect_store.tables import RunTables

_kept: WeakKeyDictionary[RunTables, dict[tuple[str, HealthOptions], SiteHealth]] = WeakKeyDictionary()
_lock = threading.Lock()


def kept_classification(run: RunTables, site: str | None, options: HealthOptions) -> SiteHealth:
    """`classify_run` of a finished run, computed once for each site and choice of options while the run is open."""
    key = (run.resolve_site(site), options)
    with _lock:
        known = _kept.setdefault(run, {})
        if key in known:
            return known[key]
    found = classify_run(run, site, options)
    with _lock:
        known[key] = found
    return found
