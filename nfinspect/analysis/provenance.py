"""What a saved result is of: a run, or its model, computed without the run from other texts."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from nfinspect_store.reader import RunFile
from nfinspect_store.results import Result, list_results, model_results, run_results

NOT_OF_THE_RUN = "of the model, not of this run"


def results_about(
    run: RunFile, kind: str | None = None, formats: Mapping[str, int] | None = None
) -> tuple[Result, ...]:
    """The saved results of a run and of its model, by kind; of a kind the run's first, and of these the newest first.

    formats: as for list_results.
    """
    info = run.info
    found = list_results(run_results(run.path), info.run_id, kind, formats)
    of_model = list_results(model_results(run.path.parent, info.model), None, kind, formats)
    found += tuple(result for result in of_model if _of_its_model(result, run))
    return tuple(sorted(found, key=lambda x: (x.kind, x.run_id is None, -x.made_at.timestamp())))


def read_from(result: Result) -> str:
    """Where a result's texts are from, in words: its run, or the first file and how many more."""
    settings = result.settings
    if "of_run" in settings:
        return f"run {settings['of_run']}"
    files = _files(settings)
    return f"{files[0]}{f' and {len(files) - 1} more' if len(files) > 1 else ''}" if files else "this model"


def whose(result: Result) -> str:
    """Empty for a result of a run; else that it is the model's, and which texts were read for it."""
    if result.run_id is not None:
        return ""
    files = _files(result.settings)
    return f"{NOT_OF_THE_RUN}{f': over {read_from(result)}' if files else ''}"


def _files(settings: Mapping[str, Any]) -> list[str]:
    text = settings.get("text") or ()
    texts = [(text,)] if isinstance(text, str) else text
    return [PurePath(path).name for path, *_ in (*settings.get("prompts", ()), *texts)]


def _of_its_model(result: Result, run: RunFile) -> bool:
    """Whether a result is about the run's model: models with the same last part of the name share a folder, and weights
    change.

    If one of the two does not say which weights it is from, the name decides. A run of a model in memory has weights
    that no name stands for.
    """
    then, now = run.info.settings.get("weights"), result.settings.get("weights")
    return result.settings.get("model") == run.info.model and (then is None or (then != "" and now in (then, "")))
