"""A report: the figures of a run, or of several, with their data and a page, in a directory that appears when all is there.

report.md   <figure>.png   <figure>.json   <table>.csv
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nfinspect.analysis.ticks import Tick, silent
from nfinspect.figures import style
from nfinspect.figures.charts import Absent, Chart, Section, Table
from nfinspect.figures.page import dumped, page
from nfinspect_store.atomic import new_directory

PAGE = "report.md"


@dataclass(frozen=True)
class Report:
    """What was written. files: names in the directory, in order."""

    directory: Path
    files: tuple[str, ...]
    sections: tuple[Section, ...]

    def to_json(self) -> dict[str, object]:
        charts = [one for one in self.sections if isinstance(one, Chart)]
        return {
            "directory": str(self.directory),
            "files": list(self.files),
            "figures": [{"figure": x.name, "title": x.title, "findings": list(x.findings)} for x in charts],
            "absent": [one.to_json() for one in self.sections if isinstance(one, Absent)],
        }


def write_report(
    directory: Path,
    title: str,
    facts: Mapping[str, str],
    sections: Sequence[Section],
    *,
    force: bool = False,
    tick: Tick = silent,
) -> Report:
    """Draw the figures and write everything. tick: figures drawn, of all.

    force: write into a directory that holds files, replacing those of the same name. Raises StorageFull, and
    FiguresUnavailable without matplotlib.
    """
    style.require_matplotlib()
    charts = [one for one in sections if isinstance(one, Chart)]
    with new_directory(directory, force=force) as new:
        for done, chart in enumerate(charts):
            tick(done, len(charts))
            draw(chart, new / f"{chart.name}.png")
            (new / f"{chart.name}.json").write_text(dumped(chart.to_json()), encoding="utf-8")
            for name, table in chart.tables.items():
                write_csv(table, new / f"{name}.csv")
        tick(len(charts), len(charts))
        (new / PAGE).write_text(page(title, facts, sections), encoding="utf-8")
        files = tuple(sorted(file.name for file in new.iterdir()))
    return Report(directory, files, tuple(sections))


def draw(chart: Chart, path: Path) -> None:
    """The figure as a PNG."""
    figure = style.blank(chart.inches)
    style.titled(figure, chart.title, chart.n)
    chart.draw(figure, chart)
    style.save(figure, path)


def write_csv(table: Table, path: Path) -> None:
    """A table with its columns' names first; what is undefined is empty, true and false are those words."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table.columns)
        writer.writerows([_cell(value) for value in row] for row in table.rows)


def _cell(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value
