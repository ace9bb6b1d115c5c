"""The gradient of a text's loss by every neuron's value: a and ∂NLL/∂a at every position."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nfinspect.experiments.errors import GradientUnavailable
from nfinspect.models import LayerSite, LoadedModel, SiteReader, forward_batch
from nfinspect.models.checks import first_input, first_tensor

Sink = Callable[[LayerSite, Tensor, Tensor], None]
"""Takes (site, values, gradients), both [tokens, neurons] in the model's dtype."""


def read_gradients(loaded: LoadedModel, sites: Sequence[LayerSite], token_ids: Sequence[int], sink: Sink) -> float:
    """Pass every site's values and ∂NLL/∂value over one sequence to `sink`; returns the NLL.

    NLL: −ln p of every token given those before it, summed over the tokens from position 1 on, in nats. The weights'
    requires_grad is restored, and nothing is added to their gradients. Raises GradientUnavailable, and what SiteReader
    raises.
    """
    model, tokens = loaded.model, len(token_ids)
    values: dict[LayerSite, Tensor] = {}
    batch = forward_batch(model, [token_ids], pad_id=loaded.pad_id)
    reader = SiteReader(model, sites, lambda site, seen, fired: None)  # only for its checks: its values are detached
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.enter_context(_only_values(model))
        for site in sites:
            stack.enter_context(_noted(model, site, values))
        stack.enter_context(reader)
        reader.begin(1, tokens, batch.valid)
        logits = model(**batch.inputs()).logits[0]
        reader.end()
        following = batch.input_ids[0, 1:].to(logits.device)
        exact = torch.promote_types(logits.dtype, torch.float32)
        loss = F.cross_entropy(logits[:-1].to(exact), following, reduction="sum")
        for site in sites:
            if not values[site].requires_grad:
                raise _none(site)
        gradients = torch.autograd.grad(loss, [values[site] for site in sites], allow_unused=True)
    for site, gradient in zip(sites, gradients, strict=True):
        if gradient is None:
            raise _none(site)
        shape = (tokens, site.neurons)  # OPT's values have no batch dimension
        sink(site, values[site].detach().reshape(shape), gradient.reshape(shape))
    return float(loss.detach())


@contextmanager
def _only_values(model: nn.Module) -> Iterator[None]:
    """Inside this context the graph starts at the embeddings' output: nothing is kept for the weights' gradients."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]

    def hook(module: nn.Module, args: object, output: Tensor) -> None:
        output.requires_grad_()

    embeddings = getattr(model, "get_input_embeddings")()  # noqa: B009  (nn.Module does not declare it)
    for weight in trained:
        weight.requires_grad_(False)
    handle = embeddings.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
        for weight in trained:
            weight.requires_grad_()


@contextmanager
def _noted(model: nn.Module, site: LayerSite, values: dict[LayerSite, Tensor]) -> Iterator[None]:
    """Inside this context the values at `site` in a pass are put into `values`, attached to the graph."""
    module = model.get_submodule(site.module)

    def note(value: Tensor | None) -> None:
        if value is not None:
            values[site] = value

    if site.site == "resid":
        handle = module.register_forward_hook(lambda module, args, output: note(first_tensor(output)))
    else:
        handle = module.register_forward_pre_hook(
            lambda module, args, kwargs: note(first_input(args, kwargs)), with_kwargs=True
        )
    try:
        yield
    finally:
        handle.remove()


def _none(site: LayerSite) -> GradientUnavailable:
    return GradientUnavailable(
        f"expected the loss to depend on the {site.site} values of layer {site.layer} ({site.module}), found no "
        "gradient: the model computes a part of itself without autograd (a kernel, quantised weights)"
    )
