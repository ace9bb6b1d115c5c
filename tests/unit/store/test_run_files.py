"""A run file gives back the arrays that were written, and is refused in one line where it is none."""

import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "capture"))

from recorded import LAYERS, Arrays, make_arrays, record_arrays  # noqa: E402

from nfinspect.capturing.arrays import ArrayPrompt, array_info, write_run
from nfinspect_store import connect, cut_short, layout, migrate_run, migrations, reader, schema
from nfinspect_store.errors import (
    NotARun,
    RequestError,
    RunExists,
    RunNotFound,
    SchemaTooNew,
    SchemaTooOld,
    StoreError,
)
from nfinspect_store.reader import RunFile
from nfinspect_store.results import keep_result
from nfinspect_store.schema import PUBLIC
from nfinspect_store.types import Layer
from nfinspect_store.writer import RunWriter

SIZES = {
    "one token": [1],
    "a prompt of one token among others": [5, 1, 3],
    "one short of a block": [255],
    "a block": [100, 156],
    "one more than a block": [257],
    "two blocks": [512],
    "no multiple of a block": [200, 1, 300, 99, 100],
}


@pytest.fixture(scope="module", params=sorted(SIZES))
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Arrays, Path]:
    arrays = make_arrays(SIZES[request.param], seed=3)
    return arrays, record_arrays(tmp_path_factory.mktemp("stored") / "run.duckdb", arrays, batch=2)


def test_every_way_to_read_values_gives_the_arrays(stored: tuple[Arrays, Path]) -> None:
    arrays, path = stored
    with RunFile.open(path) as run:
        tokens = len(arrays.layer(0))
        assert (run.tokens, run.prompts) == (tokens, len(arrays.prompts))
        for layer in LAYERS:
            expected = arrays.layer(layer.layer_id)
            found = run.activations(layer.site, layer.layer)
            assert found.dtype == np.float32 and found.flags.c_contiguous
            np.testing.assert_array_equal(found, expected)
            for neuron in range(layer.neurons):
                np.testing.assert_array_equal(run.neuron(layer.layer, neuron, layer.site), expected[:, neuron])
            again = np.full(expected.shape, np.nan, np.float32)
            fired = np.zeros(expected.shape, np.bool_)
            for rows in run.blocks(layer, fired=True):
                again[rows.tokens, rows.neuron] = rows.values.T
                if layer.fires == "gate":
                    fired[rows.tokens, rows.neuron] = rows.fired.T
            np.testing.assert_array_equal(again, expected)
            if layer.fires == "gate":
                np.testing.assert_array_equal(fired, np.concatenate([f[1] for f in arrays.fired]))
        for token in {0, tokens // 2, min(255, tokens - 1), min(256, tokens - 1), tokens - 1}:
            every = np.concatenate([arrays.layer(0)[token], arrays.layer(1)[token]])
            np.testing.assert_array_equal(run.token_values(token), every)
            np.testing.assert_array_equal(run.token_values(token, "resid"), arrays.layer(2)[token])
        for token in (-1, tokens):
            with pytest.raises(RequestError, match=f"no token {token} in this run: it holds tokens 0-{tokens - 1}"):
                run.token_values(token)


def test_tokens_and_prompts_come_back(stored: tuple[Arrays, Path]) -> None:
    arrays, path = stored
    with RunFile.open(path) as run:
        first = 0
        for i, prompt in enumerate(arrays.prompts):
            rows = run.prompt_tokens(i)
            size = len(prompt.token_ids)
            assert rows.token_idx.tolist() == list(range(first, first + size))
            assert rows.position.tolist() == list(range(size)) and set(rows.prompt_idx.tolist()) == {i}
            assert rows.token_id.tolist() == prompt.token_ids and rows.token == prompt.tokens
            assert rows.generated.tolist() == [j >= prompt.prompt_tokens for j in range(size)]
            about = run.prompt(i)
            assert (about.concept, about.text, about.first_token, about.tokens) == (
                prompt.concept,
                prompt.text,
                first,
                size,
            )
            first += size
        assert run.tokens_between(first - 1, first + 5).token_idx.tolist() == [first - 1]
        assert run.tokens_at([first - 1, 0]).token_idx.tolist() == sorted({0, first - 1})
        with pytest.raises(RequestError, match="no prompt 99"):
            run.prompt(99)


def test_the_view_has_each_value_once_and_no_padding(stored: tuple[Arrays, Path]) -> None:
    arrays, path = stored
    tokens = len(arrays.layer(0))
    with RunFile.open(path) as run:
        neurons = sum(layer.neurons for layer in LAYERS)
        assert run.sql("SELECT count(*) FROM activations").fetchall() == [(tokens * neurons,)]
        distinct = "SELECT count(DISTINCT (site, layer, neuron, token_idx)) FROM activations"
        assert run.sql(distinct).fetchall() == [(tokens * neurons,)]
        rows = run.sql(
            "SELECT value FROM activations WHERE site = 'mlp' AND layer = 1 AND neuron = 4 ORDER BY token_idx"
        )
        np.testing.assert_array_equal(rows.fetchnumpy()["value"], arrays.layer(1)[:, 4])
        last = run.sql(
            "SELECT site, layer, neuron, value FROM activations WHERE token_idx = ?", [tokens - 1]
        ).fetchall()
        expected = {
            (x.site, x.layer, j): v for x in LAYERS for j, v in enumerate(arrays.layer(x.layer_id)[-1].tolist())
        }
        assert {(site, layer, neuron): value for site, layer, neuron, value in last} == expected
        big = "SELECT count(*) FROM activations WHERE site = 'resid' AND value > 0.5 AND token_idx BETWEEN 3 AND 300"
        assert run.sql(big).fetchall() == [(int((arrays.layer(2)[3:301] > 0.5).sum()),)]
        joined = """SELECT max(a.value) FROM activations a JOIN tokens t USING (token_idx)
                    WHERE a.site = 'mlp' AND a.layer = 0 AND t.position = 0"""
        assert run.sql(joined).fetchall() == [(float(arrays.layer(0)[arrays.first].max()),)]


def test_a_plain_duckdb_reads_the_public_names(stored: tuple[Arrays, Path]) -> None:
    _, path = stored
    with duckdb.connect(str(path), read_only=True) as connection:
        for name in PUBLIC:
            held = connection.execute(f"SELECT count(*) > 0 FROM {name}").fetchall()
            assert held == [(name != "unrecorded",)], name  # without --where every token is recorded


def test_statistics_alone_refuse_single_values_and_answer_the_rest(tmp_path: Path) -> None:
    arrays = make_arrays([300, 7, 1], seed=4)
    whole = record_arrays(tmp_path / "all.duckdb", arrays)
    path = record_arrays(tmp_path / "stats.duckdb", arrays, keep="stats")
    with RunFile.open(path) as run, RunFile.open(whole) as kept:
        assert not run.has_values and kept.has_values and not kept.without_values().has_values
        for read in (lambda: run.activations("mlp", 0), lambda: run.neuron(0, 1), lambda: run.token_values(0)):
            with pytest.raises(StoreError, match="holds statistics only .*--keep stats") as caught:
                read()
            assert "\n" not in str(caught.value)
        assert run.sql("SELECT count(*) FROM activations").fetchall() == [(0,)]
        for table in ("tokens", "prompts", "statistics", "histograms", "prompt_means"):
            rows = f"SELECT * FROM {table} ORDER BY ALL"
            assert run.sql(rows).fetchall() == kept.sql(rows).fetchall(), table
        for layer in LAYERS:
            for neuron in range(layer.neurons):
                place = (layer.site, layer.layer, neuron)
                assert run.examples(*place) == kept.examples(*place)


def test_layers_are_given_by_site_and_side_by_side(tmp_path: Path) -> None:
    mixed = [LAYERS[0], Layer(1, "resid", 0, "h.0", 3, "", "scale"), Layer(2, "mlp", 1, "h.1", 5, "relu", "positive")]
    misnumbered = [Layer(1, "mlp", 0, "h.0", 5, "relu", "positive")]
    for layers in (mixed, misnumbered):
        with pytest.raises(StoreError, match="expected the layers of a site together"):
            RunWriter.create(tmp_path / "r.duckdb", array_info("r", 0), layers)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_run_is_not_written_over(tmp_path: Path) -> None:
    path = record_arrays(tmp_path / "r.duckdb", make_arrays([3]))
    before = path.read_bytes()
    with pytest.raises(RunExists, match="a run named r already exists"):
        RunWriter.create(path, array_info("r", 0), LAYERS)
    assert path.read_bytes() == before


def test_a_log_left_behind_does_not_get_into_a_new_run(tmp_path: Path) -> None:
    """Somebody removes r.duckdb after a crash, and not r.duckdb.wal."""
    path = tmp_path / "r.duckdb"
    log = path.with_name("r.duckdb.wal")
    writer = RunWriter.create(path, array_info("r", 0), LAYERS)
    left = log.read_bytes()
    writer.discard()
    assert not path.exists() and not log.exists()
    log.write_bytes(left)
    arrays = make_arrays([5])
    with RunFile.open(record_arrays(path, arrays)) as run:
        assert run.sql("SELECT count(*) FROM run").fetchall() == [(1,)]
        np.testing.assert_array_equal(run.activations("mlp", 1), arrays.layer(1))


def test_little_is_held_of_a_run_while_its_values_stream(old_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that is given up leaves nothing changed: the limit is that of an instance of its own, where the file is
    so large that there is need of one.
    """
    limit = "SELECT current_setting('memory_limit')"
    with RunFile.open(old_run) as run:
        before = run.sql(limit).fetchall()
        passing = run.blocks(LAYERS[0])
        next(passing)
        assert run.sql(limit).fetchall() == before
        passing.close()
        assert run._second is None
    monkeypatch.setattr(reader, "SMALL", old_run.stat().st_size - 1)
    with RunFile.open(old_run) as run:
        passing = run.blocks(LAYERS[0])
        next(passing)
        assert run.sql(limit).fetchall() == before
        assert run._second is not None
        assert run._second.execute(limit).fetchall() == [("953.6 MiB",)]
        passing.close()


# Versions


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    return record_arrays(tmp_path / "old.duckdb", make_arrays([30]))


ADD_MOOD = "ALTER TABLE prompts ADD COLUMN mood VARCHAR DEFAULT NULL;"


def use_step(monkeypatch: pytest.MonkeyPatch, step: str) -> int:
    """A nfinspect with a schema more. Returns its version."""
    steps = (*migrations.MIGRATIONS, lambda connection: connection.execute(step))
    version = migrations.FIRST_VERSION + len(steps)
    for module in (layout, migrate_run):
        monkeypatch.setattr(module, "MIGRATIONS", steps)
        monkeypatch.setattr(module, "SCHEMA_VERSION", version)
    monkeypatch.setattr(layout, "TABLES", schema.TABLES + ADD_MOOD)
    monkeypatch.setattr(layout, "_layouts", {})
    return version


def test_an_older_run_is_left_as_it_is_until_it_is_migrated(old_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = use_step(monkeypatch, ADD_MOOD)
    before = old_run.read_bytes()
    with pytest.raises(SchemaTooOld, match=f"reads {version}: nfinspect migrate {old_run} brings it"):
        RunFile.open(old_run)
    assert old_run.read_bytes() == before
    old_run.chmod(0o640)
    assert migrate_run.migrate_run(old_run) == migrate_run.Migration(old_run, version - 1, version)
    with RunFile.open(old_run) as run:
        assert run.info.schema_version == version
        assert run.sql("SELECT mood FROM prompts").fetchall() == [(None,)]
        assert run.activations("mlp", 0).shape == (30, 5)
        free = run.sql("SELECT free_blocks FROM pragma_database_size() WHERE database_name = 'run_file'").fetchall()
    assert free == [(0,)] and old_run.stat().st_mode & 0o777 == 0o640
    assert sorted(p.name for p in old_run.parent.iterdir()) == ["old.duckdb"]
    migrated = old_run.read_bytes()
    assert migrate_run.migrate_run(old_run).before == version and old_run.read_bytes() == migrated


def test_a_log_of_an_older_run_is_migrated_with_it(old_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed writer left in the log beside the file."""
    code = f"""
import duckdb, os
connection = duckdb.connect({str(old_run)!r})
connection.execute("UPDATE prompts SET concept = 'from the log'")
os._exit(9)"""
    subprocess.run([sys.executable, "-c", code], check=False)
    assert old_run.with_name("old.duckdb.wal").exists()
    use_step(monkeypatch, ADD_MOOD)
    migrate_run.migrate_run(old_run)
    with RunFile.open(old_run) as run:
        assert run.concepts == ("from the log",)
    assert sorted(p.name for p in old_run.parent.iterdir()) == ["old.duckdb"]


def test_a_failed_migration_leaves_the_run_as_it_was(old_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = old_run.read_bytes()
    with monkeypatch.context() as patched:
        use_step(patched, "DROP TABLE examples; ALTER TABLE nothing ADD COLUMN x INTEGER")
        with pytest.raises(StoreError) as caught:
            migrate_run.migrate_run(old_run)
        assert "\n" not in str(caught.value)
    assert old_run.read_bytes() == before
    assert sorted(p.name for p in old_run.parent.iterdir()) == ["old.duckdb"]


def test_the_steps_lead_to_the_schema_of_today() -> None:
    """Each step also says what the runs of its version look like."""
    with connect.locked([]) as connection:
        found = []
        for version, tables in ((migrations.SCHEMA_VERSION, schema.TABLES), (0, migrations.FIRST_TABLES)):
            connection.execute(f"ATTACH ':memory:' AS v{version}; USE v{version}")
            connection.execute(tables)
            for step in () if version else migrations.MIGRATIONS:
                step(connection)
            connection.execute("USE memory")
            found.append(layout.definitions(connection, [f"v{version}"], macros=False)[f"v{version}"])
    assert found[0] == found[1]


def test_new_files_can_be_read_by_the_duckdb_that_people_have(old_run: Path, tmp_path: Path) -> None:
    """Tried by hand with 1.2.2, which reads tables and view; the tag is what it looks at."""
    result = keep_result(tmp_path / "old.results", "delta", {}, {}, run_id="a").path
    for path in (old_run, result):
        with connect.locked([path]) as connection:
            connection.execute(f"ATTACH '{path}' AS file (READ_ONLY)")
            query = "SELECT tags['storage_version'] FROM duckdb_databases() WHERE database_name = 'file'"
            assert connection.execute(query).fetchall() == [("v1.2.0+",)]


def test_a_newer_run_is_refused(old_run: Path) -> None:
    with duckdb.connect(str(old_run)) as connection:
        connection.execute("UPDATE run SET schema_version = 99")
    with pytest.raises(SchemaTooNew, match="has schema version 99, .*upgrade nfinspect"):
        RunFile.open(old_run)


# Files that are no runs


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE x (a INTEGER)",
        "CREATE TABLE run (a INTEGER)",
        "CREATE TABLE run (schema_version INTEGER)",
        "CREATE TABLE run AS SELECT 'abc' AS schema_version",
        "CREATE TABLE run AS SELECT NULL::INTEGER AS schema_version",
    ],
)
def test_another_duckdb_file_is_refused(statement: str, tmp_path: Path) -> None:
    path = tmp_path / "other.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute(statement)
    before = path.read_bytes()
    assert_refused(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("share", [0.0, 0.001, 0.003, 0.02, 0.5, 0.9, 0.999])
def test_a_file_that_was_not_copied_whole_is_refused(share: float, old_run: Path) -> None:
    content = old_run.read_bytes()
    old_run.write_bytes(content[: int(share * len(content))])
    assert_refused(old_run)


def test_a_whole_file_with_free_room_in_it_is_no_cut_one(old_run: Path) -> None:
    """DuckDB cuts free blocks off the end and still counts them (a capture of many segments leaves such)."""
    with duckdb.connect(str(old_run)) as connection:
        connection.execute("CREATE TABLE room AS SELECT random() FROM range(500_000)")
        connection.execute("CHECKPOINT")
        full = old_run.stat().st_size
        connection.execute("DROP TABLE room")
        connection.execute("CHECKPOINT")
    assert old_run.stat().st_size < full
    with RunFile.open(old_run) as run:
        assert run.activations("mlp", 0).shape == (30, 5)


def test_text_directories_and_nothing_are_refused(tmp_path: Path) -> None:
    for name in ("text.duckdb", "text.csv", "text.jsonl"):  # DuckDB has readers of its own for some names
        text = tmp_path / name
        text.write_text("hello\n" * 5000)
        assert_refused(text)
    assert_refused(tmp_path)
    with pytest.raises(RunNotFound, match="no run file at"):
        RunFile.open(tmp_path / "nothing.duckdb")


def assert_refused(path: Path) -> None:
    with pytest.raises(NotARun) as caught:
        RunFile.open(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize(("fires", "packed"), [("gate", False), ("positive", True)])
def test_where_values_say_what_fired_the_column_takes_no_room(tmp_path: Path, fires: str, packed: bool) -> None:
    layer = Layer(0, "mlp", 0, "h.0", 40, "silu", fires)
    prompts = [ArrayPrompt("a", "x", list(range(300)), ["w"] * 300, 300)]
    values = np.random.default_rng(0).normal(size=(300, 40)).astype(np.float32)
    path = tmp_path / "run.duckdb"
    write_run(path, layers=[layer], prompts=prompts, values=lambda *_: values, fired=lambda *_: values > 0)
    with duckdb.connect(str(path), read_only=True) as plain:
        query = "SELECT DISTINCT compression FROM pragma_storage_info('blocks') WHERE column_name = $1"
        ways = {name: {row[0] for row in plain.execute(query, [name]).fetchall()} for name in ("values", "fired")}
    assert "Uncompressed" in ways["values"]
    assert ("Uncompressed" not in ways["fired"]) == packed, ways
    with RunFile.open(path) as run:
        np.testing.assert_array_equal(run.activations("mlp", 0), values)


def test_a_file_that_counts_truncated_blocks_as_used_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = record_arrays(tmp_path / "run.duckdb", make_arrays([300, 200], seed=1), batch=1)
    counted = cut_short._counted

    def more(connection: duckdb.DuckDBPyConnection, catalog: str) -> tuple[int, int]:
        expected, size = counted(connection, catalog)
        return expected + 4 * size, size

    monkeypatch.setattr(cut_short, "_counted", more)
    with RunFile.open(path) as run:
        assert run.tokens == 500
    whole = path.read_bytes()
    for cut in (whole[:-1], whole[: -2 * 2**18]):
        path.write_bytes(cut)
        with pytest.raises((NotARun, StoreError)):
            RunFile.open(path)


def test_a_run_that_is_replaced_while_it_is_opened_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that ends puts a copy without free space, which is smaller, in the place of the file."""
    path = record_arrays(tmp_path / "run.duckdb", make_arrays([300, 200], seed=1), batch=1)
    smaller = tmp_path / "smaller"
    smaller.write_bytes(path.read_bytes()[: -2 * 2**18])

    def attached(path: Path) -> duckdb.DuckDBPyConnection:
        connection = connect.attach(path)
        smaller.replace(path)
        return connection

    monkeypatch.setattr(reader, "attach", attached)
    with RunFile.open(path) as run:
        assert run.tokens == 500
    monkeypatch.undo()
    with pytest.raises((NotARun, StoreError)):  # what stands there now was cut short
        RunFile.open(path)
