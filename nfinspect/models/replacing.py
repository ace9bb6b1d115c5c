"""Values of a running model replaced before the model uses them: the hooks of ablations and edits."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .batch import body
from .checks import first_input, first_tensor
from .compiled import modules_by_name
from .errors import SilentHook, WrongSite
from .experts import ExpertsEdit
from .loaded import LoadedModel
from .sites import LayerSite

Replace = Callable[[Tensor], Tensor]
"""From a site's values, [..., neurons], to those that the model goes on with; those of experts as ExpertsEdit gives
them."""

INPUTS = ("input_ids", "inputs_embeds")
"""What a model is called with; a multimodal one passes embeddings to its text part."""

Begins = Callable[[tuple[int, int], Tensor | None], None]
"""Takes the batch and the tokens of a pass, and its attention mask, [batch, tokens or more], if it has one."""


Tell = Callable[[Tensor, Tensor], None]
"""Takes a site's values before and after a change, of the same shape; of experts those of the tokens routed to them."""


def _nothing(shape: tuple[int, int], mask: Tensor | None) -> None:
    pass


def _untold(before: Tensor, after: Tensor) -> None:
    pass


@contextmanager
def replaced(
    loaded: LoadedModel, changes: Mapping[LayerSite, Replace], begins: Begins = _nothing, tell: Tell = _untold
) -> Iterator[None]:
    """Every forward pass inside this context goes on with what `changes` return; afterwards the model is as before.

    begins: called before each pass; tell: at each change. Raises SilentHook after a pass that did not call every layer
    exactly once (a fused kernel may bypass a projection, as Mamba's does in training), and at the end if no pass called
    the model's hooks, so that no result is reported for a change that did not happen; WrongSite for another width than
    the site's.
    """
    modules = modules_by_name(loaded.model)
    inner = body(loaded.model)  # a capture reads with this part alone
    names = list(inspect.signature(inner.forward).parameters)
    calls = {site: 0 for site in changes}
    passes = 0

    def begun(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        nonlocal passes
        passes += 1
        for site in calls:  # a pass that raised did not reach `finished`
            calls[site] = 0
        given = first_input(args, {name: kwargs[name] for name in INPUTS if kwargs.get(name) is not None})
        mask = {**dict(zip(names, args, strict=False)), **kwargs}.get("attention_mask")
        if given is not None:
            batch, tokens = given.shape[:2]
            begins((batch, tokens), mask if isinstance(mask, Tensor) and mask.dim() == 2 else None)

    def finished(*_: object) -> None:
        for site, count in calls.items():
            if count != 1:
                raise SilentHook(
                    f"expected {site.module} of layer {site.layer} to be called once in a forward pass, found "
                    f"{count} times: a fused kernel or a replaced forward bypasses the module, nothing was changed"
                )

    with ExitStack() as hooks:
        for site, change in changes.items():
            module = modules[site.module]
            if site.experts:
                called = partial(_called, site, calls)
                hooks.enter_context(_removed(ExpertsEdit(module, site.module, change, called, tell)))
                continue
            replace = _checked(site, change, calls, tell)
            if site.site == "resid":
                hooks.enter_context(_removed(module.register_forward_hook(_on_output(replace))))
            else:
                hooks.enter_context(_removed(module.register_forward_pre_hook(_on_input(replace, site))))
        hooks.enter_context(_removed(inner.register_forward_pre_hook(begun, with_kwargs=True)))
        hooks.enter_context(_removed(inner.register_forward_hook(finished)))
        yield
    if changes and not passes:
        raise SilentHook(
            f"expected a forward pass of {type(loaded.model).__name__} that calls its hooks, found none: compiled code "
            "or a replaced forward bypasses them, nothing was changed"
        )


def _called(site: LayerSite, calls: dict[LayerSite, int]) -> None:
    calls[site] += 1


def _checked(site: LayerSite, change: Replace, calls: dict[LayerSite, int], tell: Tell) -> Replace:
    def replace(whole: Tensor) -> Tensor:
        if whole.shape[-1] != site.neurons:
            raise WrongSite(
                f"expected {site.neurons} neurons at {site.module} of layer {site.layer}, found {whole.shape[-1]}"
            )
        calls[site] += 1
        changed = change(whole)
        if changed is not whole:
            tell(whole, changed)
        return changed

    return replace


def _on_input(replace: Replace, site: LayerSite) -> Callable[[nn.Module, tuple[object, ...]], tuple[object, ...]]:
    def hook(_: nn.Module, args: tuple[object, ...]) -> tuple[object, ...]:
        if not args or not isinstance(args[0], Tensor):
            raise WrongSite(
                f"expected {site.module} of layer {site.layer} to get its neurons as first positional argument, found "
                "another call"
            )
        return (replace(args[0]), *args[1:])

    return hook


def _on_output(replace: Replace) -> Callable[[nn.Module, object, object], object]:
    def hook(_: nn.Module, args: object, output: object) -> object:
        hidden = first_tensor(output)
        assert hidden is not None  # every block returns hidden states
        changed = replace(hidden)
        return (changed, *output[1:]) if isinstance(output, tuple | list) else changed

    return hook


@contextmanager
def _removed(handle: RemovableHandle | ExpertsEdit) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()
