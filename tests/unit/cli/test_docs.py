"""The documents tell of every command and every public SQL name, and of none that is not there."""

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from nfinspect.analyses import command_of, does, specs
from nfinspect.cli.group import COMMANDS, nfinspect
from nfinspect_store.console import Console
from nfinspect_store.reader import RunFile
from nfinspect_store.schema import PUBLIC

ROOT = Path(__file__).parents[3]
NAMES = ("README.md", *(f"docs/{name}.md" for name in ("commands", "json", "keys", "methods", "python", "sql")))
PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in NAMES}
TEXT = "\n".join(PAGES.values())
INTERNAL_COLUMNS = {"layer_id", "fires", "scale"}
"""Columns of public tables that are no promise."""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented(name: str) -> None:
    assert re.search(rf"\bnfinspect {name}\b|· `{name}`", PAGES["README.md"])
    assert f"nfinspect {name}" in PAGES["docs/commands.md"] or f"`{name}`" in PAGES["docs/commands.md"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_documented(name: str) -> None:
    command = nfinspect.get_command(click.Context(nfinspect), name)
    assert command is not None
    assert command.help
    options = {o for parameter in command.params for o in parameter.opts if o.startswith("--")}
    general = {"--examples", "--tables", "--no-activations"}  # told by -h alone
    assert not {option for option in options - general if not re.search(rf"(?<![\w-]){option}(?![\w-])", TEXT)}


@pytest.mark.parametrize("page", PAGES)
def test_documented_commands_exist(page: str) -> None:
    for name in re.findall(r"(?:^ {4}|`)nfinspect +([a-z]+)\b", PAGES[page], re.MULTILINE):
        assert name in COMMANDS


def test_every_public_name_is_documented(planted_runs: Path) -> None:
    with RunFile.open(planted_runs / "planted.duckdb") as run:
        for table in PUBLIC:
            row = next(line for line in PAGES["docs/sql.md"].splitlines() if line.startswith(f"| `{table}` |"))
            documented = re.findall(r"\w+", row.split("|")[3])
            columns = [name for name, *_ in run.sql(f"DESCRIBE {table}").fetchall()]
            assert documented == [name for name in columns if name not in INTERNAL_COLUMNS]
            assert f"`{table}`" in PAGES["README.md"]


def test_the_queries_of_the_documents_run(planted_runs: Path) -> None:
    queries = re.findall(r"```sql\n(.*?)```", PAGES["docs/sql.md"] + PAGES["docs/methods.md"], re.DOTALL)
    assert len(queries) >= 9
    runs = {name: planted_runs / f"{name}.duckdb" for name in ("planted", "stats")}
    with Console(runs) as console:
        for query in queries:
            rows = console.run(query).page()
            assert bool(rows) != ("attached" in query)  # neither run leaves its values in parts


def test_every_public_name_of_python_is_documented() -> None:
    import nfinspect as nf

    for name in nf.__all__:
        assert name.startswith("__") or re.search(rf"\b(nf\.)?{name}\b", PAGES["docs/python.md"]), name


def test_the_line_of_help_of_an_analysis_is_that_of_its_spec() -> None:
    """It is read from the source, so that the list of commands imports no analysis."""
    listed = CliRunner().invoke(nfinspect, ["-h"], env={"COLUMNS": "300"}).output
    for one in specs():
        assert does(one.name) == one.does
        assert re.search(rf"^  {command_of(one.name)} ", listed, re.MULTILINE)


def test_links_lead_somewhere() -> None:
    for page, text in PAGES.items():
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"
