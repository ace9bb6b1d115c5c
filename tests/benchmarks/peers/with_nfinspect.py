"""nfinspect: a whole run, with its statistics, histograms, examples and tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import nfinspect as nf
from nfinspect.capturing.prompts import PromptIds
from nfinspect.capturing.request import CaptureRequest
from nfinspect.models import LoadedModel
from tests.benchmarks.bench_capture import GivenPrompts
from tests.benchmarks.peers import models


class Runs:
    def __init__(self, model: models.Model, **options: Any) -> None:
        config = model.hf.config
        self._loaded = LoadedModel(
            model.hf, model.tokenizer, model.shape, config.model_type, "cpu", "float32", 1024, model.layers, 0
        )
        self._options = options

    def corpus(self, batches: Sequence[torch.Tensor], folder: Path) -> None:
        self._capture(torch.cat(list(batches)), folder, batch_size=len(batches[0]))

    def generation(self, ids: torch.Tensor, new_tokens: int, folder: Path) -> None:
        self._capture(ids, folder, batch_size=len(ids), generate=new_tokens)

    def _capture(self, ids: torch.Tensor, folder: Path, **options: Any) -> None:
        prompts = [PromptIds("corpus", f"prompt {i}", tuple(row), f"prompt {i}") for i, row in enumerate(ids.tolist())]
        request = CaptureRequest("shape", folder, run="run", sites=("mlp",), **self._options, **options)
        GivenPrompts(request, self._loaded, prompts).run()

    def values(self, folder: Path, layer: int) -> NDArray[np.float32]:
        with nf.open_run(folder / "run.duckdb") as run:
            return run.activations("mlp", layer)
