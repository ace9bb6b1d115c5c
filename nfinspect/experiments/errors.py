"""What can go wrong in an experiment, beside what models and the store raise.

NfinspectError
└── ExperimentError             an experiment that cannot be made on this model
    ├── AttentionUnavailable    the model's attention cannot be had, or not the one that it went on with
    └── GradientUnavailable     no gradient of the loss reaches a layer's neurons

Every message is one line: what was expected, what was found, the usual cause or what to do.
"""

from nfinspect_store.errors import NfinspectError


class ExperimentError(NfinspectError):
    """An experiment that cannot be made on this model."""


class AttentionUnavailable(ExperimentError):
    """The model's attention cannot be had, or what was had is not the attention that the model went on with."""


class GradientUnavailable(ExperimentError):
    """No gradient of the loss reaches a layer's neurons."""
