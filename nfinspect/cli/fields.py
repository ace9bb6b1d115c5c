"""The fields that an analysis' spec tells, as the commands print them."""

from typing import Any

from nfinspect.analyses.spec import Field, Table
from nfinspect.present.numbers import number, percent
from nfinspect.present.tables import Column, table


def field_table(of: Table) -> list[str]:
    """The fields of rows as a table."""
    columns = [column(field) for field in of.fields]
    return table(columns, [[written(field, field.of(row), row) for field in of.fields] for row in of.rows])


def column(field: Field) -> Column:
    """A field as a column."""
    return Column(field.head, text=field.form in ("neuron", "text", "yes"), spare=field.spare)


def written(field: Field, value: Any, row: Any = None) -> object:
    """A value as the command prints it."""
    if field.form == "neuron":
        return f"L{row.layer}/N{row.neuron}"
    if field.form == "percent":
        return percent(value, places=None if field.digits else 0)
    if field.form == "number":
        return number(value, digits=field.digits)
    if field.form == "yes":
        return "yes" if value else ""
    return value
