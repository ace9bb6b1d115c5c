"""What can go wrong between a model's name and its neurons.

    NfinspectError
    └── ModelError                  anything that this package refuses
        ├── ModelNotFound           no such directory, or a directory that holds no model
        ├── WrongRevision           a revision of a local model, two different ones, or an invalid one
        ├── HubUnreachable          the model is not in the local cache and the hub does not answer
        ├── PickleRefused           only pickle weights, and the caller did not allow them
        ├── BrokenCheckpoint        weights, config or tokenizer cannot be read or do not fit together
        ├── NonFiniteWeights        a weight is NaN or infinite
        ├── OtherWeights            the model is not the one that a run was captured from
        ├── UnsupportedModel        a kind of model whose neurons are not read (encoder-decoder, …)
        ├── CannotTokenize          not text, or special tokens or a chat template that the tokenizer lacks
        ├── UnknownToken            a token id that the model has no embedding for
        ├── UnknownSite             a site or a layer that this model does not have
        ├── SilentHook              a hook did not fire exactly once in a forward pass
        ├── WrongSite               the values read are not those that the model went on with
        └── NonFiniteActivations    a recorded value is NaN or infinite

Every message is one line: what was expected, what was found, the usual cause or what to do.
"""

from nfinspect.model_files import ModelError as ModelError
from nfinspect.model_files import WrongRevision as WrongRevision


class ModelNotFound(ModelError):
    """There is no such model, or the directory holds none."""


class HubUnreachable(ModelError):
    """The model is not in the local cache and the hub does not answer."""


class PickleRefused(ModelError):
    """The only weights are pickles, which can run code when they are read."""


class BrokenCheckpoint(ModelError):
    """Config, weights or tokenizer cannot be read, or do not fit together."""


class NonFiniteWeights(ModelError):
    """A weight is NaN or infinite."""


class OtherWeights(ModelError):
    """The model loaded is not the one that the run was captured from, or its weights have changed since.

    short: what differs, without the advice.
    """

    def __init__(self, message: str, short: str = "") -> None:
        super().__init__(message)
        self.short = short or message


class UnsupportedModel(ModelError):
    """A model, or a part of one, whose neurons cannot be read."""


class CannotTokenize(ModelError):
    """Not text, or special tokens or a chat template that the tokenizer lacks: wrong usage."""

    exit_status = 2


class UnknownToken(ModelError):
    """A token id that the model has no embedding for: wrong usage."""

    exit_status = 2


class UnknownSite(ModelError):
    """A site or a layer that the model does not have: wrong usage."""

    exit_status = 2


class SilentHook(ModelError):
    """A site was not read exactly once in a forward pass."""


class WrongSite(ModelError):
    """The values read are not those that the model went on with."""


class NonFiniteActivations(ModelError):
    """A value read from a site is NaN or infinite."""
