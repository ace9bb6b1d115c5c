"""The fields that an analysis's spec defines, as the commands print them."""

from typing import TYPE_CHECKING

from nfinspect.present.tables import Column, table

if TYPE_CHECKING:
    from nfinspect.analyses.analysis_spec import Field, Table


def field_table(of: "Table") -> list[str]:
    """The fields of rows as a table; without heads it has no line for them."""
    found = table([column(field) for field in of.fields], [[f.written(row) for f in of.fields] for row in of.rows])
    return found if any(field.head for field in of.fields) else found[1:]


def column(field: "Field") -> Column:
    """A field as a column."""
    return Column(field.head, text=field.aligned_left, whole=field.form == "interval", spare=field.spare)
