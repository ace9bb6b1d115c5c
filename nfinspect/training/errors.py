"""What can go wrong between a user's own network and its neurons.

NfinspectError
└── TrainingError
    ├── NoLayers          no layer was found, or a named one does not exist
    ├── SilentLayer       a layer that was to be read was not called
    ├── NotReadable       a module whose neurons, or whose output, cannot be read
    └── NonFiniteLayer    a layer holds NaN or infinite values
"""

from nfinspect_store.errors import NfinspectError


class TrainingError(NfinspectError):
    """Anything that keeps a user's own network from being watched."""


class NoLayers(TrainingError):
    """No layer was found, or a named one does not exist: wrong usage."""

    exit_status = 2


class SilentLayer(TrainingError):
    """A layer that was to be read was not called in the pass."""


class NotReadable(TrainingError):
    """A module whose neurons, or whose output, cannot be read."""


class NonFiniteLayer(TrainingError):
    """A layer holds NaN or infinite values."""
