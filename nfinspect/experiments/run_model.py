"""Reloads the model that a run was captured from, for what the run alone does not hold: the only code to do so."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nfinspect import output
from nfinspect.model_files import lasting_name
from nfinspect_store.errors import NfinspectError, RequestError

if TYPE_CHECKING:
    from nfinspect.models import LoadedModel
    from nfinspect_store.reader import RunFile
    from nfinspect_store.run_layout import RunLayout


def quiet_transformers() -> None:
    """No progress bars or warnings from transformers, nor from bitsandbytes, which warns of every product: stderr is
    for our own progress, and what matters is our error.
    """
    import logging

    from transformers.utils import logging as of_transformers

    of_transformers.set_verbosity_error()  # type: ignore[no-untyped-call]
    of_transformers.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def named_model(file: "RunFile", model: str | None, what: str) -> str:
    """`model`, else the run's own; what: what needs it, for the message. Raises RequestError if there is neither."""
    name = model or file.info.model
    if not name:
        raise RequestError(f"{what} needs the run's model, and this run names none: pass --model")
    return name


def loaded_model(model: str, **options: Any) -> "LoadedModel":
    """load_model without transformers' output; notes about how it was loaded go to stderr."""
    from nfinspect.models import load_model

    quiet_transformers()
    loaded = load_model(model, **options)
    for note in loaded.notes:
        output.note(note)
    return loaded


def own_dtype(file: "RunFile") -> str:
    """The precision of the run's model, as load_model accepts it."""
    from nfinspect.models.load import DTYPES

    return file.info.dtype if file.info.dtype in DTYPES else "auto"


def run_model(
    file: "RunFile", model: str | None, what: str, *, tells_edits: bool = True, **options: Any
) -> "LoadedModel":
    """The model with the weights that the run was captured from, by default in the run's own precision.

    tells_edits: False if the result that is kept says what `without_edits` does. options: those of
    load_model. Raises RequestError, ModelError, and OtherWeights if it is not the run's model.
    """
    name = named_model(file, model, what)
    from nfinspect.models import ModelError  # takes seconds, which a refusal does not need

    if options.get("revision") is None and not model:
        options["revision"] = file.info.settings.get("revision")
    if options.get("dtype", "auto") == "auto":
        options["dtype"] = own_dtype(file)
    try:
        loaded = loaded_model(name, **options)
    except NfinspectError as error:
        raise ModelError(f"{what} needs the run's model: {error} (--model says where it is)") from error
    check_run_model(file, loaded, tells_edits=tells_edits)
    return loaded


def check_run_model(
    file: "RunFile", loaded: "LoadedModel", note: Callable[[str], None] = output.note, *, tells_edits: bool = True
) -> None:
    """Raises OtherWeights if the model has other weights than the run's; lesser differences are noted."""
    from nfinspect.models import Fingerprint, check_same_weights

    for text in without_edits(file) if tells_edits else ():
        note(text)
    then = file.info.settings.get("fingerprint")
    if then is None:
        note(f"{file.name} does not say what its weights were: {loaded.name} is taken for its model")
    elif said := check_same_weights(Fingerprint.from_json(then), loaded, file.name):
        note(said)


def without_edits(file: "RunFile") -> tuple[str, ...]:
    """What is to be said where the model of a run is read, which is never edited here."""
    return (f"{file.name} was captured with edits ({file.edits}): here its model has none",) if file.edits else ()


def require_plain(file: "RunLayout", asked: str) -> None:
    """Raises RequestError for a run with edits, whose statistics are not those of its model. asked: what needs them."""
    if file.edits:
        raise RequestError(
            f"{asked} needs statistics of the model as it is read here, without edits, and {file.info.name} was "
            f"captured with edits ({file.edits}): capture the same without them"
        )


def difference_from_run(file: "RunFile", loaded: "LoadedModel") -> tuple[bool, tuple[str, ...]]:
    """Whether a model named by the user is the run's, and notes about how it differs.

    False if nothing shows that it is. Raises OtherWeights if it has the name of the run's own model but other weights:
    then the user did not ask for another model.
    """
    from nfinspect.models import Fingerprint, OtherWeights, check_same_weights

    captured, name = file.info.model, loaded.name
    named_otherwise = not captured or lasting_name(captured) != lasting_name(name)
    then = file.info.settings.get("fingerprint")
    taken, edits = "its neurons are taken for those of the model", without_edits(file)
    if then is None:
        said = (f"the run is of {captured}, the model is {name}: {taken}",) if named_otherwise and captured else ()
        return not named_otherwise, (*edits, *said)
    try:
        close = check_same_weights(Fingerprint.from_json(then), loaded, file.name)
    except OtherWeights as error:
        if not named_otherwise:
            raise
        return False, (*edits, f"the run is of {captured}, the model is {name} ({error.short}): {taken}")
    return True, (*edits, *((close,) if close else ()))
