"""SAELens: CacheActivationsRunner keeps the output of one module a run, so that each layer takes passes of its own."""

from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from datasets import Dataset, load_from_disk
from numpy.typing import NDArray
from sae_lens import CacheActivationsRunner, CacheActivationsRunnerConfig
from sae_lens.load_model import HookedProxyLM

from tests.benchmarks.peers import models
from tests.benchmarks.peers.saving import make_durable


class CachedActivations:
    def __init__(self, model: models.Model) -> None:
        if model.shape == "gated":
            raise NotImplementedError(
                "it records modules' outputs, and the neurons of a gated MLP are no module's output"
            )
        self._width = models.NEURONS[model.shape]
        self._names = [f"transformer.h.{layer}.mlp.act" for layer in range(model.layers)]
        self._model = HookedProxyLM(model.hf, model.tokenizer, hook_names=self._names)

    def corpus(self, batches: Sequence[torch.Tensor], folder: Path) -> None:
        prompts, length = sum(map(len, batches)), batches[0].shape[1]
        given = Dataset.from_dict({"input_ids": torch.cat(list(batches)).tolist()})
        for name in self._names:
            config = CacheActivationsRunnerConfig(
                dataset_path="given",
                model_name="given",
                model_batch_size=len(batches[0]),
                hook_name=name,
                d_in=self._width,
                training_tokens=prompts * length,
                context_size=length,
                new_cached_activations_path=str(folder / name),
                shuffle=False,
                device="cpu",
                buffer_size_gb=(prompts * length + 0.5) * self._width * 4 / 1e9,  # one shard
                prepend_bos=False,
            )
            with mock.patch("sae_lens.cache_activations_runner.load_model", return_value=self._model):  # it asks a hub
                CacheActivationsRunner(config, override_dataset=given).run()
            make_durable(folder / name)

    def generation(self, ids: torch.Tensor, new_tokens: int, folder: Path) -> None:
        raise NotImplementedError("it reads given tokens only")

    def values(self, folder: Path, layer: int) -> NDArray[np.float32]:
        name = self._names[layer]
        found = load_from_disk(folder / name).with_format("numpy")[name]
        return np.asarray(found).reshape(-1, self._width)
