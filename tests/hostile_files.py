"""Run files as an attacker would make them: each is a small sound run, changed by a few statements of SQL.

PROGRAMS hold something that is no plain table of ours, so that reading them would run it; LIES hold plain tables with
contents that no capture writes. `{secret}` is a file that nobody may read, `{written}` one that nobody may write.
"""

import shutil
from pathlib import Path

import duckdb
from hostile import spoken

from nfinspect_store.migrations import SCHEMA_VERSION
from nfinspect_store.schema import INTERNAL, PUBLIC

TABLES = tuple(name for name in (*PUBLIC, *INTERNAL) if name != "activations")

_READ = "SELECT * FROM read_text('{secret}')"
_VIEW = (
    f"SELECT content AS status, content AS model, content AS settings, {SCHEMA_VERSION} AS schema_version "
    "FROM read_text('{secret}')"
)
_LOG = (
    f"SELECT {SCHEMA_VERSION} AS schema_version "
    "FROM enable_logging('QueryLog', storage = 'file', storage_path = '{written}')"
)

PROGRAMS: dict[str, tuple[str, ...]] = {
    **{f"view {name}": (f"DROP TABLE {name}", f"CREATE VIEW {name} AS {_VIEW}") for name in TABLES},
    "view activations": ("DROP VIEW activations", f"CREATE VIEW activations AS {_READ}"),
    "view activations with one word changed": (
        "DROP VIEW activations",
        """CREATE VIEW activations AS SELECT l.site, l.layer, b.neuron, t.token_idx,
           (b."values"[4 * ((t.token_idx & 255) - b."first") + 1
                       : 4 * ((t.token_idx & 255) - b."first") + 4])::BIT::FLOAT AS value
           FROM blocks b JOIN layers l ON l.layer_id = b.layer_id
           JOIN tokens t ON (t.token_idx // 256)::INTEGER = b.block
               AND (t.token_idx & 255) BETWEEN b."first" AND b."first\"""",
    ),
    "view beside": (f"CREATE VIEW beside AS {_READ}",),
    "view of a directory": ("CREATE VIEW beside AS SELECT * FROM glob('/*')",),
    "view that logs": ("DROP TABLE run", f"CREATE VIEW run AS {_LOG}"),
    "macro max": ("CREATE MACRO max(x) AS 42",),
    "macro lower": ("CREATE MACRO lower(x) AS 'nothing'",),
    "macro list_sum": ("CREATE MACRO list_sum(x) AS 0",),
    "macro of an operator": ('CREATE MACRO "&"(a, b) AS 7',),
    "macro of a table": (f"CREATE MACRO range(x) AS TABLE {_READ}",),
    "macro of a function of ours": ("CREATE MACRO duckdb_views() AS TABLE SELECT 1 AS x",),
    "trigger": (
        "CREATE TRIGGER watch AFTER UPDATE ON run FOR EACH STATEMENT DELETE FROM tokens",
        "UPDATE run SET schema_version = 3",
    ),
    "trigger on tokens": ("CREATE TRIGGER watch AFTER INSERT ON tokens FOR EACH STATEMENT UPDATE run SET name = 'x'",),
    "generated version": (
        "DROP TABLE run",
        f"CREATE TABLE run (a INTEGER, schema_version INTEGER GENERATED ALWAYS AS (a + {SCHEMA_VERSION}))",
        "INSERT INTO run (a) VALUES (0)",
    ),
    "generated column": (
        "CREATE TABLE other AS FROM prompts",
        "DROP TABLE prompts",
        """CREATE TABLE prompts (prompt_idx INTEGER, concept VARCHAR, text VARCHAR GENERATED ALWAYS AS (upper(concept)),
           first_token BIGINT, prompt_tokens INTEGER, tokens INTEGER)""",
        "INSERT INTO prompts (prompt_idx, concept) SELECT prompt_idx, concept FROM other",
        "DROP TABLE other",
    ),
    "default": ("ALTER TABLE prompts ALTER text SET DEFAULT 'x'",),
    "constraint": ("ALTER TABLE prompts ALTER text SET NOT NULL",),
    "index": ("CREATE INDEX i ON prompts (prompt_idx)",),
    "sequence": ("CREATE SEQUENCE s",),
    "type": ("CREATE TYPE mood AS ENUM ('a')",),
    "schema": ("CREATE SCHEMA pg_catalog2", f"CREATE VIEW pg_catalog2.x AS {_READ}"),
    "table of another": ("CREATE TABLE beside AS SELECT 1 AS x",),
    "column too many": ("ALTER TABLE tokens ADD COLUMN x INTEGER",),
    "column of another type": ("ALTER TABLE tokens ALTER token_idx TYPE VARCHAR",),
    "column of another name": ("ALTER TABLE neurons RENAME mean TO average",),
    "table missing": ("DROP TABLE examples",),
    "two rows in run": ("INSERT INTO run FROM run",),
    "no row in run": ("DELETE FROM run",),
    "version 0": ("UPDATE run SET schema_version = 0",),
    "version of the future": ("UPDATE run SET schema_version = 2147483647",),
    "version NULL": ("UPDATE run SET schema_version = NULL",),
}

LIES: dict[str, tuple[str, ...]] = {
    "status NULL": ("UPDATE run SET status = NULL, model = NULL, name = NULL",),
    "settings NULL": ("UPDATE run SET settings = NULL",),
    "settings no object": ("UPDATE run SET settings = '[1]'",),
    "settings deep": (f"UPDATE run SET settings = '{'[' * 900}{']' * 900}'",),
    "created at no time": ("UPDATE run SET created_at = 'infinity'",),
    "created before years": ("UPDATE run SET created_at = '-4000-01-01'::TIMESTAMP",),
    "no layers": ("DELETE FROM layers",),
    "layers NULL": ("UPDATE layers SET site = NULL",),
    "layers twice": ("INSERT INTO layers FROM layers",),
    "layers with a gap": ("UPDATE layers SET layer_id = 5",),
    "layers of unknown firing": ("UPDATE layers SET fires = 'never'",),
    "neurons negative": ("UPDATE layers SET neurons = -3",),
    "neurons too many": ("UPDATE layers SET neurons = 2147483647",),
    "neurons more than there are": ("UPDATE layers SET neurons = neurons + 1",),
    "neuron numbers negative": tuple(
        f"UPDATE {t} SET neuron = neuron - 9" for t in ("neurons", "blocks", "statistics")
    ),
    "classes NULL": ('UPDATE neurons SET "class" = NULL',),
    "classes unknown": ("UPDATE neurons SET class = 'great'",),
    "figures NULL": ("UPDATE neurons SET mean = NULL, max = NULL, n = NULL, firing_rate = NULL",),
    "figures no numbers": ("UPDATE neurons SET mean = 'nan', max = 'inf', firing_rate = -1",),
    "health NULL": ("UPDATE layer_health SET score = NULL, issues = NULL, pattern = NULL, scale = NULL",),
    "health gone": ("DELETE FROM layer_health",),
    "tokens NULL": ("UPDATE tokens SET token = NULL",),
    "tokens negative": ("UPDATE tokens SET token_idx = -token_idx - 1",),
    "tokens far away": ("UPDATE tokens SET token_idx = token_idx + 9000000000000000000",),
    "tokens by the million": (
        "DELETE FROM tokens",
        "INSERT INTO tokens SELECT i, 0, 0, 1, 'x', false, NULL, NULL FROM range(20000000) t(i)",
    ),
    "positions far away": ("UPDATE tokens SET position = 2147483647",),
    "token ids far away": ("UPDATE tokens SET token_id = 2147483647",),
    "statistics far away": ("UPDATE statistics SET neuron = 2147483647",),
    "neuron numbers far away": ("UPDATE neurons SET neuron = 2147483647, layer = 2147483647",),
    "blocks far away": ("UPDATE blocks SET neuron = 2147483647, block = 2147483647",),
    "prompt numbers far away": ("UPDATE prompts SET prompt_idx = 2147483647 - prompt_idx",),
    "prompts NULL": ("UPDATE prompts SET concept = NULL, text = NULL",),
    "prompts too long": ("UPDATE prompts SET tokens = 2147483647, prompt_tokens = 2147483647",),
    "prompts far away": ("UPDATE prompts SET first_token = 9000000000000000000",),
    "prompts negative": ("UPDATE prompts SET first_token = -5, tokens = -1, prompt_tokens = -1",),
    "statistics NULL": ("UPDATE statistics SET mean = NULL, n = NULL",),
    "statistics gone": ("DELETE FROM statistics",),
    "statistics counts": (f"UPDATE statistics SET n = {2**62}, fired = {2**62}",),
    "histograms NULL": ("UPDATE histograms SET counts = NULL",),
    "histograms short": ("UPDATE histograms SET counts = '\\x01'::BLOB",),
    "histograms long": ("UPDATE histograms SET counts = repeat(counts, 99)",),
    "histograms high": ("UPDATE histograms SET counts = repeat('\\xFF'::BLOB, 63 * octet_length(counts))",),
    "means NULL": ('UPDATE prompt_means SET "values" = NULL',),
    "means short": ("UPDATE prompt_means SET \"values\" = '\\x00'::BLOB",),
    "means misplaced": ("UPDATE prompt_means SET first_neuron = 2147483647 - first_neuron",),
    "means of one neuron": ('UPDATE prompt_means SET "values" = "values"[:4]',),
    "means gigantic": ('UPDATE prompt_means SET "values" = repeat("values", 60000) WHERE prompt_idx = 0',),
    "examples NULL": ("INSERT INTO examples VALUES (0, 0, 'top', NULL, NULL)",),
    "examples uneven": ("INSERT INTO examples VALUES (0, 0, 'top', [1, 2], [1.0])",),
    "examples elsewhere": ("INSERT INTO examples VALUES (0, 0, 'top', [-99999999], [1.0])",),
    "examples gigantic": ("INSERT INTO examples VALUES (0, 0, 'top', range(2000000), range(2000000)::FLOAT[])",),
    "concepts elsewhere": ("INSERT INTO concept_statistics VALUES (9, NULL, -1, NULL, -7, NULL, NULL)",),
    "bins elsewhere": ("UPDATE histograms SET bin = bin + 9000",),
    "blocks short": ("UPDATE blocks SET \"values\" = '\\x00'::BLOB",),
    "blocks NULL": ('UPDATE blocks SET "values" = NULL',),
    "blocks backwards": ('UPDATE blocks SET "first" = 255, "last" = 0',),
    "blocks gone": ("DELETE FROM blocks",),
    "blocks twice": ("INSERT INTO blocks FROM blocks",),
    "blocks elsewhere": ("UPDATE blocks SET block = block - 7",),
}

ESCAPES = "escapes in every text"


def make(path: Path, name: str, sound: Path, secret: Path, written: Path) -> Path:
    """One of them at `path`, made from the sound run."""
    shutil.copy2(sound, path)
    with duckdb.connect() as connection:
        # Of the newest format, which holds what older ones cannot (triggers).
        connection.execute(f"ATTACH '{path}' AS hostile (STORAGE_VERSION 'v2.0.0')")
        connection.execute("USE hostile")
        for statement in {**PROGRAMS, **LIES}.get(name, ()):
            connection.execute(statement.replace("{secret}", str(secret)).replace("{written}", str(written)))
        if name == ESCAPES:
            columns = connection.execute(
                "SELECT table_name, column_name FROM duckdb_columns() JOIN duckdb_tables() USING (table_name) "
                "WHERE data_type = 'VARCHAR' AND duckdb_columns.database_name = 'hostile'"
            ).fetchall()
            for table, column in columns:
                connection.execute(f'UPDATE "{table}" SET "{column}" = ?', [spoken()])
    if written.is_dir():  # a view that logs does so already when it is made
        shutil.rmtree(written)
    written.unlink(missing_ok=True)
    return path


NAMES = (*PROGRAMS, *LIES, ESCAPES)
