"""What is in a run file: the tables and the public view over them. migrations.py numbers the versions.

Public names (the project's contract): run, layers, prompts, tokens, activations, neurons, layer_health. The other
tables hold sufficient statistics, so that everything except raw values can be answered without the blocks.
"""

BLOCK = 256
"""The most tokens in a value block; docs/decisions/0001 has the measurements."""

MEANS_WIDTH = 256
"""The most neurons in a row of `prompt_means`: row groups stay small (docs/decisions/0017)."""


def stored_value(place: str) -> str:
    """SQL for a value that a row `b` of `blocks` holds. place: which of its block's, in brackets."""
    return f"""CASE octet_length(b."values") // (b."last"::INTEGER - b."first" + 1)
    WHEN 4 THEN (b."values"[4 * ({place} - b."first") + 1 : 4 * ({place} - b."first") + 4])::BIT::FLOAT
    -- The bits of a float16 at their places in a float32, whose exponents begin 112 lower.
    WHEN 2 THEN ((b."values"[2 * ({place} - b."first") + 1 : 2 * ({place} - b."first") + 2])::BIT::SMALLINT::INTEGER
                 * 8192 & -1879056384)::BIT::FLOAT * 4611686018427387904::FLOAT * 1125899906842624::FLOAT
    ELSE (b."values"[{place} - b."first" + 1 : {place} - b."first" + 1])::BIT::TINYINT * b.scale
    END"""


OF_TOKENS = f"""
SELECT l.site, l.layer, b.neuron, t.token_idx, {stored_value(f"(t.token_idx & {BLOCK - 1})")} AS value
FROM blocks b
JOIN layers l ON l.layer_id = b.layer_id
JOIN tokens t ON (t.token_idx // {BLOCK})::INTEGER = b.block
    AND (t.token_idx & {BLOCK - 1}) BETWEEN b."first" AND b."last"
"""

OF_BEYOND = """
SELECT l.site, l.layer, s.neuron, s.token_idx, s.value FROM beyond s JOIN layers l ON l.layer_id = s.layer_id
"""

OF_EXPERTS = f"""
SELECT l.site, l.layer, b.neuron, r.token_idx, {stored_value(f"(r.place & {BLOCK - 1})")} AS value
FROM blocks b
JOIN layers l ON l.layer_id = b.layer_id
JOIN experts e ON e.site = l.site AND e.layer = l.layer
JOIN routed r ON r.site = l.site AND r.layer = l.layer AND r.expert = b.neuron // e.width
    AND (r.place // {BLOCK})::INTEGER = b.block AND (r.place & {BLOCK - 1}) BETWEEN b."first" AND b."last"
"""


def run_tables(*, gates: bool = True) -> str:
    """SQL that makes the empty tables and the view of a run. gates: whether any of its layers fires by a gate."""
    fired = "BLOB USING COMPRESSION uncompressed" if gates else "BLOB"
    return f"""
CREATE TABLE run (
    run_id VARCHAR, name VARCHAR, kind VARCHAR, model VARCHAR, model_type VARCHAR, dtype VARCHAR, device VARCHAR,
    seed BIGINT, created_at TIMESTAMP, finished_at TIMESTAMP, status VARCHAR, nfinspect_version VARCHAR,
    torch_version VARCHAR, transformers_version VARCHAR, schema_version INTEGER, settings JSON);

CREATE TABLE layers (
    layer_id SMALLINT, site VARCHAR, layer INTEGER, module VARCHAR, neurons INTEGER, activation VARCHAR, fires VARCHAR);

CREATE TABLE prompts (
    prompt_idx INTEGER, concept VARCHAR, text VARCHAR, first_token BIGINT, prompt_tokens INTEGER, tokens INTEGER);

-- bytes: of a token that begins or ends within a character, so that its text is not enough; else NULL (token_texts.py).
-- role: of the chat message that the token is in (system, user, assistant …); NULL where there is none.
CREATE TABLE tokens (
    token_idx BIGINT, prompt_idx INTEGER, position INTEGER, token_id INTEGER, token VARCHAR, generated BOOLEAN,
    bytes BLOB, role VARCHAR);

-- The other tokens of the prompts, which the model read and `--where` left out: nothing else in the run is of them.
CREATE TABLE unrecorded (
    prompt_idx INTEGER, position INTEGER, token_id INTEGER, token VARCHAR, generated BOOLEAN, bytes BLOB,
    role VARCHAR);

-- One row: one neuron on the tokens {BLOCK} * block + first to {BLOCK} * block + last. A block has several rows where a
-- segment ends inside it: nothing is padded, and nothing is written twice (docs/decisions/0008). Of a neuron of an
-- expert, block, first and last count the tokens that were routed to the expert (`routed`).
-- values: big-endian, 4 bytes each (float32), 2 (float16) or 1 (int8, to be multiplied by scale), as their length says:
-- precision.py. SQL reads them as bit strings; float32: ("values"[4*i+1 : 4*i+4])::BIT::FLOAT.
-- fired: a bit per token, the first in the lowest bit of the first byte; NULL where the values themselves say it.
-- Nothing compresses these bits, and DuckDB would try (docs/decisions/0014). Where no layer fires by its gate
-- (`gates`), it may: NULLs take no room then.
CREATE TABLE blocks (
    layer_id SMALLINT, neuron INTEGER, block INTEGER, "first" UTINYINT, "last" UTINYINT,
    "values" BLOB USING COMPRESSION uncompressed, fired {fired}, scale FLOAT);

-- The values that `--where beyond=pX` chose, in a run that keeps no others; in a segment by layer, neuron and token.
CREATE TABLE beyond (layer_id SMALLINT, neuron INTEGER, token_idx BIGINT, value FLOAT);

-- Sufficient statistics, separate for tokens at position 0 (`first`) and the others.
CREATE TABLE statistics (
    layer_id SMALLINT, "first" BOOLEAN, neuron INTEGER, n BIGINT, fired BIGINT, mean DOUBLE, m2 DOUBLE, m3 DOUBLE,
    m4 DOUBLE, minimum FLOAT, maximum FLOAT, sum_abs DOUBLE);

-- Statistics of a neuron by concept, over all of the concept's tokens. Like `examples`, empty in a run that keeps every
-- value: both follow from the values.
CREATE TABLE concept_statistics (
    layer_id SMALLINT, concept VARCHAR, neuron INTEGER, n BIGINT, fired BIGINT, mean DOUBLE, maximum FLOAT);

-- One row: one bin of the histograms of a layer's neurons; a bin that is empty in all of them has no row. Bin i lies
-- between edges i and i+1 of the signed-log edges in nfinspect_store.histogram.
-- counts: the lowest bit of each neuron's count, then the next bit of each …; each bit's plane begins a byte
-- (histogram_rows.py). In SQL, bit b of a neuron's count: get_bit(counts::BIT, b * 8 * ceil(neurons / 8) + neuron).
CREATE TABLE histograms (layer_id SMALLINT, "first" BOOLEAN, bin SMALLINT, counts BLOB);

-- Mean activation of {MEANS_WIDTH} neurons of a layer from first_neuron on, or those that are left, over a selection of
-- one prompt's tokens, without position 0. values: big-endian float32, as in `blocks` (docs/decisions/0017).
CREATE TABLE prompt_means (
    layer_id SMALLINT, prompt_idx INTEGER, selection VARCHAR, n INTEGER, first_neuron INTEGER,
    "values" BLOB USING COMPRESSION uncompressed);

-- kind: top | min | random; both lists in order of rank.
CREATE TABLE examples (layer_id SMALLINT, neuron INTEGER, kind VARCHAR, token_idx BIGINT[], "values" FLOAT[]);

-- Sufficient statistics of Mamba's step size per layer and channel, and of the tokens' surprisal; without position 0.
CREATE TABLE mamba_delta (
    layer INTEGER, channel INTEGER, n BIGINT, mean DOUBLE, m2 DOUBLE, surprisal_mean DOUBLE, surprisal_m2 DOUBLE,
    comoment DOUBLE);

CREATE TABLE neurons (
    site VARCHAR, layer INTEGER, neuron INTEGER, n BIGINT, mean DOUBLE, std DOUBLE, min FLOAT, max FLOAT,
    mean_abs DOUBLE, firing_rate DOUBLE, class VARCHAR, dormancy DOUBLE, skewness DOUBLE, excess_kurtosis DOUBLE,
    near_dead BOOLEAN, rate_upper95 DOUBLE, approximate BOOLEAN);

CREATE TABLE layer_health (
    site VARCHAR, layer INTEGER, neurons INTEGER, activation_rate DOUBLE, pattern VARCHAR, dead INTEGER,
    missing INTEGER, weak INTEGER, saturated INTEGER, sporadic INTEGER, score DOUBLE, issues VARCHAR[], scale DOUBLE);

-- What the other tables held when they were written (digests.py): rows, and the sum of their hashes modulo 2^64.
CREATE TABLE digests (part VARCHAR, "rows" BIGINT, digest UBIGINT);

CREATE VIEW activations AS {OF_TOKENS} UNION ALL {OF_BEYOND};
"""


TABLES = run_tables()
"""Of a run in which a layer fires by its gate. Those of others differ in how a column is compressed."""

PUBLIC = ("run", "layers", "prompts", "tokens", "unrecorded", "activations", "neurons", "layer_health")

EVERY_TOKEN = "(FROM tokens UNION ALL BY NAME FROM unrecorded)"
"""As a source of rows: all tokens that the model read; token_idx is NULL for those that are not recorded."""

PLANTED = "planted"
"""Public, only in runs of kind `simulated`: the true class of every neuron (site, layer, neuron, class)."""

EXPERTS = "experts"
"""Public, only in runs that hold neurons of a mixture of experts: a row for each such layer. Neuron `i` of it is of
expert `i // width`."""

ROUTED = "routed"
"""Public, only in runs that keep every value of such neurons: which tokens were routed to which expert. In `blocks` the
tokens of a neuron of an expert are counted by `place`: those routed to the expert, in order, from 0."""

OPTIONAL_TABLES = {
    PLANTED: f"CREATE TABLE {PLANTED} (site VARCHAR, layer INTEGER, neuron INTEGER, class VARCHAR);",
    EXPERTS: f"CREATE TABLE {EXPERTS} (site VARCHAR, layer INTEGER, experts INTEGER, width INTEGER);",
    ROUTED: f"CREATE TABLE {ROUTED} (site VARCHAR, layer INTEGER, expert INTEGER, place BIGINT, token_idx BIGINT);",
}
"""Of some runs, in addition to TABLES."""

ROUTED_VIEW = f"""
DROP VIEW activations;
CREATE VIEW activations AS {OF_TOKENS} ANTI JOIN experts e ON e.site = l.site AND e.layer = l.layer
UNION ALL {OF_EXPERTS};
"""
"""The view of a run with the table `routed`, in place of the other one. Such a run keeps no values one by one; and how
DuckDB writes more than two SELECTs depends on its version."""

RESULT_TABLE = """
CREATE TABLE result (
    kind VARCHAR, settings JSON, document JSON, run_id VARCHAR, made_at TIMESTAMP, nfinspect_version VARCHAR,
    format INTEGER);
"""
"""In the file of a saved result (results.py)."""

INTERNAL = (
    "blocks",
    "beyond",
    "statistics",
    "concept_statistics",
    "histograms",
    "prompt_means",
    "examples",
    "mamba_delta",
    "digests",
)


def quoted(identifier: str) -> str:
    """An identifier as SQL text; the only place where one is quoted."""
    return '"' + identifier.replace('"', '""') + '"'
