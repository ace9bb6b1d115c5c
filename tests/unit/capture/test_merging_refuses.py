"""What a merge must not take: OUT of another model, parts that were changed, files that no capture writes."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import torch

import nfinspect as nf
from nfinspect.capturing.classification import classify_tables
from nfinspect.capturing.merging import merge_runs
from nfinspect.capturing.recorder import Recorder
from nfinspect.capturing.request import CaptureRequest
from nfinspect.capturing.session import load
from nfinspect.models import LoadedModel
from nfinspect_store.digests import renew_digests
from nfinspect_store.errors import CannotMerge, NotARun, RunExists, StorageFull
from nfinspect_store.examples import KEPT, drawn
from nfinspect_store.part_settings import part_notes
from nfinspect_store.parts import MergedRun
from nfinspect_store.reader import RunFile
from nfinspect_store.verify import verify_run

TEXTS = [f"w{i} w{i + 3} w{i + 9} w{i + 4}" for i in range(3, 12)]


@pytest.fixture(scope="module")
def model(model_dir: Callable[[str], Path]) -> LoadedModel:
    return load(CaptureRequest(str(model_dir("gpt2")), Path("nowhere")))


def parts_of(model: Any, tokenizer: Any, store: Path, **options: Any) -> list[Path]:
    for part in (1, 2, 3):
        nf.capture(model, tokenizer, TEXTS, store=store, run="r", shard=f"{part}/3", batch_size=1, **options).close()
    return [store / f"r.part-{part}-of-3.duckdb" for part in (1, 2, 3)]


@pytest.fixture(scope="module")
def made(model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Parts of three prompts each: with values, and of statistics only."""
    return {
        keep: parts_of(model.model, model.tokenizer, tmp_path_factory.mktemp(keep), keep=keep)
        for keep in ("all", "stats")
    }


@pytest.fixture(scope="module")
def merged(made: dict[str, list[Path]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parts with values as a whole. Not to be changed."""
    return merge_runs(tmp_path_factory.mktemp("merged") / "m.duckdb", made["all"]).path


@pytest.fixture
def parts(made: dict[str, list[Path]], tmp_path: Path) -> Callable[[str], list[Path]]:
    def copied(keep: str) -> list[Path]:
        shutil.copytree(made[keep][0].parent, tmp_path / keep)
        return [tmp_path / keep / path.name for path in made[keep]]

    return copied


def run_sql(path: Path, *statements: str, renew: bool = False) -> None:
    with duckdb.connect(str(path)) as file:
        for statement in statements:
            file.execute(statement)
        if renew:
            renew_digests(file)


# OUT


def test_out_of_another_model_stays(
    parts: Callable[[str], list[Path]], merged: Path, model: LoadedModel, tmp_path: Path
) -> None:
    other = copy.deepcopy(model.model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.3)
    theirs = parts_of(other, model.tokenizer, tmp_path / "other")
    mine = parts("all")
    whole, some = tmp_path / "whole.duckdb", tmp_path / "some.duckdb"
    shutil.copy2(merged, whole)
    merge_runs(some, mine[:1], partial=True)
    for out in (whole, some):
        before = out.read_bytes()
        with pytest.raises(RunExists, match=f"{out.stem} already exists.*the weights of the models are different"):
            merge_runs(out, theirs)
        assert out.read_bytes() == before
    with pytest.raises(CannotMerge, match=r"found whole, which was merged .*: the weights of the models are different"):
        merge_runs(tmp_path / "new.duckdb", [whole, *theirs])
    assert not (tmp_path / "new.duckdb").exists()
    assert merge_runs(some, mine).written and not merge_runs(whole, mine).written


@pytest.mark.parametrize(("column", "told"), [("device", "cuda:0"), ("torch_version", "1.0"), ("dtype", "bfloat16")])
def test_out_of_another_machine_stays(
    column: str, told: str, parts: Callable[[str], list[Path]], tmp_path: Path
) -> None:
    mine, out = parts("all"), tmp_path / "m.duckdb"
    merge_runs(out, mine[:1], partial=True)
    run_sql(out, f"UPDATE run SET {column} = '{told}'")
    with pytest.raises(RunExists, match=f"{column.removesuffix('_version')} .* and {told.partition(':')[0]}"):
        merge_runs(out, mine)


@pytest.mark.parametrize("missing", [None, [[1]], [["a", "b"]], [[5, 2]], [[0, 99]], [[0, 1], [0, 1]], [[0, 1]], 7])
def test_out_that_does_not_say_what_it_lacks_is_refused(
    missing: object, parts: Callable[[str], list[Path]], merged: Path, tmp_path: Path
) -> None:
    mine, out = parts("all"), tmp_path / "m.duckdb"
    shutil.copy2(merged, out)
    with RunFile.open(out) as run:
        settings = {**run.info.settings, "merged": {**run.info.settings["merged"], "missing": missing}}
    if missing is None:
        del settings["merged"]["missing"]
    with duckdb.connect(str(out)) as file:
        file.execute("UPDATE run SET settings = ?", [json.dumps(settings)])
    with pytest.raises(NotARun, match=r"m\.duckdb is damaged: it was merged from parts, and does not say which") as e:
        merge_runs(out, mine)
    assert "\n" not in str(e.value)


def test_more_of_a_part_makes_another_run(model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part keeps its run_id when it is resumed; results beside OUT go by OUT's."""

    def capture(part: str, **options: Any) -> None:
        given = {"store": tmp_path, "run": "r", "batch_size": 1, **options}
        nf.capture(model.model, model.tokenizer, TEXTS, shard=part, **given).close()

    def stops(self: Recorder, *given: Any) -> None:
        add(self, *given)
        self.commit({"status": "capturing"}, final=False)
        if self.prompts == 2:
            raise KeyboardInterrupt

    add = Recorder.add
    capture("1/2")
    monkeypatch.setattr(Recorder, "add", stops)
    with pytest.raises(BaseException):  # noqa: B017, PT011 - an interrupt, or what the capture makes of it
        capture("2/2")
    monkeypatch.undo()
    paths, out = [tmp_path / f"r.part-{part}-of-2.duckdb" for part in (1, 2)], tmp_path / "m.duckdb"
    merge_runs(out, paths, partial=True)
    cut, part = run_id(out), run_id(paths[1])
    capture("2/2", resume=True)
    assert run_id(paths[1]) == part
    merge_runs(out, paths)
    assert run_id(out) != cut
    merge_runs(tmp_path / "again.duckdb", paths)
    assert run_id(tmp_path / "again.duckdb") == run_id(out)


def run_id(path: Path) -> str:
    with RunFile.open(path) as run:
        return run.info.run_id


# Parts


def refused(paths: list[Path], out: Path, damaged: Path) -> str:
    with pytest.raises(NotARun) as caught:
        merge_runs(out, paths)
    message = str(caught.value)
    assert "\n" not in message and not out.exists() and not list(out.parent.glob(f"*{out.stem}*"))
    assert damaged.name in message or "it is damaged" in message
    return message


OTHER_MEANS = """UPDATE prompt_means p SET "values" = (SELECT q."values" FROM prompt_means q WHERE q.layer_id = 1
AND octet_length(q."values") = octet_length(p."values") AND q."values" <> p."values" LIMIT 1) WHERE prompt_idx = 0"""
OTHER_VALUES = """UPDATE blocks b SET "values" = (SELECT c."values" FROM blocks c WHERE c.neuron = 6 AND
c.layer_id = b.layer_id AND c.block = b.block AND c."first" = b."first") WHERE neuron = 5"""


@pytest.mark.parametrize(
    ("keep", "statement", "table"),
    [
        ("all", "UPDATE tokens SET token = 'other' WHERE token_idx = 1", "tokens"),
        ("all", OTHER_VALUES, "blocks"),
        ("stats", OTHER_MEANS, "prompt_means"),
        ("stats", "UPDATE statistics SET mean = mean * 1.5", "statistics"),
        ("stats", 'UPDATE examples SET "values" = list_transform("values", lambda x: 1e6::FLOAT)', "examples"),
    ],
)
def test_a_part_that_was_changed_is_named(
    keep: str, statement: str, table: str, parts: Callable[[str], list[Path]], tmp_path: Path
) -> None:
    paths = parts(keep)
    run_sql(paths[1], statement)
    found = verify_run(paths[1], lambda tables, exact: classify_tables(tables, exact=exact))
    assert not found.ok
    assert f"is damaged: {table}: " in refused(paths, tmp_path / "m.duckdb", paths[1])


def test_a_value_that_is_there_twice_does_not_stand_for_another(
    parts: Callable[[str], list[Path]], tmp_path: Path
) -> None:
    """As many values as expected, with digests that agree: nothing else notices."""
    paths = parts("all")
    run_sql(
        paths[1],
        "INSERT INTO blocks FROM blocks WHERE neuron = 0 AND layer_id = 0",
        "DELETE FROM blocks WHERE neuron = 1 AND layer_id = 0",
        renew=True,
    )
    message = refused(paths, tmp_path / "m.duckdb", paths[1])
    assert "mlp layer 0 holds 12 values on tokens 0-11 twice, and as many not at all" in message


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DELETE FROM statistics WHERE neuron = 3", "the statistics of mlp layer 0 are not of"),
        ("DELETE FROM concept_statistics WHERE neuron = 3", "the statistics of mlp layer 0 are not of"),
        ("DELETE FROM examples", "the examples of mlp layer 0 are not of"),
        ("UPDATE examples SET token_idx = list_transform(token_idx, lambda x: 9000)", "the examples of mlp layer 0"),
        ("UPDATE examples SET token_idx = list_append(token_idx, 0)", "the examples of mlp layer 0"),
        ("UPDATE run SET device = NULL", "its table run lacks the device"),
        ("UPDATE run SET seed = NULL", "its table run lacks the device, the seed"),
        (
            """UPDATE run SET settings = json_merge_patch(settings, '{"shard": {"precision": ["x"]}}')""",
            "the precision",
        ),
        ("""UPDATE run SET settings = json_merge_patch(settings, '{"shard": {"prompts": 1}}')""", "at most 1 prompts"),
    ],
)
def test_parts_that_no_capture_writes(
    statement: str, said: str, parts: Callable[[str], list[Path]], tmp_path: Path
) -> None:
    """Their digests agree: whoever makes such a file can make those."""
    paths = parts("stats")
    run_sql(paths[1], statement, renew=True)
    assert said in refused(paths, tmp_path / "m.duckdb", paths[1])


def test_random_examples_of_some_parts_are_drawn_by_the_number_in_the_whole(
    parts: Callable[[str], list[Path]], tmp_path: Path
) -> None:
    paths, out = parts("stats"), tmp_path / "m.duckdb"
    merge_runs(out, paths[1:], partial=True)
    with RunFile.open(out) as run:
        lacking = MergedRun.of_run(run)
        assert lacking is not None and lacking.missing == ((0, 3),) and run.tokens == 24 > KEPT
        of_prompt, place = np.divmod(np.arange(24), 4)  # every prompt has four tokens
        numbers = drawn(run.info.seed, ((of_prompt + 3) << 32) + place)
        expected = np.argsort(numbers)[:KEPT]
        assert (expected != np.argsort(drawn(run.info.seed, (of_prompt << 32) + place))[:KEPT]).any()
        for layer in run.layers:
            found, _ = run.layer_examples(layer, "random", KEPT)
            assert (found == expected).all()


# Room, interruptions, and two at once


def test_a_merge_without_room_begins_nothing(
    parts: Callable[[str], list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, out = parts("all"), tmp_path / "out" / "m.duckdb"
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=1_000_000))
    for attach, instead in (
        (False, r"free some space, or leave the values in the parts \(--attach\)"),
        (True, "space$"),
    ):
        with pytest.raises(StorageFull, match=f"of free space in {tmp_path} for m, found 1.0 MB: .*{instead}"):
            merge_runs(out, paths, attach=attach)
    assert not out.parent.exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=10_000_000))
    assert merge_runs(out, paths).written


def test_a_merge_that_is_interrupted_leaves_what_was_there(parts: Callable[[str], list[Path]], tmp_path: Path) -> None:
    paths, out = parts("all"), tmp_path / "out" / "m.duckdb"

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge_runs(out, paths, told=stop)
    assert list(out.parent.iterdir()) == []
    merge_runs(out, paths[:1], partial=True)
    before = out.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        merge_runs(out, paths, told=stop)
    assert [one.name for one in out.parent.iterdir()] == ["m.duckdb"] and out.read_bytes() == before


def test_two_merges_to_one_run_at_once(parts: Callable[[str], list[Path]], tmp_path: Path) -> None:
    """Each writes a whole run, and the last stays: here the second one ends while the first is at work."""
    paths, out = parts("all"), tmp_path / "out" / "m.duckdb"
    inner: list[bool] = []

    def meanwhile(done: int, total: int) -> None:
        if not inner:
            inner.append(merge_runs(out, paths[::-1]).written)

    assert merge_runs(out, paths, told=meanwhile).written and inner == [True]
    assert [one.name for one in out.parent.iterdir()] == ["m.duckdb"]
    found = verify_run(out, lambda tables, exact: classify_tables(tables, exact=exact))
    assert found.ok, found.problems
    assert not merge_runs(out, paths).written


def test_another_run_that_appears_during_a_merge_stays(parts: Callable[[str], list[Path]], tmp_path: Path) -> None:
    """As of a capture of that name which began after the merge."""
    paths, out = parts("all"), tmp_path / "out" / "m.duckdb"

    def meanwhile(done: int, total: int) -> None:
        shutil.copy(paths[0], out)

    with pytest.raises(RunExists, match="a run named m already exists, and was not merged from these parts"):
        merge_runs(out, paths, told=meanwhile)
    assert [one.name for one in out.parent.iterdir()] == ["m.duckdb"]
    assert out.read_bytes() == paths[0].read_bytes()


# Notes


def test_notes_of_parts_are_short_whatever_a_file_says() -> None:
    (note,) = part_notes({"merged": {"missing": [[i, i + 1] for i in range(0, 10**5, 2)], "all_prompts": 10**5}})
    assert "prompts 0-0, 2-2, 4-4 and 49997 ranges more of 100000 are missing" in note
    (note,) = part_notes({"merged": {"missing": [[10**900, 1], ["x" * 900]], "all_prompts": "y" * 900}})
    assert len(note) < 250 and "that it does not name" in note
    sound = {"part": 1, "of": 2, "first_prompt": 0, "prompts": 3, "all_prompts": 6}
    assert "part 1 of 2 of a capture, prompts 0-2 of its 6 prompts" in part_notes({"shard": sound})[0]
    for name in sound:
        for odd in ("z" * 900, None, 10**900, True, -1, 1.5, [1] * 900):
            (note,) = part_notes({"shard": {**sound, name: odd}})
            assert note == "this is a part of a capture that does not say which: every figure is of this part"
