"""`nf.generate`: what a model in memory writes after a prompt, and what it writes with edits."""

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nfinspect.edits import asked_edits
from nfinspect.experiments.ablation_table import check_controls
from nfinspect.experiments.generation_lab import Generation, Sampling, generation
from nfinspect.experiments.resolved_edits import resolved_edits
from nfinspect.models import Bos, in_memory, run_as_python, uncompiled
from nfinspect.modes import eval_mode
from nfinspect_store.catalog import store_path
from nfinspect_store.errors import RequestError

MOST_TOP = 100
"""Strongest neurons of each layer that a token may be told with."""


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    *,
    zero: Sequence[str] = (),
    scale: Sequence[str] = (),
    clamp: Sequence[str] = (),
    add: Sequence[str] = (),
    direction: Sequence[str] = (),
    start: int = 0,
    new_tokens: int = 40,
    temperature: float = 0.0,
    seed: int = 0,
    controls: int = 20,
    top: int = 3,
    bos: Bos = "auto",
    chat: bool = False,
    store: str | Path | None = None,
) -> Generation:
    """What `nfinspect generate` prints with --json, for a model that is in memory.

    zero, scale, clamp, add, direction: edits, each a text or several, as the command's options of these names take
    them: zero="L3/N17,L1/N5", scale="L3/N17=0.5", clamp="@hot=8", direction="RUN:CONCEPT-BASELINE@resid:L5=4".
    store: the directory of the sets and runs that they name, else $NFINSPECT_STORE, else ./nfinspect-store. start: the
    first position that edits change, 0 the prompt's first token. temperature: 0 is greedy; both sides draw with the
    same noise, from `seed`. controls: random edits of the same size to compare with, none or 20 and more. top:
    strongest neurons of each layer at each token. chat: the prompt is a user's message.

    The result has `original` and `edited` (each with `text`, `nll` in nats per token, and `tokens`), `next` (the likely
    next tokens and their probabilities) and `comparison` (`first_difference`, `changed_values`, `delta_nll`,
    `control`); `edited` and `comparison` are None without edits. The model is read in eval mode;
    afterwards each module is back in its own. Raises RequestError, ModelError, UnsupportedModel, UnknownSite,
    OtherWeights, RunNotFound.
    """
    asked = asked_edits(*map(_texts, (zero, scale, clamp, add, direction)))
    check_controls(controls)
    if not (new_tokens >= 1 and temperature >= 0 and start >= 0):
        raise RequestError(
            f"expected new_tokens of 1 or more, temperature and start of 0 or more, found {new_tokens}, {temperature} "
            f"and {start}"
        )
    if not (seed >= 0 and 0 <= top <= MOST_TOP):
        raise RequestError(f"expected a seed of 0 or more and a top of 0 to {MOST_TOP}, found {seed} and {top}")
    model = uncompiled(model)
    loaded = in_memory(model, tokenizer)
    with eval_mode(model), run_as_python():
        return generation(
            loaded,
            prompt,
            resolved_edits(loaded, asked, store_path(store)),
            sampling=Sampling(new_tokens, temperature, seed),
            start=start,
            controls=controls,
            top=top,
            bos=bos,
            chat=chat,
        )


def _texts(given: Sequence[str]) -> Sequence[str]:
    return (given,) if isinstance(given, str) else given
