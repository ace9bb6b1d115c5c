"""Every figure of docs/scaling.md follows from the rates on it, and these are near those that were measured."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from nfinspect.capturing.sizes import state_bytes  # noqa: E402
from nfinspect_store.examples import KEPT  # noqa: E402
from nfinspect_store.histogram import BINS  # noqa: E402
from tests.benchmarks import scaling  # noqa: E402  (its folder has just been put on the path)

PAGE = (ROOT / "docs/scaling.md").read_text(encoding="utf-8")


def part(name: str) -> str:
    (found,) = re.findall(rf"<!-- {name}: begin -->\n\n(.*?)\n\n<!-- {name}: end -->", PAGE, re.DOTALL)
    return str(found)


def told() -> dict[str, float]:
    """The rates as the page rounds them."""
    names = {name: name for name in ("float32", "int8", "stats")} | {
        row: name for name, (row, _) in scaling.MERGES.items()
    }
    rows = re.findall(r"^\| ([^|]+) \| ([\d.,]+) \|", part("rates"), re.MULTILINE)
    return {names[row]: float(value.replace(",", "")) for row, value in rows}


def test_every_figure_follows_from_the_rates() -> None:
    assert set(told()) == {"float32", "int8", "stats", *scaling.MERGES}
    for name, text in scaling.parts(told()).items():
        assert part(name) == text, f"{name}: python -m tests.benchmarks.scaling --page docs/scaling.md"


def test_the_rates_are_near_the_measured_ones() -> None:
    measured = scaling.measured()
    for name, value in told().items():
        assert value == pytest.approx(measured[name], rel=0.5), name


def test_the_formulas() -> None:
    """By hand: 8B over 1 B tokens."""
    shape, (every, int8, answers, _, stats) = scaling.SHAPES[0], scaling.KEPT
    assert shape.neurons == 32 * 14_336 == 458_752
    values = 10**9 * 458_752
    rates = {"float32": 20.0, "int8": 10.0, "stats": 40.0}
    assert scaling.hours(shape, every, 10**9, rates) == pytest.approx(values * 20e-9 / 3600)
    assert scaling.hours(shape, answers, 10**9, rates) == pytest.approx(values * 0.1 * 10e-9 / 3600)
    assert scaling.hours(shape, stats, 10**9, rates) == 2 * scaling.hours(shape, every, 10**9, rates)
    assert scaling.machines(shape, every, 10**9, rates) == -(-values * 20 // (10**9 * 3600 * 168))
    # A value takes its bytes, a 256th of its row's, an eighth of a byte for its gate, and its share of the means.
    per_value = (4 + 6.5 / 256) / 0.996 + 1 / 8 + 2 / 256 + 2 * 1.01 * 4 / 1024
    assert scaling.stored_bytes(shape, every, 10**9) == pytest.approx(values * per_value, rel=1e-3)
    per_value = (1 + 10.5 / 256) / 0.996 + 1 / 8 + 2 / 256 + 2 * 1.01 * 4 / 1024
    assert scaling.stored_bytes(shape, int8, 10**9) == pytest.approx(values * per_value, rel=1e-3)
    assert pytest.approx(3.25e9, rel=0.01) == 33_000 * 6 * 8192 * 2  # what Activault publishes agrees with itself
    assert pytest.approx(3.5, rel=0.01) == 10**10 / 33_000 / 86_400
    assert 6 * 8192 == 49_152 and 6 * 28_672 == 172_032 and 80 * 28_672 == 2_293_760
    assert 172_032 / 49_152 == 3.5 and round(2_293_760 / 49_152) == 47


def test_parts_and_their_merge() -> None:
    """By hand: 8B over 10 B tokens."""
    shape, (every, int8, answers, _, stats) = scaling.SHAPES[0], scaling.KEPT
    tokens, values = 10**10, 10**10 * 458_752
    rates = {"float32": 20.0, "int8": 10.0, "stats": 40.0}
    rates |= {"merge": 45.0, "merge mean": 3.0, "merge token": 900.0, "merge neuron": 8000.0}
    # Parts keep and record float32; so int8 needs the room of float32 until it is merged, and its own as well.
    assert scaling.machines(shape, int8, tokens, rates) == scaling.machines(shape, every, tokens, rates)
    assert scaling.machines(shape, int8, tokens, rates) == -(-values * 20 // (10**9 * 3600 * 168))
    alone = scaling.stored_bytes(shape, every, tokens)
    assert scaling.parts_bytes(shape, int8, tokens, 1) == scaling.parts_bytes(shape, every, tokens, 1) == alone
    assert alone < scaling.parts_bytes(shape, int8, tokens, 85) < 1.001 * alone  # statistics in every part
    assert scaling.parts_bytes(shape, stats, tokens, 1) == scaling.stored_bytes(shape, stats, tokens)
    assert scaling.merge_hours(shape, int8, tokens, 65, rates) == pytest.approx(values * 45e-9 / 3600)
    assert scaling.merge_hours(shape, answers, tokens, 65, rates) == pytest.approx(values * 0.1 * 45e-9 / 3600)
    of_means, of_tokens, of_parts = 2 * 9_765_625 * 458_752 * 3e-9, tokens * 900e-9, 65 * 458_752 * 8e-6
    merging = scaling.merge_hours(shape, stats, tokens, 65, rates)
    assert merging == pytest.approx((of_means + of_tokens + of_parts) / 3600)


def test_the_rates_of_a_merge_are_those_of_its_largest_runs() -> None:
    """What passed, and of the first table: by size, not by number of parts."""
    page = """
| GB of values | 1 | 2 | growth |
| one file: seconds | 1.0 (2.0) | 3.0 (4.0) | 0.5 |
| one file: ns per value | 9.0 (8.0) | 7.0 (1,006.5) | – |
| parts | 1 | 2 | growth |
| one file: ns per value | 1.0 (2.0) | 3.0 (4.0) | – |
"""
    assert scaling._of_largest("one file: ns per value", page) == 1006.5
    assert scaling._of_largest("a mean more", "| a mean more | – | 3.2 | 1,004.5 | – |") == 1004.5


def test_memory_is_that_of_the_estimate() -> None:
    """Of a neuron: 9 numbers and a histogram twice, 28 bytes a concept, and 3 lists of examples of 12 bytes."""
    per_neuron = 2 * (9 * 8 + BINS * 8) + 3 * KEPT * 12
    assert state_bytes(1000, 1) == 1000 * (per_neuron + 28) and state_bytes(1000, 100) == 1000 * (per_neuron + 2800)
