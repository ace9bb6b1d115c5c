"""A report: the figures of a run, or of several, with their data and a page, in a directory.

report.md   report.json (what is in it)   <figure>.png   <figure>.json   <table>.csv
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nfinspect.analysis.ticks import Tick, silent
from nfinspect.figures.folder import MANIFEST, report_directory, write_manifest
from nfinspect.figures.page import dumped, page
from nfinspect.present import style
from nfinspect.present.charts import Absent, Chart, Section, Table

PAGE = "report.md"


@dataclass(frozen=True)
class Report:
    """What was written. files: names in the directory, in order."""

    directory: Path
    files: tuple[str, ...]
    sections: tuple[Section, ...]

    @property
    def charts(self) -> tuple[Chart, ...]:
        return tuple(one for one in self.sections if isinstance(one, Chart))

    @property
    def absent(self) -> tuple[Absent, ...]:
        return tuple(one for one in self.sections if isinstance(one, Absent))

    def outcome(self) -> dict[str, object]:
        """What was drawn, and what was not and why."""
        return {
            "figures": [{"figure": x.name, "title": x.title, "findings": list(x.findings)} for x in self.charts],
            "absent": [one.to_json() for one in self.absent],
        }

    def to_json(self) -> dict[str, object]:
        return {"directory": str(self.directory), "files": list(self.files), **self.outcome()}


def write_report(
    directory: Path,
    title: str,
    facts: Mapping[str, str],
    sections: Sequence[Section],
    *,
    tick: Tick = silent,
) -> Report:
    """Draw the figures and write everything. tick: figures drawn, of all.

    An earlier report there is replaced as a whole. Raises StorageFull, also if `directory` has anything else in it, and
    NotInstalled without matplotlib.
    """
    style.require_matplotlib()
    charts = [one for one in sections if isinstance(one, Chart)]
    with report_directory(directory) as new:
        for done, chart in enumerate(charts):
            tick(done, len(charts))
            draw(chart, new / f"{chart.name}.png")
            (new / f"{chart.name}.json").write_text(dumped(chart.to_json()), encoding="utf-8")
            for name, table in chart.tables.items():
                write_csv(table, new / f"{name}.csv")
        tick(len(charts), len(charts))
        (new / PAGE).write_text(page(title, facts, sections), encoding="utf-8")
        report = Report(directory, tuple(sorted([MANIFEST, *(file.name for file in new.iterdir())])), tuple(sections))
        write_manifest(new, {"title": title, "facts": dict(facts), **report.outcome()})
    return report


def draw(chart: Chart, path: Path) -> None:
    """The figure as a PNG."""
    figure = style.blank(chart.inches)
    style.titled(figure, chart.title, chart.n)
    chart.draw(figure, chart)
    style.save(figure, path)


def write_csv(table: Table, path: Path) -> None:
    """A table, its columns' names first; undefined values are empty, booleans are true or false."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table.columns)
        writer.writerows([_cell(value) for value in row] for row in table.rows)


def _cell(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value
