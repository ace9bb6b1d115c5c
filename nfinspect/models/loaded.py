"""A model as it was loaded."""

from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode and what a run has to know about it.

    `device` and `dtype` are those of the weights ('cuda:0', 'bfloat16'); `max_context` is the most tokens that a
    sequence may have, None if nothing limits it (Mamba, ALiBi); `layers` is the number of blocks; `pad_id` is a token
    id to fill padding with, whether or not the tokenizer has a padding token. `notes`: what the user should be told
    about how it was loaded. `own_dtype`: that of the checkpoint, '' if it is not known. `devices`: all that it
    computes on, `device` first, if there are several.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    model_type: str
    device: str
    dtype: str
    max_context: int | None
    layers: int
    pad_id: int
    notes: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    own_dtype: str = ""

    @property
    def places(self) -> str:
        """All devices that it computes on: `cuda:0, cuda:1`."""
        return ", ".join(self.devices or (self.device,))
