"""Decoding steps as one compiled graph over a static cache, and the reading of their values.

The prompts are read as always, in Python with hooks. Each step after them is one call of a graph that torch.compile
has made of the whole model, in which StepBuffers' copies are recorded. The graph is made for one capture and used by it
alone: torch keeps compiled code by the code object of what was compiled and does not look whether hooks have come or
gone since, so that code that the user compiled before would read nothing (docs/decisions/0022).
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._pytree import tree_leaves
from transformers import CompileConfig, PreTrainedModel

from nfinspect.models import LayerSite, StepBuffers, UnsupportedModel, one_line


class CompiledSteps:
    """What `generate(…, steps=…)` decodes with. For each batch: `before_first` around it."""

    def __init__(self, model: PreTrainedModel, sites: Sequence[LayerSite], *, most: int, cache: int) -> None:
        """sites: those read in the steps, none before a replay and none of experts. most: steps of a batch; cache:
        tokens that the longest text of the capture has. How to compile is the generation config's `compile_config`,
        else transformers' default. Raises UnsupportedModel for a model that cannot be compiled as one graph.
        """
        check_compilable(model)
        self._model = model
        self.buffers = StepBuffers(model, sites, most)
        given = getattr(model.generation_config, "compile_config", None) or CompileConfig()
        self._config = copy.copy(given)
        self._config._compile_all_devices = True
        self._cache = cache
        self._asked = False
        self._fresh = False  # the cache
        self._before: Callable[[], None] | None = None
        how = {name: value for name, value in self._config.to_dict().items() if name != "fullgraph"}
        self._step: Callable[..., Any] = torch.compile(_step_of(model), fullgraph=True, **how)

    @property
    def settings(self) -> dict[str, object]:
        """What a GenerationConfig needs."""
        return {
            "cache_implementation": "static",
            "max_cache_len": self._cache,
            "compile_config": self._config,
        }

    @contextmanager
    def before_first(self, call: Callable[[], None]) -> Iterator[None]:
        """Inside, `call` is called once before the first step, when the prompts have been read."""
        self._before = call
        self.buffers.steps = 0  # of the batch before
        try:
            yield
        finally:
            self._before = None
            self.buffers.detach()

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """Inside, `model.generate` makes its steps with this. Raises UnsupportedModel if it did not want to."""
        own, kept = self._model.__dict__, "_previous_max_cache_length"
        before = {name: own[name] for name in (kept, "get_compiled_call") if name in own}
        self._asked, self._fresh = False, True
        self._model.get_compiled_call = self._compiled_call  # type: ignore[method-assign]
        try:
            yield
            if not self._asked:
                raise self._not_static("it took another cache")
        except (AttributeError, IndexError, NotImplementedError, TypeError, ValueError) as error:
            raise self._not_static(f"{type(error).__name__}, {one_line(error)}") from error
        finally:
            for name in (kept, "get_compiled_call"):
                own.pop(name, None)
            own.update(before)

    def _not_static(self, found: str) -> UnsupportedModel:
        return UnsupportedModel(
            f"expected transformers to decode {type(self._model).__name__} with a static cache, found {found}: capture "
            "without --compiled"
        )

    def _compiled_call(self, compile_config: CompileConfig | None) -> Callable[..., Any]:
        self._asked = True
        return self._call

    def _call(self, **inputs: Any) -> Any:
        if self._before is not None:
            before, self._before = self._before, None
            before()
        if self._fresh:
            self._fresh = False
            _not_guarded(inputs.get("past_key_values"))
        try:
            with torch.compiler.set_stance("default"):  # a capture runs everything else as Python
                output = self._step(**inputs)
        except (torch._dynamo.exc.TorchDynamoException, torch._dynamo.exc.FailOnRecompileLimitHit) as error:
            raise UnsupportedModel(
                f"expected steps of {type(self._model).__name__} that compile as one graph, found "
                f"{type(error).__name__}, {one_line(error, 300)}: capture without --compiled"
            ) from error
        self.buffers.next()
        return output


def check_compilable(model: PreTrainedModel) -> None:
    """Raises UnsupportedModel for a model of which transformers says that it cannot be compiled."""
    name = type(model).__name__
    quantizer = getattr(model, "hf_quantizer", None)
    if not getattr(model, "_can_compile_fullgraph", False):
        cause = f"transformers compiles no {name} as one graph"
    elif quantizer is not None and not quantizer.is_compileable:
        cause = "transformers does not compile weights quantised like these"
    elif len(places := set(getattr(model, "hf_device_map", {}).values())) > 1 and places & {"cpu", "disk"}:
        cause = "some of its weights are brought from the main memory or the disk"
    else:
        return
    raise UnsupportedModel(
        f"expected a model whose steps can be compiled, found {name}: {cause}; capture without --compiled"
    )


def _not_guarded(cache: Any) -> None:
    """transformers marks a cache's tensors as static. torch 2.8 and 2.9 then make a graph for each cache, 8 at most,
    and each batch has its own; later versions mark them like this.
    """
    for tensor in tree_leaves([vars(layer) for layer in getattr(cache, "layers", ())]):
        if getattr(tensor, "_dynamo_static_input_type", None) == "guarded":
            torch._dynamo.mark_static_address(tensor, guard=False)


def _step_of(model: PreTrainedModel) -> Callable[..., Any]:
    def step(**inputs: Any) -> Any:
        return model(**inputs)

    step.__code__ = step.__code__.replace()  # its own code object, and so its own compiled code
    return step
