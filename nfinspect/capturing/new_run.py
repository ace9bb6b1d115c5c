"""What a run begins with: its name, its row, and its layers, told of a loaded model."""

import datetime as dt
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from nfinspect.model_files import lasting_name
from nfinspect.models import LayerSite, LoadedModel, fingerprint
from nfinspect.version import VERSION
from nfinspect_store.types import Layer, RunInfo, utc_now


def default_name(model: str) -> str:
    """A run name from the model's name and the time. A directory may be given as `.`, or have an invalid run name."""
    path = Path(model).resolve()
    name = (path.stem if path.suffix == ".gguf" else path.name).replace("@", "-").lstrip(".-~ ")[:60] or "run"
    return f"{name}-{dt.datetime.now():%Y%m%d-%H%M%S}"


def new_run_info(
    kind: str, name: str, loaded: LoadedModel, model: str, seed: int, settings: Mapping[str, Any]
) -> RunInfo:
    """The `run` row of a run that begins now; the model's fingerprint is added to its settings."""
    return RunInfo(
        run_id=uuid.uuid4().hex,
        name=name,
        kind=kind,
        model=lasting_name(model),
        model_type=loaded.model_type,
        dtype=loaded.dtype,
        device=loaded.places,
        seed=seed,
        created_at=utc_now(),
        nfinspect_version=VERSION,
        torch_version=torch.__version__,
        transformers_version=transformers.__version__,
        settings={**settings, "fingerprint": fingerprint(loaded).to_json()},
    )


def store_layers(sites: Sequence[LayerSite]) -> tuple[Layer, ...]:
    """The sites of a model as a run's layers, in the same order."""
    return tuple(
        Layer(i, site.site, site.layer, site.module, site.neurons, site.activation, site.fires, site.experts)
        for i, site in enumerate(sites)
    )
