"""Recognising that memory ran out, whatever error the device raises."""

import gc

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a forward pass ran out of memory, on a GPU or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def free_after_failure() -> None:
    """Free what the failed pass still holds, so that a smaller one may fit."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
