"""How much data a result should rest on, and the notes on a result that rests on less and may be chance."""

from collections.abc import Sequence
from math import comb

RULE_OF_THREE = 3.0
"""What happened on none of n tokens has a rate of at most 3/n, with 95 % confidence (Hanley & Lippman-Hand 1983)."""

TOKENS = 3000
"""Tokens from which a neuron that fired on none of them has, with 95 % confidence, a firing rate of at most 1e-3, the
limit of near-dead (methods §2) [own]."""

STEPS = 300
"""Steps from token to token that a neuron's mean step and variance should rest on: their standard errors are then about
6 % [own]."""

PROMPTS = 10
"""Prompts that a mean over prompts should rest on [own]."""

UNITS = 10
"""Documents or windows that a bootstrap should draw from [own]: with fewer its interval is too narrow."""


def few_tokens(tokens: int) -> str:
    """The note on classes: what so few tokens leave open; '' if the tokens are enough."""
    if tokens >= TOKENS:
        return ""
    share = min(100.0, 100 * RULE_OF_THREE / max(1, tokens))
    bound = f"{share:.0f}" if share >= 1 else f"{share:.1g}"
    return (
        f"{only(tokens, 'token')}: a neuron that is dead on all of them may still come alive on up to {bound} "
        "% of the tokens of other text (95 % bound), and one that hardly varies counts as saturated"
    )


def few_ngram_tokens(tokens: int, least: int) -> str:
    """The note on n-gram detectors. least: occurrences from which an n-gram counts."""
    if tokens >= TOKENS:
        return ""
    return (
        f"{only(tokens, 'token')}: an n-gram counts from {least:,} occurrences on, so that few can be detected, and a "
        "neuron that fired a few times may be called a detector of what it met by chance"
    )


def few_steps(pairs: int) -> str:
    """The note on delta sensitivity."""
    if pairs >= STEPS:
        return ""
    return f"{only(pairs, 'step')} from token to token: ratio and step may lie far from those in other text"


def few_prompts(prompts: int) -> str:
    """The note on means over prompts, such as the scores of attention neurons."""
    if prompts >= PROMPTS:
        return ""
    return f"{only(prompts, 'prompt')}: over other prompts other neurons may be the first"


def few_units(units: int, what: str) -> str:
    """The note on an interval from a bootstrap over so many `what` (documents, windows)."""
    if units >= UNITS:
        return ""
    if units == 1:
        return f"there is no interval: the text is one {what.removesuffix('s')} only"
    return f"the intervals are drawn from {units:,} {what}, and are too narrow with fewer than {UNITS}"


def separated_by_chance(concept: str, groups: Sequence[tuple[int, int, int]]) -> str:
    """The note on a trace: how many unrelated neurons would have AUROC 1 by chance; '' if fewer than one.

    groups: prompts of the concept, prompts of the baseline and how many neurons have means in so many, of one group or
    of several. Of the C(n + m, n) orders of n and m values, one puts all n above all m.
    """
    expected = sum(neurons / comb(prompts + baseline, prompts) for prompts, baseline, neurons in groups)
    if expected < 1:
        return ""
    prompts, baseline, neurons = zip(*groups, strict=True)
    return (
        f"{concept}: {_range(prompts)} prompts against {_range(baseline)}: of {sum(neurons):,} neurons that know "
        f"nothing of it about {expected:,.0f} would separate them fully (AUROC 1) by chance"
    )


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def only(number: int, what: str) -> str:
    return f"only {number:,} {what}{'' if number == 1 else 's'}"
