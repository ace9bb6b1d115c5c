"""The histogram's bars stand where their bins are, and nowhere else."""

from nfinspect.tui.widgets.chart import histogram

BINS = 12


def bars(counts: dict[int, int], log: bool) -> list[int]:
    """The bins over whose middle the lowest row of the chart has a bar, or the mark of a little; 12 bins of 5 cells."""
    edges = tuple(float(i) for i in range(BINS + 1))
    lines = histogram(edges, tuple(counts.get(i, 0) for i in range(BINS)), True, 5 * BINS + 8, 8, log, False)
    lowest, axis = next((row, line) for row, line in zip(lines, lines[1:], strict=False) if "└" in line)
    start, canvas = axis.index("└") + 1, axis.count("─")
    inside = lowest.ljust(len(axis))[start:]
    return [i for i in range(BINS) if inside[int((i + 0.5) * canvas / BINS)] != " "]


def test_empty_bins_between_stay_empty() -> None:
    for log in (False, True):
        assert bars({0: 1809, 7: 1, 11: 1}, log) == [0, 7, 11]


def test_neighbours_touch() -> None:
    assert bars({0: 4, 1: 3, 2: 2, 11: 1}, log=False) == [0, 1, 2, 11]
