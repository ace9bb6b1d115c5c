"""The tokens that a neuron's output weights promote and suppress."""

from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from nfinspect.experiments.addresses import resolve_addresses
from nfinspect.experiments.output_weights import output_effects
from nfinspect.json_values import Document
from nfinspect.models import LoadedModel, TokenTexts
from nfinspect_store.addresses import Address, parse_address
from nfinspect_store.errors import RequestError


@dataclass(frozen=True)
class TokenEffect(Document):
    """A token and what one unit of the neuron's value adds to its logit, minus the mean over the vocabulary.

    token is None for a row of the unembedding that is not a token of the tokenizer.
    """

    token_id: int
    token: str | None
    effect: float


@dataclass(frozen=True)
class NeuronLogits(Document):
    """A neuron's direct effect on the logits: the `top` tokens at either end, and the spread over the vocabulary.

    std: of the effect over all tokens.
    """

    model: str
    site: str
    layer: int
    neuron: int
    vocabulary: int
    std: float
    promoted: tuple[TokenEffect, ...]
    suppressed: tuple[TokenEffect, ...]

    @property
    def address(self) -> str:
        """`L5/N123`; the site is in `site`."""
        return f"L{self.layer}/N{self.neuron}"


def neuron_logits(loaded: LoadedModel, address: Address | str, top: int = 10) -> NeuronLogits:
    """What a neuron promotes and suppresses, the strongest first, ties in order of token_id (output_weights).

    At `resid` the direction is the unit vector of the coordinate. Raises RequestError, UnknownSite and
    UnsupportedModel as output_effects does.
    """
    if top < 1:
        raise RequestError(f"expected --top of 1 or more, found {top}")
    address = parse_address(address) if isinstance(address, str) else address
    ((site, neurons),) = resolve_addresses(loaded, [address]).items()
    effects = output_effects(loaded, site, neurons)[0]
    ascending = np.argsort(effects, kind="stable")
    descending = np.argsort(-effects, kind="stable")

    def shown(order: np.ndarray) -> tuple[TokenEffect, ...]:
        ids = [int(i) for i in order[:top]]
        tokens = token_texts(loaded.tokenizer, ids)
        return tuple(TokenEffect(i, t, float(effects[i])) for i, t in zip(ids, tokens, strict=True))

    return NeuronLogits(
        model=loaded.name,
        site=site.site,
        layer=site.layer,
        neuron=neurons[0],
        vocabulary=len(effects),
        std=float(effects.std(ddof=1, dtype=np.float64)),
        promoted=shown(descending),
        suppressed=shown(ascending),
    )


def token_texts(tokenizer: PreTrainedTokenizerBase, token_ids: list[int]) -> list[str | None]:
    """The text of each token, a leading space included; None for ids that the tokenizer does not have."""
    texts = TokenTexts(tokenizer)
    return [texts.alone(token_id) if token_id < len(tokenizer) else None for token_id in token_ids]
