"""Runs as files: list, describe, check, delete."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nfinspect import output
from nfinspect.cli.options import (
    complete_run,
    damage_told,
    find_run,
    json_option,
    run_argument,
    status_of,
    store_option,
)
from nfinspect.present.numbers import counted, duration, percent, size
from nfinspect.present.tables import Column, table
from nfinspect.text import model_name
from nfinspect_store.catalog import companions, delete_run, kept_elsewhere, list_everything, run_path, store_path
from nfinspect_store.errors import RunNotFound
from nfinspect_store.history import SUFFIX, delete_history, history_path, list_histories
from nfinspect_store.names import RUN_SUFFIX
from nfinspect_store.types import RunEntry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nfinspect_store.attached import AttachedPart
    from nfinspect_store.reader import RunFile
    from nfinspect_store.types import Layer


@click.command()
@store_option
@json_option
def runs(store: str | None, as_json: bool) -> None:
    """List the runs and training histories of the store, the newest first."""
    directory = store_path(store)
    entries = list_everything(directory)
    if as_json:
        output.document([_entry(entry) for entry in entries])
        return
    if not entries:
        output.note(f"no runs in {directory}: nfinspect demo makes one, nfinspect capture MODEL makes your own")
        return
    columns = [
        Column("run", text=True, whole=True),  # what is typed into the next command
        Column("status", text=True, whole=True),
        Column("model", text=True, spare=1),
        Column("tokens"),
        Column("size"),
        Column("created (UTC)", text=True, spare=2),
    ]
    rows = [
        (
            e.name,
            _status(e),
            f"edited {model_name(e.model)}" if e.edits else model_name(e.model),
            e.tokens,
            size(e.bytes),
            f"{e.created_at:%Y-%m-%d %H:%M}" if e.created_at else "-",
        )
        for e in entries
    ]
    output.lines(table(columns, rows))
    for entry in entries:
        if entry.problem:
            output.note(f"{entry.name}: {entry.problem}")


def _status(entry: RunEntry) -> str:
    progress = entry.progress
    if progress is None:
        parts = f", in {counted(len(entry.parts), 'part')}" if entry.parts else ""
        return f"{entry.status}{parts}" if entry.status else "unreadable"
    if entry.kind == "history":
        return f"training: step {progress.tokens_done:,}"
    if not progress.tokens_total:
        return f"capturing: {progress.phase}"
    left = progress.tokens_total - progress.tokens_done
    eta = f", {duration(left / progress.tokens_per_second)} left" if progress.tokens_per_second > 0 else ""
    return f"capturing {percent(progress.tokens_done / progress.tokens_total, places=0)}{eta}"


def _entry(entry: RunEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "status": entry.status,
        "model": entry.model,
        "created_at": entry.created_at,
        "tokens": entry.tokens,
        "bytes": entry.bytes,
        "progress": vars(entry.progress) if entry.progress else None,
        "problem": entry.problem,
        "kind": entry.kind,
        "edits": entry.edits or None,
        "parts": list(entry.parts),
    }


@click.command()
@run_argument
@click.option("--results", "with_results", is_flag=True, help="List its saved results, too.")
@store_option
@json_option
def info(run: str, with_results: bool, store: str | None, as_json: bool) -> None:
    """Describe a run: model, versions, sites, sizes, status."""
    from nfinspect_store.reader import RunFile

    # Runs cut short before their first token are described, too.
    with RunFile.open(find_run(store, run)) as file, damage_told(file.path):
        columns = {**vars(file.info), "status": status_of(file.info.status)}
        sites = [
            {
                "site": site,
                "layers": len(layers := file.site_layers(site)),
                "neurons": sum(layer.neurons for layer in layers),
                "activation": layers[0].activation,
            }
            for site in file.sites
        ]
        mixtures = {site: _experts(file.site_layers(site)) for site in file.sites}
        bytes_on_disk = file.path.stat().st_size
        counts = {
            "layers": len(file.layers),
            "prompts": file.prompts,
            "tokens": file.tokens,
            "bytes": bytes_on_disk,
        }
        told = {"where": file.where or None, "unrecorded": file.unrecorded, "beyond": None}
        if file.beyond is not None:
            told["beyond"] = file.beyond_rows
        keeps = file.has_values or file.beyond is not None
        precision, worst = file.precision, dict(file.worst_error)
        concepts, notes, edits = file.concepts, file.notes, file.edits
        parts = [_part(part, file.path) for part in file.attached]
        results = _results(file) if with_results else []
    if as_json:
        stored = {"precision": precision if keeps else None, "worst_error": worst if keeps else None}
        listed = {"sites": sites, "concepts": concepts, "notes": notes, "edits": edits or None, "parts": parts}
        kept = {"results": results} if with_results else {}
        output.document({**columns, **counts, **told, **stored, **listed, **kept})
        return
    shown = {name: value for name, value in columns.items() if name != "settings" and value not in (None, "")}
    shown |= {name: f"{value:,}" for name, value in counts.items()}
    shown |= {"bytes": f"{bytes_on_disk:,} ({size(bytes_on_disk)})", "concepts": ", ".join(concepts)}
    errors = ", ".join(f"{error:.3g} at {site}" for site, error in worst.items() if error)
    rounded = f"{precision}{f', at most {errors} off' if errors else ''}"
    shown |= {"edits": edits} if edits else {}
    shown["precision"] = rounded if keeps else "no values are stored"
    if told["where"]:
        of_values = "" if told["beyond"] is None else f", {told['beyond']:,} values are kept"
        shown["where"] = f"{told['where']} ({told['unrecorded']:,} tokens are not recorded{of_values})"
    for name, value in shown.items():
        output.line(f"{name:<21} {value}")
    for site in sites:
        activation = f", {site['activation']}" if site["activation"] else ""
        of_experts = mixtures[str(site["site"])]
        output.line(
            f"{'site ' + str(site['site']):<21} {site['layers']} layers, {site['neurons']:,} neurons{activation}"
            f"{of_experts}"
        )
    for part in parts:
        lost = "" if part["problem"] is None else f"  LOST: {part['problem']}"
        output.line(f"{'values in':<21} {part['path']}  {part['tokens']:,} tokens  {size(part['bytes'])}{lost}")
    for one in results:
        output.line(f"{'result':<21} {one['kind']}, {one['made_at']:%Y-%m-%d %H:%M}: {one['about']}")
    for note in notes:
        output.line(f"{'note':<21} {note}")
    settings = {name: value for name, value in dict(columns["settings"]).items() if name != "fingerprint"}
    output.line(f"{'settings':<21} {json.dumps(settings, ensure_ascii=False)}")


def _results(file: "RunFile") -> list[dict[str, Any]]:
    """The saved results of a run and of its model."""
    from nfinspect.analyses import formats
    from nfinspect.analysis.provenance import results_about
    from nfinspect.results import kept_line

    found = results_about(file, None, formats())
    return [{"kind": one.kind, "made_at": one.made_at, "about": kept_line(one)} for one in found]


def _experts(layers: "Sequence[Layer]") -> str:
    """How many experts the layers of a site have, and how their neurons are numbered; '' for other layers."""
    shapes = dict.fromkeys((layer.experts, layer.width) for layer in layers if layer.experts)
    told = " or ".join(f"{experts:,} experts of {width:,} neurons" for experts, width in shapes)
    width = "W" if len(shapes) > 1 else f"{next(iter(shapes), (0, 0))[1]:,}"
    return f"; {told}: N is of expert N // {width}" if told else ""


def _part(part: "AttachedPart", run: Path) -> dict[str, Any]:
    return {
        "path": part.told,
        "name": part.name,
        "tokens": part.tokens,
        "first_token": part.first_token,
        "bytes": part.bytes,
        "problem": part.problem(run),
    }


@click.command()
@run_argument
@store_option
@json_option
def verify(run: str, store: str | None, as_json: bool) -> int:
    """Check a run file against its own counts, digests and checksums.

    The exit status is 1 if something is wrong.
    """
    from nfinspect.capturing.classification import classify_tables
    from nfinspect_store.verify import verify_run

    path = find_run(store, run)
    found = verify_run(path, lambda tables, exact: classify_tables(tables, exact=exact))
    if as_json:
        output.document(found.to_json())
    else:
        verdict = "sound" if found.ok else "DAMAGED: capture it again, or restore a copy"
        output.line(f"{path.stem} is {verdict}")
        output.lines([f"PROBLEM  {problem}" for problem in found.problems])
        output.lines([f"failed   {what}" for what in found.failed])
        output.lines([f"passed   {what}" for what in found.checked if what not in found.failed])
        output.lines([f"unseen   {what}" for what in found.not_covered])
    return 0 if found.ok else 1


@click.command()
@run_argument
@store_option
@json_option
def migrate(run: str, store: str | None, as_json: bool) -> None:
    """Update a run written by an older nfinspect. Needs room for two more copies meanwhile."""
    from nfinspect_store.migrate_run import migrate_run

    done = migrate_run(find_run(store, run))
    if as_json:
        output.document({"run": done.path.stem, "path": str(done.path), "before": done.before, "after": done.after})
    elif done.before == done.after:
        output.line(f"{done.path.stem} is up to date: schema version {done.after}")
    else:
        output.line(f"{done.path.stem} is migrated from schema version {done.before} to {done.after}")


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, shell_complete=complete_run)
@store_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Also delete a file that cannot be read as a run.")
def delete(runs: tuple[str, ...], store: str | None, yes: bool, force: bool) -> None:
    """Delete runs and all files that belong to them. Asks first if there is a terminal."""
    directory = store_path(store)
    paths = [_run_or_history(directory, run) for run in runs]  # all or none: a mistyped name deletes nothing
    for path in paths:
        freed = sum(part.stat().st_size for part in [path, *companions(path)] if part.exists())
        if not yes and output.has_terminal() and not output.confirmed(f"Delete {path} ({size(freed)})?"):
            output.note(f"{path.stem} was not deleted")
            continue
        left: list[Path] = []
        keeps = () if path.name.endswith(SUFFIX) else kept_elsewhere(path)
        if path.name.endswith(SUFFIX):
            delete_history(path)
        else:
            left = delete_run(path, force=force)
        if keeps:
            output.note(f"its values stay in {', '.join(keeps)}")
        output.note(f"deleted {path.name.removesuffix(SUFFIX).removesuffix(RUN_SUFFIX)} ({size(freed)})")
        if left:
            output.note(f"not deleted, as nfinspect did not write it: {', '.join(str(one) for one in left)}")


def _run_or_history(store: Path, name: str) -> Path:
    """The run of this name, else the training history of this name."""
    try:
        path = run_path(store, name)
    except RunNotFound:
        if name not in list_histories(store):
            raise
        return history_path(store, name)
    return path
