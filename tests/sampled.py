"""Parameters of which `make test` tries some, and `make test-slow` the others."""

from collections.abc import Iterable
from typing import Any

import pytest


def sampled(values: Iterable[Any], every: int) -> list[Any]:
    """Each `every`-th of the values, the first among them; the others marked as slow."""
    return [
        value if i % every == 0 else pytest.param(value, marks=pytest.mark.slow, id=str(value))
        for i, value in enumerate(values)
    ]
