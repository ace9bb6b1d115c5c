"""A run whose detectors are known by construction, and methods §5 once more as plain loops."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfinspect.capturing.arrays import ArrayPrompt

PROMPTS, LENGTH, VOCABULARY = 200, 30, 400
INSERTED = 25
"""Times that each phrase is put into the text."""

Gram = tuple[int, ...]


@dataclass(frozen=True)
class Planted:
    """fired: bool[tokens, neurons]. detectors: n -> {neuron: the n-grams it detects}; every other neuron is none."""

    prompts: list[ArrayPrompt]
    fired: NDArray[np.bool_]
    detectors: dict[int, dict[int, set[Gram]]]


def planted_text(seed: int) -> Planted:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, VOCABULARY, (PROMPTS, LENGTH))
    slots = [(p, s) for p in range(PROMPTS) for s in range(1, LENGTH - 3, 5)]
    slots = [slots[i] for i in rng.permutation(len(slots))]
    reserved = rng.permutation(VOCABULARY)[:100].tolist()
    bigrams = [tuple(reserved[2 * i : 2 * i + 2]) for i in range(6)]
    trigrams = [tuple(reserved[20 + 3 * i : 23 + 3 * i]) for i in range(6)]
    for phrase in (*bigrams, *trigrams, *(t[1:] for t in trigrams)):
        # A trigram's ending stands alone as often: it does not tell the trigram.
        for p, s in slots[:INSERTED]:
            ids[p, s : s + len(phrase)] = phrase
        slots = slots[INSERTED:]
    four = VOCABULARY  # a token that is seen 4 times
    for p, s in slots[:4]:
        ids[p, s] = four
    flat, inner = ids.ravel(), np.tile(np.arange(LENGTH) > 0, PROMPTS)
    seen = np.bincount(flat[inner], minlength=VOCABULARY + 1)
    common = [int(t) for t in rng.permutation(VOCABULARY) if seen[t] >= 8 and t not in reserved]

    def on(tokens: list[int]) -> NDArray[np.bool_]:
        return np.isin(flat, tokens) & inner

    def ending(phrase: tuple[int, ...]) -> NDArray[np.bool_]:
        found = inner & (flat == phrase[-1])
        for back, token in enumerate(reversed(phrase[:-1]), 1):
            found &= (np.roll(flat, back) == token) & (np.tile(np.arange(LENGTH), PROMPTS) >= back)
        return found

    def strays(column: NDArray[np.bool_], share: float) -> NDArray[np.bool_]:
        """With as many more activations elsewhere, a share of all of them; on tokens that are common."""
        elsewhere = np.flatnonzero(~column & inner & (seen[flat] >= 8))
        count = int(share * column.sum() / (1 - share))
        column = column.copy()
        column[rng.choice(elsewhere, count, replace=False)] = True
        return column

    def leaky(column: NDArray[np.bool_], kept: float) -> NDArray[np.bool_]:
        """Missing some of the activations."""
        there = np.flatnonzero(column)
        column = column.copy()
        column[there[: round(len(there) * (1 - kept))]] = False
        return column

    columns: list[tuple[int, set[Gram], NDArray[np.bool_]]] = []
    for size in range(1, 6):
        for share in (0.0, 0.04):
            tokens = common[:size]
            common = common[size:]
            columns.append((1, {(t,) for t in tokens}, strays(on(tokens), share)))
    columns += [(2, {b}, ending(b)) for b in bigrams[:4]] + [
        (2, {*bigrams[4:]}, ending(bigrams[4]) | ending(bigrams[5]))
    ]
    columns += [(3, {t}, ending(t)) for t in trigrams[:4]]
    columns += [(3, {*trigrams[4:]}, strays(ending(trigrams[4]) | ending(trigrams[5]), 0.04))]
    nothing: set[Gram] = set()
    columns += [
        (0, nothing, on(common[:6])),  # one token too many
        (0, nothing, leaky(on(common[6:7]), 0.8)),  # silent on a fifth of its token
        (0, nothing, strays(on(common[7:9]), 0.15)),  # too many activations elsewhere
        (0, nothing, on([four])),  # seen too rarely
        (0, nothing, np.zeros(flat.shape, np.bool_)),
        *((0, nothing, rng.random(flat.shape) < rate) for rate in (0.02, 0.3, 0.9)),
        (0, nothing, ~on(common[9:10])),
    ]
    order = rng.permutation(len(columns))
    fired = np.stack([columns[i][2] for i in order], axis=1)
    fired[~inner] = rng.random((PROMPTS, len(columns))) < 0.3  # position 0 never counts
    detectors: dict[int, dict[int, set[Gram]]] = {1: {}, 2: {}, 3: {}}
    for neuron, i in enumerate(order):
        n, grams, _ = columns[i]
        if n:
            detectors[n][neuron] = {tuple(map(int, gram)) for gram in grams}
    return Planted(text_prompts(ids.tolist()), fired, detectors)


def text_prompts(rows: list[list[int]]) -> list[ArrayPrompt]:
    """Prompts of these token ids, whose texts are t0, t1, …"""
    return [ArrayPrompt("a", "text", list(row), [f"t{i}" for i in row], len(row)) for row in rows]


@dataclass(frozen=True)
class Reference:
    """One neuron by methods §5. coverage: activations on covered n-grams, and all of them."""

    k: int
    covered: dict[Gram, int]
    coverage: tuple[int, int]
    detects: bool


def reference(rows: list[list[int]], fired: NDArray[np.bool_], n: int) -> list[Reference]:
    """Every neuron of bool[tokens, neurons] over prompts of these token ids, in plain loops."""
    grams: list[Gram | None] = [
        tuple(row[k - n + 1 : k + 1]) if k >= max(1, n - 1) else None for row in rows for k in range(len(row))
    ]
    seen = Counter(gram for gram in grams if gram is not None)
    found = []
    for column in fired.T.tolist():
        counts = Counter(gram for gram, on in zip(grams, column, strict=True) if on and gram is not None)
        total = sum(counts.values())
        held = k = 0
        for count in sorted(counts.values(), reverse=True):
            if 100 * held >= 95 * total:
                break
            held, k = held + count, k + 1
        covered = {g: c for g, c in counts.items() if seen[g] >= 5 and 100 * c >= 95 * seen[g]}
        of = sum(covered.values())
        found.append(Reference(k, covered, (of, total), 0 < k <= (5 if n == 1 else 50) and 100 * of >= 95 * total))
    return found
