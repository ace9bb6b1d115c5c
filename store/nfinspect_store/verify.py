"""Is a run file what its capture wrote? Every count and sum that can be computed in two ways is, and compared.

Damage is reported, never raised: DuckDB's error about a broken file becomes a problem in the list.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import duckdb
import numpy as np

from nfinspect_store.connect import first_line
from nfinspect_store.digests import (
    NOT_DIGESTED,
    TABLES_THERE,
    VALUES,
    Digest,
    digest_of,
    read_digests,
    select_digested,
    tells_firing,
)
from nfinspect_store.digests import ROWS as DIGESTED_ROWS
from nfinspect_store.errors import NfinspectError, RunBusy, RunNotFound
from nfinspect_store.heartbeat import being_written
from nfinspect_store.memory import pieces, widest_layer
from nfinspect_store.reader import RunFile
from nfinspect_store.tables import RunTables
from nfinspect_store.verify_beyond import check_beyond
from nfinspect_store.verify_blocks import UNREADABLE, ValuesRead
from nfinspect_store.verify_derived import Derive, check_derived_again
from nfinspect_store.verify_tables import (
    check_derived,
    check_examples,
    check_histograms,
    check_mamba_delta,
    check_prompts,
    check_routed,
    check_statistics,
    check_tokens,
)
from nfinspect_store.verify_values import check_prompt_means, check_ranges, means_step

PROBLEMS_SHOWN = 50
"""The most problems listed for one check; a damaged file can have one for every neuron."""


@dataclass(frozen=True)
class Verification:
    """`checked`: what was compared, in words. `problems`: what did not agree, one line each.

    `failed`: those of `checked` that found a problem. `not_covered`: what could have changed unnoticed.
    """

    checked: tuple[str, ...]
    problems: tuple[str, ...]
    failed: tuple[str, ...] = ()
    not_covered: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_json(self) -> dict[str, object]:
        return {
            "ok": self.ok,
            "checked": list(self.checked),
            "problems": list(self.problems),
            "not_covered": list(self.not_covered),
        }


Check = Callable[[RunFile], list[str]]

OfRun = TypeVar("OfRun", bound=RunTables)


def check_digests(run: RunTables) -> list[str]:
    """Whether all tables except the blocks hold the rows written; reading makes DuckDB compare its own checksums."""
    problems = []
    widest = widest_layer(run.cursor())
    told = read_digests(run.cursor())
    told.pop(VALUES, None)  # compared where the values are read
    names = {row[0] for row in run.cursor().execute(TABLES_THERE).fetchall()} - set(NOT_DIGESTED)
    for table in sorted(names | told.keys()):  # with optional and missing tables
        expected = told.get(table, Digest())
        if table not in names:
            problems.append(f"{table}: the table is missing, {expected.rows} rows were written")
            continue
        try:
            found = Digest()
            for piece in pieces(run.cursor(), table, widest):
                query = f"{select_digested(table)} WHERE {piece}"
                found += sum(map(digest_of, run.streamed(query, {}, DIGESTED_ROWS)), Digest())
        except duckdb.Error as error:
            problems.append(f"{table}: cannot be read: {first_line(error)}")
            continue
        if found.rows != expected.rows:
            problems.append(f"{table}: it holds {found.rows} rows, {expected.rows} were written")
        elif found != expected:
            problems.append(f"{table}: its rows are not those that were written: their digest differs")
    return problems


def caught(what: str, check: Callable[[OfRun], list[str]], run: OfRun) -> list[str]:
    """The problems that a check finds; what it raises is one."""
    try:
        with np.errstate(all="ignore"):  # changed data may be anything
            return check(run)
    except UNREADABLE as error:
        return [f"{what}: cannot be read: {first_line(error)}"]


def _checks(run: RunFile) -> tuple[tuple[str, Check], ...]:
    values = ValuesRead(run)
    return (
        ("tokens: numbered from 0 without a gap, each in its prompt", check_tokens),
        ("prompts: first token and number of tokens", check_prompts),
        (_of_statistics(run), check_statistics),
        *([(ROUTED_WHAT, check_routed)] if any(layer.experts for layer in run.layers) and run.has_values else []),
        ("blocks: all there, finite, agreeing with the statistics of the capture", values.check_blocks),
        ("examples: the values that the blocks hold", check_examples),
        ("histograms: they count every token", check_histograms),
        ("ranges: statistics and histograms that values can have", check_ranges),
        ("prompt_means: of every prompt that has such tokens, over as many as it has", check_prompt_means),
        (
            "values: as they were written; statistics, histograms and prompt means counted again from them",
            values.check_values,
        ),
        ("beyond: of a neuron and a token of the run, none twice, and no more than the histograms count", check_beyond),
        ("mamba_delta: it counts every token past position 0", check_mamba_delta),
        ("digests: every row of every table but the blocks, as it was written", check_digests),
        *(((_OF_PARTS, check_parts),) if run.attached else ()),
        ("neurons and layer_health: every neuron has a class, and the classes add up", check_derived),
    )


ROUTED_WHAT = "routed: the tokens of every expert in order, each once, as many as its neurons count"
_OF_PARTS = "parts: each there as it was attached, and sound by itself; its values as they were written"


def check_parts(run: RunFile) -> list[str]:
    """Whether the parts that hold a run's values are there, unchanged, and sound."""
    try:
        run.check_parts()
    except NfinspectError as error:
        return [f"parts: {error}"]
    return [
        f"parts: {part.told}: {problem}"
        for part in run.attached
        for problem in verify_run(part.path(run.path)).problems
    ]


def _of_statistics(run: RunFile) -> str:
    if any(layer.experts for layer in run.layers):
        return "statistics: as many tokens as the run has, or for neurons of experts the same number in each expert"
    return "statistics: as many tokens as the run has, for every neuron"


def verify_run(path: str | Path, derive: Derive | None = None) -> Verification:
    """Check a run file against its own counts, digests and checksums. Reads all of it, in constant memory.

    derive: recomputes `neurons` and `layer_health` with the code that captures use. Raises RunNotFound if there is no
    file, and RunBusy while a capture writes to it.
    """
    path = Path(path)
    if being_written(path):
        raise RunBusy(f"{path.stem} is being captured: it can be checked when it has finished")
    opened = (
        "file: DuckDB opens it, it holds the tables and the view of a run as nfinspect defines them and nothing else"
    )
    try:
        run = RunFile.open(path)
    except (RunBusy, RunNotFound):
        raise
    except NfinspectError as error:
        return Verification((opened,), (str(error),), (opened,))
    checked, problems, failed = [opened], [], []
    try:
        not_covered, derived = tuple(_not_covered(run, derive)), _derived_again(derive)
        for what, check in (*_checks(run), *derived):
            checked.append(what)
            found = caught(what.split(":")[0], check, run)
            problems += found[:PROBLEMS_SHOWN]
            if len(found) > PROBLEMS_SHOWN:
                problems.append(f"{what.split(':')[0]}: {len(found) - PROBLEMS_SHOWN} problems more")
            if found:
                failed.append(what)
    finally:
        run.close()
    return Verification(tuple(checked), tuple(problems), tuple(failed), not_covered)


def _derived_again(derive: Derive | None) -> tuple[tuple[str, Check], ...]:
    if derive is None:
        return ()
    what = "neurons and layer_health: derived again from the statistics, histograms and values"
    return ((what, lambda run: check_derived_again(run, derive)),)


def _not_covered(run: RunFile, derive: Derive | None) -> Iterator[str]:
    """What could have been changed without any check noticing."""
    yield "data that were changed together with their digests by somebody who can make such: digests are no signature"
    yield "what lies beside the run file: results, notes, histories"
    if derive is None:
        yield "neurons and layer_health beyond their digests and the numbers of each class: they were not derived again"
    try:
        if not run.has_values:
            yield (
                "statistics, histograms, prompt means and examples beyond their digests and ranges: the run keeps "
                f"{run.kept}, and they cannot be counted again"
            )
        elif not tells_firing(run.cursor()):
            yield "values beyond their sums: the run of an older nfinspect does not say when its gates were open"
        if run.has_values and (step := means_step(run)) > 1:
            yield f"prompt means of neurons but every {step}th, beyond their digest: {run.prompts} prompts are many"
        if run.cursor().execute("SELECT count(*) FROM mamba_delta").fetchall()[0][0]:
            yield "mamba_delta beyond its digest and its counts: the step sizes that it sums up are not stored"
    except (duckdb.Error, NfinspectError, ValueError):
        return  # a check reports it
