"""A model that stays loaded: `load_model` hands it out instead of loading it again, to whoever asks for the same."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from nfinspect.model_files import full_name, lasting_name, split_revision, weights_stamp

from .devices import choose_place
from .errors import ModelError
from .loaded import LoadedModel


@dataclass(frozen=True)
class Asked:
    """What load_model was asked for: the model's name with its revision, and how to load it."""

    name: str
    dtype: str = "auto"
    device: str = "auto"
    eager_attention: bool = False


class ResidentModel:
    """One loaded model, and how it was asked for. asked: with the lasting name of the model."""

    def __init__(self, loaded: LoadedModel, asked: Asked) -> None:
        self.loaded = loaded
        self.asked = asked
        self._stamp = weights_stamp(asked.name)
        self._attention = loaded.model.config._attn_implementation

    def model(self, asked: Asked) -> LoadedModel:
        """The model, if it is what load_model would load. Raises ModelError saying what differs."""
        loaded, held = self.loaded, self.asked
        found = lasting_name(asked.name)
        if found != held.name:
            raise ModelError(f"this backend holds {held.name}, the command asks for {found}: start a backend of that")
        if weights_stamp(found) != self._stamp:
            if os.path.isabs(found) and not os.path.exists(found):
                raise ModelError(f"expected the files of {found}, which this backend has loaded, found none any more")
            raise ModelError(f"the files of {found} have changed since this backend loaded them: start it again")
        wanted_dtype = loaded.own_dtype if asked.dtype == "auto" else asked.dtype
        if asked.dtype != held.dtype and wanted_dtype != loaded.dtype:
            raise ModelError(
                f"this backend holds {found} in {loaded.dtype}, the command asks for {asked.dtype}: give it "
                f"--dtype {loaded.dtype}, or start another backend"
            )
        place, there = choose_place(asked.device), choose_place(held.device)
        if place != there:
            raise ModelError(
                f"this backend's model is on {there}, the command asks for {place}: give it --device {there}"
            )
        wanted = "eager" if asked.eager_attention else self._attention
        if loaded.model.config._attn_implementation != wanted:
            loaded.model.set_attn_implementation(wanted)
        return replace(loaded, name=asked.name)


_resident: ResidentModel | None = None


def resident() -> ResidentModel | None:
    """The model that stays loaded in this process, if there is one."""
    return _resident


@contextlib.contextmanager
def staying(model: LoadedModel, name: str, revision: str | None, dtype: str, device: str) -> Iterator[ResidentModel]:
    """While the block runs, `load_model` returns this model, which it has loaded from these arguments."""
    global _resident
    name, revision = split_revision(name, revision)
    found = _resident = ResidentModel(model, Asked(lasting_name(full_name(name, revision)), dtype, device))
    try:
        yield found
    finally:
        _resident = None
