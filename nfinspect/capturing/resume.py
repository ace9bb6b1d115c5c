"""Which unfinished run a request resumes, and whether it is the same capture."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from nfinspect.capturing.errors import CannotResume
from nfinspect.capturing.prompts import PromptIds
from nfinspect.capturing.request import CaptureRequest
from nfinspect.capturing.where import Where
from nfinspect.models import Fingerprint, LoadedModel, OtherWeights, check_same_weights
from nfinspect.models.editing import Edit
from nfinspect_store.byte_limits import NEEDED
from nfinspect_store.catalog import list_runs
from nfinspect_store.edits import edits_text
from nfinspect_store.errors import NotARun, StoreError
from nfinspect_store.part_settings import prompts_digest
from nfinspect_store.reader import RunFile
from nfinspect_store.types import Layer

HOW_ONLY = {
    "store",
    "run",
    "device",
    "resume",
    "limit_bytes",
    "allow_pickle",
    "writers",
    "shard",
    "prompts",
    "text_column",
    "concept_column",
    "text",
    "edits",
    "edits_from",
    "command",
}
"""Fields of a request that do not decide what a run holds; prompts and texts are compared by their tokens, edits by the
neurons and directions that they name (settings_of), parts of a capture by what shard.py adds."""


KEPT_ONLY = {"files", "notes", "weights", "fingerprint", "command", "directory", "worst_error", NEEDED}
"""Settings that do not decide what a run holds; the fingerprint is compared on its own (check_same_model)."""


HEADERS = 3 * 4096
"""Bytes of a DuckDB file that holds no data: its headers."""


_DEFAULTS = {f.name: f.default for f in fields(CaptureRequest) if f.name not in HOW_ONLY and f.default is not MISSING}


def was_not_begun(path: Path) -> bool:
    """Whether a capture was killed while it created the file at `path`, so that there is nothing in it."""
    log = path.with_name(path.name + ".wal")
    if not path.is_file() or path.stat().st_size > HEADERS or (log.exists() and log.stat().st_size):
        return False
    try:
        RunFile.open(path).close()
    except NotARun:
        return True
    return False


def settings_of(request: CaptureRequest, prompts: Sequence[PromptIds], edits: Sequence[Edit] = ()) -> dict[str, Any]:
    """What decides a run's contents, as JSON values, for the column `run.settings`. edits: those of the request."""
    settings: dict[str, Any] = {
        field.name: _plain(getattr(request, field.name)) for field in fields(request) if field.name not in HOW_ONLY
    }
    digest = prompts_digest((prompt.concept, prompt.text, prompt.token_ids) for prompt in prompts)
    files = [str(f.path) for f in request.prompts] + [str(path) for path in request.text]
    settings |= {"files": files, "prompts_sha256": digest}
    if edits:
        settings |= {"edits": [edit.to_json() for edit in edits], "edits_from": request.edits_from}
    if request.command:
        settings |= {"command": list(request.command), "directory": os.getcwd()}
    return settings


def run_to_resume(store: Path, settings: Mapping[str, Any]) -> Path:
    """The newest unfinished run in the store begun by the same command. Raises CannotResume."""
    candidates = []
    for entry in list_runs(store):
        if entry.status in ("complete", None) or entry.problem:
            continue
        try:
            with RunFile.open(entry.path) as run:
                if not _differences(run.info.settings, settings):
                    candidates.append((run.info.created_at, entry.path))
        except StoreError:
            continue  # a run that cannot be opened cannot be resumed
    if not candidates:
        raise CannotResume(f"expected an unfinished run of the same command in {store}, found none: name it with --run")
    newest: Path = max(candidates)[1]
    return newest


def check_same_capture(run: RunFile, settings: Mapping[str, Any]) -> None:
    """Raises CannotResume naming what differs, or if the run is complete."""
    if run.info.status == "complete":
        raise CannotResume(f"{run.name} is complete: there is nothing to resume")
    different = _differences(run.info.settings, settings)
    if different:
        said = "; ".join(f"{k}: {_told(k, run.info.settings)} then, {_told(k, settings)} now" for k in different[:3])
        raise CannotResume(f"{run.name} was begun by another command ({said}): repeat that command with --resume")


def _told(key: str, settings: Mapping[str, Any]) -> str:
    return (edits_text(settings) or "none") if key == "edits" else repr(settings.get(key))


def check_same_model(run: RunFile, loaded: LoadedModel) -> None:
    """Raises CannotResume if the run was begun with other weights."""
    if (then := run.info.settings.get("fingerprint")) is not None:
        try:
            check_same_weights(Fingerprint.from_json(then), loaded, run.name)
        except OtherWeights as error:
            raise CannotResume(str(error)) from error


def check_same_layers(run: RunFile, layers: Sequence[Layer]) -> None:
    """Raises CannotResume if the run was begun with other layers: an older version may have chosen other ones by
    default, which no setting says.
    """
    then, now = (
        tuple((one.site, one.layer, one.neurons, one.experts) for one in some) for some in (run.layers, layers)
    )
    if then != now:
        raise CannotResume(
            f"{run.name} holds {_named(run.layers)}, and the same command now records {_named(layers)}: capture it anew"
        )


def _named(layers: Sequence[Layer]) -> str:
    sites = dict.fromkeys(one.site for one in layers)
    return f"{sum(one.neurons for one in layers):,} neurons of {len(layers)} layers at {', '.join(sites)}"


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The settings that differ. One that a run of an older version does not record had its default value."""
    then = {**_DEFAULTS, **then}
    return sorted(key for key in {*then, *now} - KEPT_ONLY if then.get(key) != now.get(key))


def _plain(value: Any) -> Any:
    if isinstance(value, Where):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
