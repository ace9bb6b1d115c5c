"""Loading weights into a model: weights that do not fit are refused by name, never filled in."""

import contextlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from .errors import BrokenCheckpoint, ModelError, UnsupportedModel
from .hub import one_line
from .quantised import quantisation

REPORTER = "transformers.modeling_utils"
"""The logger to which transformers reports what did not fit; its exception only refers to that report."""


def read_weights(directory: Path, options: dict[str, Any]) -> tuple[PreTrainedModel, list[str]]:
    """The model with its weights, and notes about them. options: for transformers' from_pretrained.

    Raises BrokenCheckpoint naming weights that are missing or of another shape than the config says, UnsupportedModel,
    and ModelError for too little memory or a missing package.
    """
    report = _Report()
    method = None if "gguf_file" in options else quantisation(options["config"])
    with _reported(report), _readable(directory, report, method):
        # Mismatched shapes are let through here, to be refused below with the names and both shapes.
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            directory, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    model: PreTrainedModel = loaded[0]
    info: dict[str, Any] = loaded[1]
    shapes = sorted((name, tuple(found), tuple(wanted)) for name, found, wanted in info["mismatched_keys"])
    if shapes:
        name, found, wanted = shapes[0]
        others = f" (and {len(shapes) - 1} more)" if len(shapes) > 1 else ""
        raise BrokenCheckpoint(
            f"expected {name} of shape {_shape(wanted)} by the config, found {_shape(found)} in the weights of "
            f"{directory}{others}: config.json and weights are from different models"
        )
    missing = sorted(info["missing_keys"])
    if missing:
        raise BrokenCheckpoint(
            f"expected weights for every parameter, found none for {len(missing)} of them ({missing[0]}) in "
            f"{directory}: the checkpoint is incomplete or of another architecture than its config.json says"
        )
    unused = sorted(info["unexpected_keys"])
    if not unused:
        return model, []
    return model, [
        f"{len(unused)} weights of the checkpoint are not used, such as {unused[0]}: by its config.json the model is a "
        f"{type(model).__name__} of {model.config.get_text_config().num_hidden_layers} layers, which has no place for "
        "them"
    ]


class _Report(logging.Handler):
    """Keeps what transformers reports about weights that do not fit."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += re.sub(r"\x1b\[\d*m", "", record.getMessage()) + "\n"

    @property
    def cause(self) -> str:
        """The first weights that could not be converted, and why; '' if nothing was reported."""
        name = re.search(r"^(\S.*?)\s*\|\s*CONVERSION", self.text, re.MULTILINE)
        error = re.search(r"^(\w*(?:Error|Exception): .+)$", self.text, re.MULTILINE)
        return f"{name[1]}: {error[1][:200]}" if name and error else ""


@contextlib.contextmanager
def _reported(report: _Report) -> Iterator[None]:
    """Redirect what transformers would log about the weights to `report`: `read_weights` raises or returns it."""
    logger = logging.getLogger(REPORTER)
    level, spreads = logger.level, logger.propagate
    logger.addHandler(report)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(report)
        logger.setLevel(level)
        logger.propagate = spreads


@contextlib.contextmanager
def _readable(directory: Path, report: _Report, method: str | None) -> Iterator[None]:
    """method: how the weights are quantised, if they are."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ModelError(
            f"expected the model to fit into memory, found {one_line(error)}: try --dtype bfloat16"
        ) from error
    except ImportError as error:
        raise ModelError(
            f"expected every package that the weights in {directory} need, found one missing: {one_line(error)}"
        ) from error
    except Exception as error:
        if "Unrecognized configuration class" in str(error):
            kind = re.search(r"class '[\w.]*?(\w+)'", str(error))
            raise UnsupportedModel(
                f"expected a causal language model in {directory}, found {kind[1] if kind else 'another kind of model'}"
            ) from error
        if "offload_folder" in str(error):
            raise ModelError(
                f"expected the GPUs and the main memory to hold the weights in {directory}, found too little: try "
                "--dtype bfloat16, or a smaller model"
            ) from error
        if method is not None and (not report.cause or "experts" in report.cause):
            raise UnsupportedModel(
                f"expected weights quantised by {method} that load here, found in {directory}: "
                f"{report.cause or one_line(error)}"
            ) from error
        raise BrokenCheckpoint(
            f"expected weights that transformers can load in {directory}, found {report.cause or one_line(error)}"
        ) from error


def _shape(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
