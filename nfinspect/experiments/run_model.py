"""The model that a run was captured from, loaded again for what the run alone cannot tell: the one way to it."""

from typing import TYPE_CHECKING, Any

from nfinspect import output
from nfinspect.model_files import lasting_name
from nfinspect_store.errors import NfinspectError, RequestError

if TYPE_CHECKING:
    from nfinspect.models import LoadedModel
    from nfinspect_store.reader import RunFile


def quiet_transformers() -> None:
    """No progress bars and no advice of its own: the line on stderr is ours, and what matters is an error of ours."""
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


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


def own_dtype(file: "RunFile") -> str:
    """The precision of the run's model, as load_model takes it."""
    from nfinspect.models.load import DTYPES

    return file.info.dtype if file.info.dtype in DTYPES else "auto"


def run_model(file: "RunFile", model: str | None, what: str, **options: Any) -> "LoadedModel":
    """The model with the weights that the run was captured from, in the run's own precision if not given otherwise.

    options: those of load_model. Raises RequestError, ModelError, OtherWeights where it is not the run's.
    """
    from nfinspect.models import ModelError

    name = named_model(file, model, what)
    if options.get("revision") is None and not model:
        options["revision"] = file.info.settings.get("revision")
    if options.get("dtype", "auto") == "auto":
        options["dtype"] = own_dtype(file)
    try:
        loaded = loaded_model(name, **options)
    except NfinspectError as error:
        raise ModelError(f"{what} needs the run's model: {error} (--model says where it is)") from error
    check_run_model(file, loaded)
    return loaded


def check_run_model(file: "RunFile", loaded: "LoadedModel") -> None:
    """Raises OtherWeights where the model has other weights than the run's; what is worth saying goes to stderr."""
    from nfinspect.models import Fingerprint, check_same_weights

    then = file.info.settings.get("fingerprint")
    if then is None:
        output.note(f"{file.name} does not say what its weights were: {loaded.name} is taken for its model")
    elif said := check_same_weights(Fingerprint.from_json(then), loaded, file.name):
        output.note(said)


def difference_from_run(file: "RunFile", loaded: "LoadedModel") -> tuple[bool, tuple[str, ...]]:
    """Whether a model that the user has named is the run's, whose neurons it is asked about, and what it differs in.

    It is not where nothing tells that it is. Raises OtherWeights where it is named as the run's own model and has other
    weights: nobody has asked for that.
    """
    from nfinspect.models import Fingerprint, OtherWeights, check_same_weights

    captured, name = file.info.model, loaded.name
    named_otherwise = not captured or lasting_name(captured) != lasting_name(name)
    then = file.info.settings.get("fingerprint")
    taken = "its neurons are taken for those of the model"
    if then is None:
        said = (f"the run is of {captured}, the model is {name}: {taken}",) if named_otherwise and captured else ()
        return not named_otherwise, said
    try:
        close = check_same_weights(Fingerprint.from_json(then), loaded, file.name)
    except OtherWeights as error:
        if not named_otherwise:
            raise
        return False, (f"the run is of {captured}, the model is {name} ({error.short}): {taken}",)
    return True, ((close,) if close else ())
