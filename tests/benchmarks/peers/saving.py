"""Activations on disk as people without a store save them: one file for each layer and batch, durable at the end."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from safetensors.torch import save_file

Save = Callable[[Path, int, Sequence[torch.Tensor]], None]


def save_npy(folder: Path, batch: int, values: Sequence[torch.Tensor]) -> None:
    """values: float32[prompts, tokens, neurons] for each layer."""
    for layer, of_layer in enumerate(values):
        np.save(folder / f"{batch:05}-{layer:02}.npy", of_layer.numpy())


def save_safetensors(folder: Path, batch: int, values: Sequence[torch.Tensor]) -> None:
    tensors = {str(layer): of_layer.contiguous() for layer, of_layer in enumerate(values)}
    save_file(tensors, folder / f"{batch:05}.safetensors")


def make_durable(folder: Path) -> None:
    """Every file of the folder, and the folder, survive a power cut from here on."""
    for path in (*folder.iterdir(), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def saved_values(folder: Path, layer: int) -> NDArray[np.float32]:
    """float32[tokens, neurons], from either kind of file."""
    arrays = [np.load(path) for path in sorted(folder.glob(f"*-{layer:02}.npy"))]
    arrays += [load_file(path)[str(layer)] for path in sorted(folder.glob("*.safetensors"))]
    return np.concatenate([array.reshape(-1, array.shape[-1]) for array in arrays])
