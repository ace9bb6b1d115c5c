"""The checks of `verify` that compare tables with each other in SQL. Each yields one line per problem."""

import numpy as np

from nfinspect_store.part_settings import SHARD
from nfinspect_store.reader import RunFile
from nfinspect_store.schema import BLOCK, EVERY_TOKEN, stored_value
from nfinspect_store.types import ABSENT, Layer
from nfinspect_store.types import CLASSES as CLASS_WORDS

TOKENS = """
SELECT count(*), min(token_idx), max(token_idx), count(DISTINCT token_idx) FROM tokens
"""

TOKENS_ASTRAY = """
SELECT t.token_idx, t.prompt_idx FROM tokens t LEFT JOIN prompts p USING (prompt_idx)
WHERE p.prompt_idx IS NULL OR t.token_idx < p.first_token OR t.token_idx >= p.first_token + p.tokens
   OR t.generated <> (t.token_idx - p.first_token >= p.prompt_tokens)
ORDER BY t.token_idx LIMIT 20
"""

POSITIONS_ASTRAY = f"""
SELECT prompt_idx, token_idx, position FROM (
    SELECT *, row_number() OVER (PARTITION BY prompt_idx ORDER BY position, token_idx) - 1 AS place,
           max(token_idx) OVER (PARTITION BY prompt_idx ORDER BY position, token_idx
                                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before,
           bool_or(generated) OVER (PARTITION BY prompt_idx ORDER BY position, token_idx) AS begun
    FROM {EVERY_TOKEN}) t
WHERE position IS DISTINCT FROM place OR token_idx <= before OR generated IS DISTINCT FROM begun
   OR NOT EXISTS (FROM prompts p WHERE p.prompt_idx = t.prompt_idx)
ORDER BY prompt_idx, place LIMIT 20
"""

PROMPTS = """
SELECT prompt_idx, row_number() OVER (ORDER BY prompt_idx) - 1 AS expected_idx, first_token,
       coalesce(sum(tokens) OVER before, 0) AS expected_first
FROM prompts WINDOW before AS (ORDER BY prompt_idx ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
QUALIFY prompt_idx <> expected_idx OR first_token <> expected_first
ORDER BY prompt_idx LIMIT 20
"""

STATISTICS = """
SELECT l.site, l.layer, l.neurons, count(s.neuron) AS neurons_counted,
       count(*) FILTER (s.n <> $tokens) AS wrong, min(s.n), max(s.n)
FROM layers l LEFT JOIN (
    SELECT layer_id, neuron, sum(n)::BIGINT AS n FROM statistics GROUP BY layer_id, neuron) s USING (layer_id)
GROUP BY ALL HAVING neurons_counted <> l.neurons OR wrong > 0
ORDER BY l.site, l.layer
"""

CONCEPT_STATISTICS = """
SELECT s.concept, l.site, l.layer, l.neurons, count(DISTINCT s.neuron) AS counted, p.tokens, min(s.n), max(s.n)
FROM concept_statistics s LEFT JOIN layers l USING (layer_id)
LEFT JOIN (SELECT concept, sum(tokens)::BIGINT AS tokens FROM prompts GROUP BY concept) p ON p.concept = s.concept
GROUP BY ALL
HAVING counted IS DISTINCT FROM l.neurons OR count(*) IS DISTINCT FROM l.neurons OR min(s.n) IS DISTINCT FROM p.tokens
    OR max(s.n) IS DISTINCT FROM p.tokens
ORDER BY ALL
"""

CONCEPTS_MISSING = """
SELECT concept, layer_id FROM (SELECT DISTINCT concept FROM prompts WHERE tokens > 0) CROSS JOIN layers
EXCEPT SELECT concept, layer_id FROM concept_statistics ORDER BY ALL
"""

EACH_EXAMPLE = """
SELECT layer_id, neuron, kind, unnest(token_idx) AS token_idx, unnest("values") AS value FROM examples
"""

EXAMPLES = f"""
WITH each_example AS (FROM ({EACH_EXAMPLE}) WHERE NOT list_contains($experts::SMALLINT[], layer_id))
SELECT a.site, a.layer, e.neuron, e.kind, e.token_idx, e.value, a.value AS stored
FROM each_example e JOIN layers l USING (layer_id)
JOIN activations a ON a.site = l.site AND a.layer = l.layer AND a.neuron = e.neuron AND a.token_idx = e.token_idx
WHERE a.value <> e.value
ORDER BY ALL LIMIT 20
"""

EXAMPLES_OF_EXPERTS = f"""
WITH each_example AS (FROM ({EACH_EXAMPLE}) WHERE layer_id = $layer),
placed AS (
    SELECT e.neuron, e.kind, e.token_idx, e.value, r.place FROM each_example e LEFT JOIN routed r
    ON r.site = $site AND r.layer = $number AND r.expert = e.neuron // $width AND r.token_idx = e.token_idx)
SELECT $site, $number, p.neuron, p.kind, p.token_idx, p.value, {stored_value(f"(p.place & {BLOCK - 1})")} AS stored
FROM placed p LEFT JOIN blocks b
ON b.layer_id = $layer AND b.neuron = p.neuron AND b.block = (p.place // {BLOCK})::INTEGER
    AND (p.place & {BLOCK - 1}) BETWEEN b."first" AND b."last"
WHERE (abs(stored - p.value) <= $error) IS NOT TRUE
ORDER BY ALL LIMIT 20
"""

EXAMPLES_OUTSIDE = f"""
SELECT count(*) FROM ({EACH_EXAMPLE}) WHERE token_idx < 0 OR token_idx >= $tokens
"""

MAMBA_DELTA = """
SELECT layer, min(n), max(n), (SELECT count(*) FROM tokens WHERE "position" > 0) AS expected
FROM mamba_delta GROUP BY layer HAVING min(n) <> expected OR max(n) <> expected ORDER BY layer
"""

CLASSES = """
SELECT l.site, l.layer, l.neurons, h.neurons AS held, c.counted,
       [h.dead, h.missing, h.weak, h.saturated, h.sporadic] AS told,
       [c.dead, c.missing, c.weak, c.saturated, c.sporadic] AS found
FROM layers l
LEFT JOIN layer_health h ON h.site = l.site AND h.layer = l.layer
LEFT JOIN (
    SELECT site, layer, count(*) AS counted,
           count(*) FILTER (class = 'dead') AS dead, count(*) FILTER (class = 'missing') AS missing,
           count(*) FILTER (class = 'weak') AS weak, count(*) FILTER (class = 'saturated') AS saturated,
           count(*) FILTER (class = 'sporadic') AS sporadic
    FROM neurons GROUP BY site, layer) c ON c.site = l.site AND c.layer = l.layer
WHERE held IS DISTINCT FROM l.neurons OR c.counted IS DISTINCT FROM l.neurons OR told IS DISTINCT FROM found
ORDER BY l.site, l.layer
"""

CLASS_NAMES = (*CLASS_WORDS, ABSENT)


def check_tokens(run: RunFile) -> list[str]:
    row = run.cursor().execute(TOKENS).fetchone()
    count, low, high, distinct = row if row else (0, None, None, 0)
    if count == 0:
        may = run.info.status != "complete" or SHARD in run.info.settings  # a part's prompts may have none recorded
        return [] if may else ["tokens: the run holds none"]
    problems = []
    if (low, high, distinct) != (0, count - 1, count):
        problems.append(f"tokens: expected 0 to {count - 1}, found {distinct} different ones from {low} to {high}")
    astray = run.cursor().execute(TOKENS_ASTRAY).fetchall()
    problems += [f"tokens: token {token} does not fit its prompt {prompt}" for token, prompt in astray]
    misplaced = run.cursor().execute(POSITIONS_ASTRAY).fetchall()
    for prompt, token, position in misplaced:
        if token is None:
            problems.append(f"unrecorded: position {position} does not fit its prompt {prompt}")
        elif (token, prompt) not in astray:
            problems.append(f"tokens: token {token} does not fit its prompt {prompt}")
    return problems


def check_prompts(run: RunFile) -> list[str]:
    wrong = run.cursor().execute(PROMPTS).fetchall()
    problems = [
        f"prompts: prompt {idx} begins at token {first}, expected {expected}" for idx, _, first, expected in wrong
    ]
    total = run.cursor().execute("SELECT coalesce(sum(tokens), 0)::BIGINT FROM prompts").fetchone()
    if total and total[0] != run.tokens:
        problems.append(f"prompts: they count {total[0]} tokens together, the run holds {run.tokens}")
    return problems


def check_statistics(run: RunFile) -> list[str]:
    if run.tokens == 0:
        return []
    problems = []
    mixtures = {(layer.site, layer.layer): layer for layer in run.layers if layer.experts}
    for site, layer, neurons, counted, wrong, low, high in (
        run.cursor().execute(STATISTICS, {"tokens": run.tokens}).fetchall()
    ):
        if counted != neurons:
            problems.append(f"statistics: {site} layer {layer} has {counted} neurons, expected {neurons}")
        if wrong and (site, layer) not in mixtures:
            problems.append(
                f"statistics: {site} layer {layer}: {wrong} neurons count {low} to {high} tokens, "
                f"the run holds {run.tokens}"
            )
    for row in run.cursor().execute(CONCEPT_STATISTICS).fetchall():
        concept, site, layer, neurons, counted, expected, low, high = row
        if (site, layer) in mixtures and counted == neurons:
            continue
        problems.append(
            f"concept_statistics: {site} layer {layer}: concept {concept!r} has {counted} neurons that count {low} to "
            f"{high} tokens, expected {neurons} that count {expected}"
        )
    for layer in mixtures.values():
        problems += _of_experts(run, layer)
    # A run that keeps all values stores nothing by concept but of experts, unless it was migrated.
    held = run.cursor().execute("SELECT count(*) FROM concept_statistics").fetchall()[0][0]
    lacking = run.cursor().execute(CONCEPTS_MISSING).fetchall() if held or not run.has_values else []
    experts = {layer.layer_id for layer in mixtures.values()} if run.has_values else set()
    for concept, layer_id in lacking:
        if not experts or layer_id in experts:
            problems.append(f"concept_statistics: concept {concept!r} is missing for layer_id {layer_id}")
    return problems


def _of_experts(run: RunFile, layer: Layer) -> list[str]:
    """Whether the neurons of an expert count the same tokens, together and by concept, none more than there are."""
    place = f"{layer.site} layer {layer.layer}"
    n = run.statistics(layer.site, layer=layer.layer).n
    if len(n) != layer.neurons:
        return []  # reported already
    problems = []
    by_expert = n.reshape(layer.experts, layer.width)
    if (by_expert != by_expert[:, :1]).any():
        problems.append(f"statistics: {place}: neurons of one expert count different numbers of tokens")
    if n.max(initial=0) > run.tokens:
        problems.append(f"statistics: {place}: an expert counts {n.max()} tokens, the run holds {run.tokens}")
    told = [one.n for one in run.concept_statistics(layer).values() if len(one.n) == layer.neurons]
    if (np.sum(told, axis=0, dtype=np.int64) != n).any():
        problems.append(f"concept_statistics: {place}: its concepts together do not count the tokens of its experts")
    return problems


def check_routed(run: RunFile) -> list[str]:
    """Whether the neurons of every expert count the tokens that were routed to it."""
    problems = []
    for layer in run.layers if run.has_values else ():
        if not layer.experts:
            continue
        n, counts = run.statistics(layer.site, layer=layer.layer).n, run.routes(layer).counts
        wrong = int((n[:: layer.width] != counts).sum()) if len(n) == layer.neurons else 0  # reported already
        if wrong:
            problems.append(
                f"routed: {layer.site} layer {layer.layer}: {wrong} experts have other tokens than their neurons count"
            )
    return problems


def check_examples(run: RunFile) -> list[str]:
    outside = run.cursor().execute(EXAMPLES_OUTSIDE, {"tokens": run.tokens}).fetchone()
    problems = [f"examples: {outside[0]} name tokens that the run does not hold"] if outside and outside[0] else []
    if run.has_values:
        mixtures = [layer for layer in run.layers if layer.experts]
        found = run.sql(EXAMPLES, {"experts": [layer.layer_id for layer in mixtures]}).fetchall()
        for one in mixtures:
            of = {"site": one.site, "number": one.layer, "layer": one.layer_id, "width": one.width}
            of["error"] = run.worst_error.get(one.site, 0.0)  # examples are of the values as computed
            found += run.cursor().execute(EXAMPLES_OF_EXPERTS, of).fetchall()
        for site, layer, neuron, kind, token, value, stored in found:
            problems.append(
                f"examples: {site}:L{layer}/N{neuron} {kind} at token {token} is {value}, the blocks hold {stored}"
            )
    return problems


def check_histograms(run: RunFile) -> list[str]:
    if run.tokens == 0:
        return []
    problems = []
    for layer in run.layers:
        tokens = run.statistics(layer.site, layer=layer.layer).n if layer.experts else run.tokens
        wrong = int((run.histograms(layer.site, layer.layer).sum(axis=1) != tokens).sum())
        if wrong:
            problems.append(
                f"histograms: {layer.site} layer {layer.layer}: {wrong} of {layer.neurons} do not count "
                f"{'the tokens of their expert' if layer.experts else f'{run.tokens} tokens'}"
            )
    return problems


def check_mamba_delta(run: RunFile) -> list[str]:
    rows = run.cursor().execute(MAMBA_DELTA).fetchall()
    return [
        f"mamba_delta: layer {layer} counts {low} to {high} tokens, the run holds {expected} past position 0"
        for layer, low, high, expected in rows
    ]


def check_derived(run: RunFile) -> list[str]:
    if run.tokens == 0 or run.info.status == "capturing":  # both tables are written with the first segment
        return []
    problems = []
    for site, layer, neurons, held, counted, told, found in run.cursor().execute(CLASSES).fetchall():
        if counted != neurons or held != neurons:
            problems.append(
                f"neurons: {site} layer {layer} has {neurons} neurons, the table neurons {counted or 0}, "
                f"layer_health {held or 0}"
            )
        else:
            problems.append(f"layer_health: {site} layer {layer} counts {told}, the table neurons {found}")
    names = ", ".join(f"'{name}'" for name in CLASS_NAMES)
    odd = (
        run.cursor()
        .execute(f"SELECT DISTINCT class FROM neurons WHERE class IS NULL OR class NOT IN ({names})")
        .fetchall()
    )
    problems += [f"neurons: unknown class {row[0]!r}" for row in odd]
    return problems
