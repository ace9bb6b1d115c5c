"""The model that a run was captured from, loaded again for what the run alone cannot tell."""

from typing import TYPE_CHECKING, Any

from nfinspect import output
from nfinspect.cli.capture import quiet_transformers
from nfinspect_store.errors import NfinspectError, RequestError

if TYPE_CHECKING:
    from nfinspect.models import LoadedModel
    from nfinspect_store.reader import RunFile


def named_model(file: "RunFile", model: str | None, what: str) -> str:
    """`model`, or where the run says that its own is; `what` needs it. Raises RequestError where neither says."""
    name = model or file.info.model
    if not name:
        raise RequestError(f"{what} needs the run's model, and this run names none: pass --model")
    return name


def loaded_model(model: str, **options: Any) -> "LoadedModel":
    """load_model, quietly; what there is to be told of how it was loaded is said on stderr."""
    from nfinspect.models import load_model

    quiet_transformers()
    loaded = load_model(model, **options)
    for note in loaded.notes:
        output.note(note)
    return loaded


def run_model(file: "RunFile", model: str | None, what: str) -> "LoadedModel":
    """The model in the run's own precision, so that its values are the run's. Raises RequestError, ModelError."""
    from nfinspect.models import ModelError
    from nfinspect.models.load import DTYPES

    name = named_model(file, model, what)
    revision = None if model else file.info.settings.get("revision")
    try:
        return loaded_model(name, revision=revision, dtype=file.info.dtype if file.info.dtype in DTYPES else "auto")
    except NfinspectError as error:
        raise ModelError(f"{what} needs the run's model: {error} (--model says where it is)") from error
