"""The Markdown page that shows the figures and explains them."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from nfinspect.present.charts import Absent, Chart, Section, Table
from nfinspect.present.numbers import number
from nfinspect.text import visible

MOST_ROWS, MOST_COLUMNS = 26, 14
"""Limits of a table that is shown on the page itself."""


def page(title: str, facts: Mapping[str, str], sections: Sequence[Section]) -> str:
    """The page. facts: the rows of its first table, by name."""
    lines = [f"# {escaped(title)}", "", "| | |", "|---|---|"]
    lines += [f"| {escaped(name)} | {escaped(value)} |" for name, value in facts.items()]
    lines += ["", "## Contents", ""]
    lines += [f"- {escaped(one.title)}{_outcome(one)}" for one in sections]
    lines += [
        "",
        "Every figure is drawn from the JSON next to it; its CSV files hold the same numbers. Greys, hatching, markers "
        "and lines tell things apart, never a colour.",
    ]
    for one in sections:
        lines += ["", f"## {escaped(one.title)}", ""]
        lines += _absent(one) if isinstance(one, Absent) else _chart(one)
    return "\n".join(lines) + "\n"


def _outcome(one: Section) -> str:
    return " (missing: see there)" if isinstance(one, Absent) else ""


def _absent(one: Absent) -> list[str]:
    said = [escaped(one.why)]
    return [*said, "", "This computes it:", "", f"    {visible(one.command)}"] if one.command else said


def _chart(one: Chart) -> list[str]:
    lines = [f"![{escaped(one.title)}]({one.name}.png)", "", f"**{escaped(one.n)}**", ""]
    lines += [line for said in one.findings for line in (escaped(said), "")]
    lines += [line for said in one.text for line in (escaped(said), "")]
    if 0 < len(one.table.rows) <= MOST_ROWS and len(one.table.columns) <= MOST_COLUMNS:
        lines += [*markdown_table(one.table), ""]
    files = [f"{one.name}.json", *(f"{name}.csv" for name in one.tables)]
    return [*lines, "Data: " + ", ".join(f"[{file}]({file})" for file in files)]


def markdown_table(table: Table) -> list[str]:
    """The table; the definitions of its columns are in the JSON."""
    lines = ["| " + " | ".join(escaped(name) for name in table.columns) + " |"]
    lines.append("|" + "---|" * len(table.columns))
    return lines + ["| " + " | ".join(escaped(_cell(value)) for value in row) + " |" for row in table.rows]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    return str(value)


def escaped(text: str) -> str:
    """Text that Markdown shows as it is written."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", visible(text))


def dumped(document: Mapping[str, Any]) -> str:
    """The JSON of a figure: no NaN, everything outside ASCII escaped, the same for the same document."""
    return json.dumps(document, indent=1, allow_nan=False) + "\n"
