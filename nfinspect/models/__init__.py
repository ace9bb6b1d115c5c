"""Load a model, find its neurons, read them while it runs.

Imports torch and transformers; of our own code only small modules of nfinspect_store, nfinspect.modes and
nfinspect.edits.
"""

from .batch import Batch, body, check_ids, embedding_device, vocabulary
from .compiled import is_compiled, run_as_python, uncompiled
from .dependence import Dependence, dependence, require_causal, rope_limit, sees_ahead
from .devices import to_device
from .errors import (
    BrokenCheckpoint,
    CannotTokenize,
    HubUnreachable,
    ModelError,
    ModelNotFound,
    NonFiniteActivations,
    NonFiniteWeights,
    OtherWeights,
    PickleRefused,
    SilentHook,
    UnknownSite,
    UnknownToken,
    UnsupportedModel,
    WrongRevision,
    WrongSite,
)
from .experts import Routing
from .fingerprint import Fingerprint, check_same_weights, fingerprint
from .forward import forward_batch, steps_clamp_as_a_pass
from .hooks import SiteReader
from .hub import one_line
from .load import in_memory, load_model
from .loaded import LoadedModel
from .sites import (
    LayerSite,
    attention_modules,
    blocks,
    by_site,
    default_site,
    find_sites,
    layer_ranges,
    mixing_layers,
    why_no_mlp,
)
from .step_buffers import StepBuffers
from .token_texts import TokenTexts
from .tokenizing import Bos, Message, Texts, TokenizedText, already_begun, end_ids, is_text

__all__ = [
    "Batch",
    "Bos",
    "BrokenCheckpoint",
    "CannotTokenize",
    "Dependence",
    "Fingerprint",
    "HubUnreachable",
    "LayerSite",
    "LoadedModel",
    "Message",
    "ModelError",
    "ModelNotFound",
    "NonFiniteActivations",
    "NonFiniteWeights",
    "OtherWeights",
    "PickleRefused",
    "Routing",
    "SilentHook",
    "SiteReader",
    "StepBuffers",
    "Texts",
    "TokenTexts",
    "TokenizedText",
    "UnknownSite",
    "UnknownToken",
    "UnsupportedModel",
    "WrongRevision",
    "WrongSite",
    "already_begun",
    "attention_modules",
    "blocks",
    "body",
    "by_site",
    "check_ids",
    "check_same_weights",
    "default_site",
    "dependence",
    "embedding_device",
    "end_ids",
    "find_sites",
    "fingerprint",
    "forward_batch",
    "in_memory",
    "is_compiled",
    "is_text",
    "layer_ranges",
    "load_model",
    "mixing_layers",
    "one_line",
    "require_causal",
    "rope_limit",
    "run_as_python",
    "sees_ahead",
    "steps_clamp_as_a_pass",
    "to_device",
    "uncompiled",
    "vocabulary",
    "why_no_mlp",
]
