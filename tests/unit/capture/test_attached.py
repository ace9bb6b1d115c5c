"""A run that leaves its values in its parts answers as one file does, and says what is wrong with a part."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from whole_and_parts import CASES, assert_same, captured, digests, parts_of, sound

import nfinspect as nf
from nfinspect.capturing.merging import merge_runs
from nfinspect.capturing.request import CaptureRequest
from nfinspect.models import LoadedModel
from nfinspect_store.attached import MOST_ATTACHED, activations_view, attached_parts, define_view
from nfinspect_store.block_rows import whole_blocks
from nfinspect_store.catalog import delete_run, list_runs
from nfinspect_store.connect import create
from nfinspect_store.console import Console
from nfinspect_store.digests import digest_table, renew_digests, write_digests
from nfinspect_store.errors import CannotMerge, NotARun, PartLost, QueryError, RunExists, StoreError
from nfinspect_store.export import export_run
from nfinspect_store.reader import RunFile
from nfinspect_store.schema import BLOCK
from nfinspect_store.verify import verify_run

Request = Callable[..., CaptureRequest]
Loaded = Callable[[str], LoadedModel]

DOCS = Path(__file__).parents[3] / "docs"
FAST = ("values", "gates, int8")
WITH_VALUES = [case for case, (_, options) in CASES.items() if options.get("keep") != "stats"]


@pytest.mark.parametrize("case", [x if x in FAST else pytest.param(x, marks=pytest.mark.slow) for x in WITH_VALUES])
def test_a_run_attached_to_its_parts_is_the_whole(case: str, request_: Request, loaded: Loaded, tmp_path: Path) -> None:
    family, options = CASES[case]
    request = request_(family, **options)
    whole = captured(replace(request, run="whole", precision="float32"), loaded(family))  # as parts keep it
    parts = parts_of(request, loaded(family), 3)
    out = tmp_path / "out" / "m.duckdb"
    done = merge_runs(out, [parts[i] for i in (2, 0, 1)], attach=True)
    assert done.written and done.attached and done.missing == ()
    assert_same(whole, out, attached=True)
    sound(out)
    with RunFile.open(whole) as a, RunFile.open(out) as b:
        assert b.sql("SELECT count(*) FROM blocks").fetchall() == [(0,)]
        assert a.has_values and b.has_values and b.kept == "every value, in the 3 parts that it is attached to"
        rows = "SELECT site, layer, neuron, token_idx, value FROM activations ORDER BY ALL"
        assert a.sql(rows).fetchall() == b.sql(rows).fetchall()
        for site in a.sites:
            for token in {0, a.tokens // 3, a.tokens // 2, a.tokens - 1}:
                np.testing.assert_array_equal(a.token_values(token, site), b.token_values(token, site))
        for layer in a.layers:
            np.testing.assert_array_equal(a.neuron(layer.layer, 1, layer.site), b.neuron(layer.layer, 1, layer.site))
            assert a.examples(layer.site, layer.layer, 2) == b.examples(layer.site, layer.layer, 2)
    if request.precision == "float32":  # merged in the same order, so that their moments are equal, too
        one = merge_runs(tmp_path / "one.duckdb", parts)
        with nf.open_run(one.path) as x, nf.open_run(out) as y:
            for name in ("ngrams", "positions", "delta"):
                assert _answer(x, name) == _answer(y, name), name


def _answer(run: nf.Run, name: str) -> str:
    """An analysis as JSON, or why the run refuses it: of chosen tokens some need more."""
    try:
        return json.dumps(run.analyse(name).to_json())
    except StoreError as error:
        return str(error)


@pytest.fixture(scope="session")
def long_made(loaded: Loaded, model_dir: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,500 tokens of a gated model, and four parts that end inside blocks."""
    store = tmp_path_factory.mktemp("long")
    texts = tuple(store / f"{concept}.txt" for concept in "abc")
    for seed, text in enumerate(texts):
        text.write_text(" ".join(f"w{i}" for i in np.random.default_rng(seed).integers(3, 101, 500)))
    options: dict[str, Any] = {"text": texts, "context": 17, "batch_size": 3, "precision": "int8", "run": "r"}
    request = CaptureRequest(str(model_dir("llama")), store, **options)
    captured(replace(request, run="whole"), loaded("llama"))
    captured(replace(request, run="float", precision="float32"), loaded("llama"))
    parts_of(request, loaded("llama"), 4)
    merge_runs(store / "m.duckdb", parts(store), attach=True)
    return store


def parts(store: Path) -> list[Path]:
    return [store / f"r.part-{part}-of-4.duckdb" for part in (3, 1, 4, 2)]


@pytest.fixture
def store(long_made: Path, tmp_path: Path) -> Path:
    shutil.copytree(long_made, tmp_path / "store")
    return tmp_path / "store"


@pytest.mark.parametrize("tokens", [None, (0, 1), (255, 257), (300, 900), (1499, 1500), (0, 1500)])
def test_blocks_of_parts_are_cut_as_those_of_the_whole(tokens: tuple[int, int] | None, long_made: Path) -> None:
    """None crosses a border of blocks, each value is there once, and nothing else is."""
    with RunFile.open(long_made / "float.duckdb") as whole, RunFile.open(long_made / "m.duckdb") as run:
        inside = {one.first_token % BLOCK for one in run.attached[1:]}
        assert 0 not in inside and run.tokens == 1500
        start, stop = whole_blocks(tokens) if tokens else (0, 1500)
        for layer in run.layers:
            held = np.full((1500, layer.neurons), np.nan, np.float32)
            fired = np.zeros((1500, layer.neurons), np.int8)
            for rows in run.blocks(layer, tokens=tokens, fired=True):
                assert rows.first // BLOCK == (rows.tokens.stop - 1) // BLOCK
                assert np.isnan(held[rows.tokens, rows.neuron]).all()
                held[rows.tokens, rows.neuron] = rows.values.T
                assert rows.fired is not None
                fired[rows.tokens, rows.neuron] = rows.fired.T
            expected = np.full_like(held, np.nan)
            expected[start:stop] = whole.activations(layer.site, layer.layer)[start:stop]
            np.testing.assert_array_equal(held, expected)
            for rows in whole.blocks(layer, tokens=tokens, fired=True):
                assert rows.fired is not None and (fired[rows.tokens, rows.neuron] == rows.fired.T).all()
            some = range(3, 9)
            gates = np.zeros((2, 1500, layer.neurons), np.bool_)
            for gate, of in zip(gates, (whole, run), strict=True):
                for one in of.gates(layer, some):
                    gate[one.first : one.first + one.fired.shape[1], one.neuron] |= one.fired.T
            assert (gates[0] == gates[1]).all() and gates[0].any()


def test_an_attached_run_becomes_one_file(store: Path) -> None:
    """Rounded only then; elsewhere, and in place."""
    for out in (store / "x.duckdb", store / "m.duckdb"):
        done = merge_runs(out, [store / "m.duckdb"])
        assert done.written and not done.attached and done.parts == tuple(f"r.part-{i}-of-4" for i in (1, 2, 3, 4))
        assert_same(store / "whole.duckdb", out)
        sound(out)
    assert not merge_runs(store / "x.duckdb", parts(store), attach=True).written  # it holds them: nothing is lost


def test_any_order_of_parts_attaches_the_same_run(store: Path) -> None:
    out = store / "m.duckdb"
    before = out.read_bytes()
    assert not merge_runs(out, parts(store)[::-1], attach=True).written and out.read_bytes() == before
    other = merge_runs(store / "n.duckdb", [*parts(store)[::-1], parts(store)[0], out], attach=True)
    assert other.written
    with RunFile.open(out) as a, RunFile.open(other.path) as b:
        assert digests(a) | {"run": ()} == digests(b) | {"run": ()} and a.info.run_id == b.info.run_id
        assert [part.told for part in a.attached] == [f"r.part-{i}-of-4.duckdb" for i in (1, 2, 3, 4)]
        whole = merge_runs(store / "w.duckdb", parts(store))
        with RunFile.open(whole.path) as c:
            assert c.info.run_id != a.info.run_id  # its values are rounded: saved results are not of both


def test_parts_are_found_from_where_the_run_is(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = tmp_path / "elsewhere"
    store.rename(moved)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.duckdb").symlink_to(moved / "m.duckdb")
    for path in (Path("elsewhere/m.duckdb"), Path("link.duckdb")):
        with RunFile.open(path) as run, RunFile.open(moved / "float.duckdb") as whole:
            np.testing.assert_array_equal(run.activations("mlp", 1), whole.activations("mlp", 1))


@contextmanager
def lost(path: Path, reason: str) -> Iterator[RunFile]:
    """A run of which a part is lost: its values are refused with the reason, all else is answered."""
    with RunFile.open(path) as run:
        for ask in (
            lambda: run.neuron(0, 1),
            lambda: run.token_values(3),
            lambda: run.activations("mlp", 0),
            lambda: list(run.blocks(run.layers[0])),
            lambda: list(run.gates(run.layers[0], range(2))),
            run.check_parts,
        ):
            with pytest.raises(PartLost) as caught:
                ask()
            assert re.search(reason, str(caught.value)) and "\n" not in str(caught.value)
        with pytest.raises(QueryError, match=reason):
            run.sql("SELECT max(value) FROM activations")
        assert run.sql("SELECT count(*) FROM neurons").fetchall()[0][0] == sum(x.neurons for x in run.layers)
        assert run.histograms("mlp", 0).sum() == run.tokens * run.layers[0].neurons
        assert run.statistics("mlp").n.min() == run.tokens and run.prompt_means("all").values.shape[0] == run.prompts
        yield run
    with Console(path) as console:
        with pytest.raises(QueryError, match=reason):
            console.run("SELECT max(value) FROM activations").page(0, 1)
        assert console.run("SELECT count(*) FROM layers").page(0, 1)
        assert "activations" in console.tables()
    with nf.open_run(path) as opened:
        assert opened.health().total_layers == len(run.layers) and opened.trace("a").neurons is not None
    found = verify_run(path)
    assert not found.ok and any(re.search(reason, problem) for problem in found.problems)


def test_a_part_that_is_missing_is_named_when_values_are_asked_for(store: Path) -> None:
    part, aside = store / "r.part-2-of-4.duckdb", store / "aside"
    part.rename(aside)
    with lost(store / "m.duckdb", f"m keeps its values in parts.*{re.escape(str(part))} is missing") as run:
        aside.rename(part)  # put back, the run goes on
        with RunFile.open(store / "float.duckdb") as whole:
            np.testing.assert_array_equal(run.neuron(0, 1), whole.neuron(0, 1))
        part.rename(aside)
    there = [one for one in parts(store) if one.exists()]
    folder = store / "moved"
    folder.mkdir()
    done = merge_runs(store / "m.duckdb", [*there, aside.rename(folder / "two.duckdb")], attach=True)
    assert done.written
    with RunFile.open(store / "m.duckdb") as run, RunFile.open(store / "float.duckdb") as whole:
        assert run.attached[1].told == "moved/two.duckdb"
        np.testing.assert_array_equal(run.neuron(0, 1), whole.neuron(0, 1))


OTHER_VALUES = """UPDATE blocks b SET "values" = (SELECT c."values" FROM blocks c WHERE c.neuron = 6 AND
c.layer_id = b.layer_id AND c.block = b.block AND c."first" = b."first") WHERE neuron = 5"""


def test_a_part_that_was_changed_is_refused(store: Path) -> None:
    part = store / "r.part-3-of-4.duckdb"
    size = part.stat().st_size
    with duckdb.connect(str(part)) as file:
        file.execute(OTHER_VALUES)
        renew_digests(file)
    os.truncate(part, max(size, part.stat().st_size))
    reason = "r.part-3-of-4.duckdb is not as it was when it was attached: (its contents|it had)"
    with lost(store / "m.duckdb", reason):
        pass
    shutil.copy(store / "r.part-2-of-4.duckdb", part)
    with lost(store / "m.duckdb", "r.part-3-of-4.duckdb is not as it was when it was attached: (it is another|it had)"):
        pass
    part.write_bytes(b"x" * size)
    with lost(store / "m.duckdb", "r.part-3-of-4.duckdb is not a run file, or is damaged"):
        pass


@pytest.mark.parametrize("kind", ["a folder", "a pipe", "a loop of links"])
def test_what_is_no_file_any_more_is_refused(kind: str, store: Path) -> None:
    """Opening a pipe would wait for ever."""
    path = store / "r.part-2-of-4.duckdb"
    path.unlink()
    {"a folder": path.mkdir, "a pipe": lambda: os.mkfifo(path), "a loop of links": lambda: path.symlink_to(path)}[
        kind
    ]()
    with RunFile.open(store / "m.duckdb") as run, pytest.raises(PartLost, match=r"r\.part-2-of-4\.duckdb") as caught:
        run.neuron(0, 1)
    assert "\n" not in str(caught.value)


def test_a_part_that_is_a_link_is_read_where_it_leads(store: Path, tmp_path: Path) -> None:
    path = store / "r.part-2-of-4.duckdb"
    with RunFile.open(store / "m.duckdb") as run:
        before = run.neuron(0, 1)
    path.symlink_to(path.rename(tmp_path / "elsewhere.duckdb"))
    with RunFile.open(store / "m.duckdb") as run:
        np.testing.assert_array_equal(run.neuron(0, 1), before)


def test_verify_notices_a_value_that_changed_in_a_part(store: Path) -> None:
    """Opening compares what the part says of itself; its values are read by verify, and by whoever makes one file."""
    part = store / "r.part-3-of-4.duckdb"
    with duckdb.connect(str(part)) as file:
        file.execute(OTHER_VALUES)
    with RunFile.open(store / "m.duckdb") as run:
        settings = dict(run.info.settings)
    settings["merged"]["attached"][2]["bytes"] = part.stat().st_size
    rewritten(store / "m.duckdb", settings)
    found = verify_run(store / "m.duckdb")
    assert any(p.startswith("parts: r.part-3-of-4.duckdb: blocks: ") for p in found.problems), found.problems
    with pytest.raises(NotARun, match=r"r.part-3-of-4.duckdb is damaged: blocks: the values are not those"):
        merge_runs(store / "x.duckdb", [store / "m.duckdb"])


def rewritten(path: Path, settings: dict[str, Any]) -> None:
    with duckdb.connect(str(path)) as file:
        file.execute("UPDATE run SET settings = ?", [json.dumps(settings)])
        write_digests(file, {"run": digest_table(file, "run")})


# A stranger's file


@pytest.mark.parametrize(
    "change",
    [
        {"path": "/etc/passwd"},
        {"path": ""},
        {"path": "a\0b"},
        {"path": 5},
        {"name": "memory"},
        {"name": 'part_1_of_00000000"; ATTACH'},
        {"tokens": -1},
        {"tokens": 10**12},
        {"tokens": True},
        {"bytes": "9"},
        {"run_id": None},
        {"digest": ["x"]},
    ],
)
def test_what_no_merge_writes_is_refused_when_the_run_is_opened(change: dict[str, Any], store: Path) -> None:
    with RunFile.open(store / "m.duckdb") as run:
        settings = dict(run.info.settings)
    settings["merged"]["attached"][1] |= change
    rewritten(store / "m.duckdb", settings)
    with pytest.raises(NotARun, match="does not say which parts hold its values|view activations is not defined"):
        RunFile.open(store / "m.duckdb").close()


@pytest.mark.parametrize("attached", [[], {}, None, "x", [[]], [None] * 2])
def test_no_parts_are_no_parts(attached: object) -> None:
    with pytest.raises(NotARun):
        attached_parts({"merged": {"attached": attached}})


def test_a_view_that_reads_something_else_is_refused(store: Path) -> None:
    with RunFile.open(store / "m.duckdb") as run:
        parts = run.attached
    with duckdb.connect() as file:
        file.execute(f"ATTACH '{store / 'm.duckdb'}' AS run_file")
        file.execute("USE run_file")
        define_view(file, [replace(parts[0], first_token=7), *parts[1:]])
    with pytest.raises(NotARun, match="its view activations is not defined as nfinspect does"):
        RunFile.open(store / "m.duckdb").close()


def test_a_run_of_many_parts(tmp_path: Path) -> None:
    """The view of the most parts that there can be is made, and read."""
    one = {"run_id": "r", "tokens": 10, "bytes": 1, "digest": "d"}
    told = [{**one, "name": f"part_{i}_of_00000000", "path": f"{i}.duckdb"} for i in range(MOST_ATTACHED)]
    parts = attached_parts({"merged": {"attached": told}})
    with create(tmp_path / "v.duckdb") as connection:
        connection.execute("CREATE VIEW activations AS SELECT 1 AS a")
        define_view(connection, parts)
        for part in parts:
            connection.execute(f"ATTACH ':memory:' AS {part.name}")
            connection.execute(
                f"CREATE TABLE {part.name}.activations AS SELECT 'mlp' AS site, 0 AS layer, 0 AS neuron, "
                "range AS token_idx, 1::FLOAT AS value FROM range(10)"
            )
        count = 10 * MOST_ATTACHED
        found = connection.execute("SELECT count(*), min(token_idx), max(token_idx) FROM activations").fetchall()
        assert found == [(count, 0, count - 1)]
    with pytest.raises(NotARun):
        attached_parts({"merged": {"attached": [*told, told[0] | {"name": "part_9999_of_00000000"}]}})
    assert activations_view(parts[:1]).count("SELECT") == 1


# Everything else


def test_plain_duckdb_reads_an_attached_run_as_the_documentation_says(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(store)
    (statement,) = re.findall(r"```sql\n(SELECT 'ATTACH .*?)\n```", (DOCS / "sql.md").read_text(), re.DOTALL)
    query = "SELECT token_idx, value FROM activations WHERE layer = 1 AND neuron = 5 ORDER BY token_idx"
    with duckdb.connect("m.duckdb", read_only=True) as file:
        assert file.execute("SELECT count(*) FROM tokens").fetchall() == [(1500,)]
        with pytest.raises(duckdb.Error, match="part_1_of_"):  # not silently empty
            file.execute(query)
        for (attach,) in file.execute(statement).fetchall():
            file.execute(attach)
        found = file.execute(query).fetchall()
    with duckdb.connect("float.duckdb", read_only=True) as whole:
        assert found == whole.execute(query).fetchall() and len(found) == 1500


def test_sql_reads_an_attached_run_beside_others(store: Path) -> None:
    query = """SELECT count(*) FROM activations a JOIN "float".activations b USING (site, layer, neuron, token_idx)
               WHERE a.value = b.value AND a.layer = 1"""
    files = {name: store / f"{name}.duckdb" for name in ("m", "float")}
    with Console(files) as console, RunFile.open(files["m"]) as run:
        assert console.run(query).page(0, 1) == [(1500 * run.layers[1].neurons,)]


def test_an_export_holds_the_values_of_the_parts(store: Path, tmp_path: Path) -> None:
    said: list[str] = []
    export_run(store / "m.duckdb", tmp_path / "a", formats=("safetensors", "parquet"), tell=said.append)
    export_run(store / "float.duckdb", tmp_path / "b", formats=("safetensors", "parquet"))
    assert "m keeps its values in 4 parts: they are read there" in said
    for name in ("activations-mlp-L1.safetensors", "activations-mlp-L0.parquet"):
        mine, theirs = ((tmp_path / folder / name).read_bytes() for folder in "ab")
        assert mine[-1000:] == theirs[-1000:] if name.endswith("safetensors") else len(mine) > 0


def test_a_part_that_holds_values_is_not_deleted(store: Path) -> None:
    entry = next(one for one in list_runs(store) if one.name == "m")
    assert entry.parts == tuple(f"r.part-{i}-of-4.duckdb" for i in (1, 2, 3, 4))
    for force in (False, True):
        with pytest.raises(StoreError, match="m keeps its values in r.part-2-of-4: delete m first, or make one file"):
            delete_run(store / "r.part-2-of-4.duckdb", force=force)
    delete_run(store / "m.duckdb")
    assert all(path.exists() for path in parts(store))
    delete_run(store / "r.part-2-of-4.duckdb")


def test_some_of_the_parts_are_attached_if_that_is_asked_for(store: Path) -> None:
    out = store / "some.duckdb"
    some = [path for path in parts(store) if "part-2" not in path.name]
    with pytest.raises(CannotMerge, match="part 2 of 4"):
        merge_runs(out, some, attach=True)
    assert merge_runs(out, some, attach=True, partial=True).missing
    sound(out)
    with pytest.raises(RunExists):
        merge_runs(out, parts(store)[3:], attach=True, partial=True)
    assert merge_runs(out, parts(store), attach=True).missing == ()
    assert_same(store / "float.duckdb", out, attached=True)


def test_statistics_are_one_file(request_: Request, loaded: Loaded, tmp_path: Path) -> None:
    said: list[str] = []
    of_statistics = parts_of(request_(keep="stats"), loaded("gpt2"), 2)
    done = merge_runs(tmp_path / "m.duckdb", of_statistics, attach=True, note=said.append)
    assert done.written and not done.attached
    assert said == ["the parts hold statistics only: there are no values to leave in them"]
    sound(done.path)
