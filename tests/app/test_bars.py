"""Every bar is as long as its value, to within a cell: a little looks like little, and nothing like nothing."""

import itertools
import random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from nfinspect.analyses import spec
from nfinspect.analysis.ngram_layers import LayerNgrams
from nfinspect.tui.glyphs import ASCII, UNICODE, Glyphs, bar, shade
from nfinspect.tui.plot_lines import plot_lines
from nfinspect.tui.widgets.bars import LITTLE, LITTLE_BELOW, split_rows
from nfinspect.tui.widgets.chart import histogram
from nfinspect.tui.widgets.plots import fillings, layer_bars

PLAIN = pytest.mark.parametrize("plain", [False, True], ids=["unicode", "ascii"])
GLYPHS = pytest.mark.parametrize("glyphs", [UNICODE, ASCII], ids=["unicode", "ascii"])


def canvas(lines: tuple[str, ...], rows: int) -> list[str]:
    """The columns of a chart's bars, from the lowest row up."""
    body = [line[min(line.find(side) for side in "│┤|+" if side in line) + 1 :] for line in lines[:rows]]
    wide = max(map(len, body))
    return ["".join(column) for column in zip(*(line.ljust(wide) for line in reversed(body)), strict=True)]


def height(column: str, plain: bool) -> float:
    """Rows that a bar of one part fills."""
    signs = {"@": 1.0} if plain else {sign: i / 8 for i, sign in enumerate(UNICODE.levels)}
    return sum(signs.get(sign, 0.0) for sign in column)


@PLAIN
def test_upright_bars_are_as_high_as_their_values(plain: bool) -> None:
    rng = random.Random(0)
    for rows in (3, 6, 15):
        values = (100.0, *(rng.choice([0, 0.13, 2, rng.uniform(0, 100)]) for _ in range(6)))
        labels = tuple(f"L{i}" for i in range(len(values)))
        drawn = canvas(layer_bars(labels, (values,), 80, rows + 2, plain, whole=True), rows)
        bars = [list(group) for blank, group in itertools.groupby(drawn, lambda c: not c.strip()) if not blank]
        shown = [value for value in values if value]
        assert len(bars) == len(shown)
        for value, columns in zip(shown, bars, strict=True):
            exact = value / 100 * rows
            assert len(set(columns)) == 1
            assert abs(height(columns[0], plain) - exact) <= (0.5 if plain else 1 / 16) + 1e-9, value
            assert (LITTLE in columns[0]) == (height(columns[0], plain) == 0)


@PLAIN
def test_the_parts_of_a_stack_have_the_rows_that_they_come_to(plain: bool) -> None:
    """0.13 % of a chart of six rows fills none of them."""
    parts = ((0.13, 20.0), (99.87, 30.0), (0.0, 50.0))
    rows = 6
    drawn = canvas(layer_bars(("L0", "L1"), parts, 60, rows + 2, plain, whole=True), rows)
    tallest = [column for column in drawn if column.strip()]
    first, last = tallest[0], tallest[-1]
    signs = fillings(3, plain)
    assert first == signs[1] * 6
    assert [last.count(sign) for sign in signs] == [1, 2, 3]


def test_any_stack_is_right_in_its_parts_and_in_whole() -> None:
    rng = random.Random(1)
    for _ in range(300):
        rows = rng.randint(1, 40)
        values = [rng.choice([0.0, 0.01, rng.random()]) for _ in range(rng.randint(2, 9))]
        top = max(sum(values), 1.0)
        found = split_rows(values, top / rows, rows)
        assert all(abs(n - value / top * rows) < 1 for n, value in zip(found, values, strict=True))
        assert abs(sum(found) - sum(values) / top * rows) <= 0.5 + 1e-9
        assert all(n == 0 for n, value in zip(found, values, strict=True) if value == 0)


@PLAIN
def test_the_ngram_buckets_pass_it_on(plain: bool) -> None:
    layers = [
        LayerNgrams("mlp", 0, 3000, 3000, 0, 0, 0, 0, 0, {"1-5": 4, "6-10": 0, ">5k": 2996}),
        LayerNgrams("mlp", 1, 3000, 3000, 0, 0, 0, 0, 0, {"1-5": 1500, "6-10": 0, ">5k": 1500}),
    ]
    found = cast("Any", SimpleNamespace(layers=tuple(layers), n=1))
    lines = plot_lines(spec("ngrams").drawings[0].plot, found, None, 60, 10, plain)
    signs = fillings(3, plain)
    bars = [column for column in canvas(lines[1:], 6) if column.strip()]
    assert bars[0] == signs[2] * 6 and bars[-1] == signs[0] * 3 + signs[2] * 3


@PLAIN
def test_a_negative_bar_hangs_below_zero(plain: bool) -> None:
    drawn = canvas(layer_bars(("a", "b", "c"), ((-4.0, 4.0, -0.01),), 40, 10, plain), 8)
    bars = [next(group) for blank, group in itertools.groupby(drawn, lambda c: not c.strip()) if not blank]
    full = "@" if plain else "█"
    assert bars == [full * 4 + " " * 4, " " * 4 + full * 4, " " * 3 + LITTLE_BELOW + " " * 4]


@PLAIN
def test_a_histogram_of_one_against_thousands(plain: bool) -> None:
    counts = (1, 4000, 2000, 0, 1)
    drawn = canvas(histogram(tuple(range(6)), counts, True, 40, 10, False, plain), 8)
    full = "#" if plain else "█"
    heights = [column.count(full) for column in drawn]
    assert max(heights) == 8 and 4 in heights
    assert drawn[0] == drawn[-1] == LITTLE + " " * 7, "one in 4,000 is no row of 8"


@GLYPHS
def test_bars_across(glyphs: Glyphs) -> None:
    parts = len(glyphs.eighths)
    for width in (1, 6, 33):
        for share in (0.0, 0.0013, 0.01, 0.17, 0.5, 0.99, 1.0):
            drawn = bar(share, width, glyphs)
            length = sum((glyphs.eighths.index(sign) + 1) / parts for sign in drawn if sign in glyphs.eighths)
            assert abs(length - share * width) <= 0.5 / parts + 1e-9
            assert (drawn == glyphs.little) == (share > 0 and length == 0)


@GLYPHS
def test_fillings_are_the_nearest(glyphs: Glyphs) -> None:
    top = len(glyphs.shades) - 1
    for share in (0.0, 0.0013, 0.1, 0.2, 0.4, 0.6, 0.9, 1.0):
        drawn = shade(share, glyphs)
        level = glyphs.shades.find(drawn)
        if drawn == glyphs.little:
            level = 0
        assert abs(level / top - share) <= 0.5 / top + 1e-9
        assert (drawn == glyphs.little) == (0 < share < 0.5 / top)
