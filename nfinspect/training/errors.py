"""What can go wrong between somebody's own network and its neurons.

NfinspectError
└── TrainingError
    ├── NoLayers          no layer was found, or a named one is not there
    ├── SilentLayer       a layer that was to be read was not called
    ├── NotReadable       a module, or a result of it, whose neurons cannot be told
    └── NonFiniteLayer    a layer holds NaN or infinite values
"""

from nfinspect_store.errors import NfinspectError


class TrainingError(NfinspectError):
    """Anything that keeps a network of one's own from being watched."""


class NoLayers(TrainingError):
    """No layer was found, or a named one is not there: wrong usage."""

    exit_status = 2


class SilentLayer(TrainingError):
    """A layer that was to be read was not called in the pass."""


class NotReadable(TrainingError):
    """A module whose neurons cannot be told."""


class NonFiniteLayer(TrainingError):
    """A layer holds NaN or infinite values."""
