"""What a run says of the byte limit that ended its capture: how much all of it would take."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nfinspect_store.types import RunInfo

NEEDED = "limit_needed"
"""Of a run's settings: a limit that is enough for all of it, as `--limit-bytes` takes it. Only a run that reached its
limit has one.
"""

UNITS = (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3))

_LIMIT = re.compile(r"\d{1,3}(\.\d)?[kMGT]?")


def limit_text(count: int) -> str:
    """A limit of at least so many bytes, in two figures: `13M`, `1.6G`."""
    step = 10 ** max(0, len(str(count)) - 2)
    rounded = -(-count // step) * step
    unit, size = next(((unit, size) for unit, size in UNITS if rounded >= size), ("", 1))
    whole, rest = divmod(rounded * 10 // size, 10)
    return f"{whole}.{rest}{unit}" if rest else f"{whole}{unit}"


def needed_limit(info: "RunInfo") -> str:
    """The limit with which a run that has reached its own can be finished; empty for others. The settings may be a
    stranger's.
    """
    found = info.settings.get(NEEDED)
    return found if info.status == "interrupted" and isinstance(found, str) and _LIMIT.fullmatch(found) else ""


def resume_advice(needed: str) -> str:
    """How the command of an unfinished run goes on with it. needed: by `needed_limit`."""
    return f"with --resume and a larger --limit-bytes ({needed} for all of it)" if needed else "with --resume"
