"""What can go wrong in an experiment, besides what models and the store raise.

NfinspectError
└── ExperimentError             an experiment that is impossible with this model
    ├── AttentionUnavailable    the model's attention cannot be read, or is not the one that it used
    └── GradientUnavailable     no gradient of the loss reaches a layer's neurons

Every message is one line: what was expected, what was found, the usual cause or what to do.
"""

from nfinspect_store.errors import NfinspectError


class ExperimentError(NfinspectError):
    """An experiment that is impossible with this model."""


class AttentionUnavailable(ExperimentError):
    """The model's attention cannot be read, or what was read is not the attention that the model used."""


class GradientUnavailable(ExperimentError):
    """No gradient of the loss reaches a layer's neurons."""
