"""Parts of a capture, merged in any order, are the run that one process makes; what is no whole is refused by name."""

import json
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import nfinspect_samples
import numpy as np
import pytest
from experts_by_hand import model_of
from whole_and_parts import CASES, MakeDir, assert_same, captured, digests, parts_of, sound, whole_and_parts
from words import word_tokenizer

import nfinspect as nf
from nfinspect.capturing.errors import CannotResume
from nfinspect.capturing.estimation import estimate
from nfinspect.capturing.merging import merge_runs
from nfinspect.capturing.plan import read_files
from nfinspect.capturing.request import CaptureRequest, PromptFile
from nfinspect.capturing.session import Capture, Listener, capture_run, load
from nfinspect.capturing.shard import Shard, batches_of, parse_shard, part_name
from nfinspect.capturing.where import parse_where
from nfinspect.models import LoadedModel
from nfinspect_store.digests import digest_table, write_digests
from nfinspect_store.errors import CannotMerge, NotARun, RequestError, RunExists
from nfinspect_store.parts import Part, differences
from nfinspect_store.reader import RunFile
from nfinspect_store.schema import BLOCK

FAST = ("values", "sampled statistics", "gates, int8", "where")


@pytest.mark.parametrize("case", [x if x in FAST else pytest.param(x, marks=pytest.mark.slow) for x in CASES])
def test_merged_parts_are_the_whole(
    case: str,
    request_: Callable[..., CaptureRequest],
    loaded: Callable[[str], LoadedModel],
    tmp_path: Path,
) -> None:
    whole, parts = whole_and_parts(case, 3, request_, loaded)
    merged = merge_runs(tmp_path / "merged.duckdb", [parts[i] for i in (2, 0, 1)])
    assert merged.missing == () and merged.written and merged.prompts == 23
    assert_same(whole, merged.path)
    sound(merged.path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "count"),
    [
        ("values", 1),
        ("values", 2),
        ("sampled statistics", 5),
        ("gates, int8", 30),
        ("mamba statistics", 5),
        ("where few", 30),
    ],
)
def test_any_number_of_parts_in_any_order(
    case: str,
    count: int,
    request_: Callable[..., CaptureRequest],
    loaded: Callable[[str], LoadedModel],
    tmp_path: Path,
) -> None:
    whole, parts = whole_and_parts(case, count, request_, loaded)
    random.Random(count).shuffle(parts)
    merged = merge_runs(tmp_path / "merged.duckdb", parts)
    assert_same(whole, merged.path)
    for path in [merged.path, *parts[:4]]:  # of 30 parts, 22 have no batch
        sound(path)


@pytest.mark.parametrize("precision", [pytest.param("float32", marks=pytest.mark.slow), "int8"])
def test_blocks_are_cut_as_in_the_whole(
    precision: Any, request_: Callable[..., CaptureRequest], loaded: Callable[[str], LoadedModel], tmp_path: Path
) -> None:
    """Parts that end inside blocks: those of the merged run are whole, and an int8 block has the whole's scale."""
    text = tmp_path / "words.txt"
    text.write_text(" ".join(f"w{i}" for i in np.random.default_rng(5).integers(3, 101, 1500)))
    request = request_(prompts=(), text=(text,), context=17, precision=precision)
    whole = captured(replace(request, run="whole"), loaded("gpt2"))
    merged = merge_runs(tmp_path / "merged.duckdb", parts_of(request, loaded("gpt2"), 4)).path
    query = """SELECT layer_id, neuron, block, "first", "last", "values", scale FROM blocks ORDER BY ALL"""
    with RunFile.open(whole) as a, RunFile.open(merged) as b:
        assert b.sql(query).fetchall() == a.sql(query).fetchall()
        assert {row[0] for row in b.sql(f'SELECT "first" FROM blocks WHERE "last" = {BLOCK - 1}').fetchall()} == {0}
    sound(merged)


@pytest.mark.slow
def test_the_sample_model_in_parts(tmp_path: Path) -> None:
    text = tmp_path / "tulips.txt"
    text.write_text("".join(f"Tulips number {i} are red, and number {i + 1} is not.\n" for i in range(12)))
    request = CaptureRequest(
        str(nfinspect_samples.path("gpt2-relu")),
        tmp_path,
        prompts=(PromptFile(text, "a"), PromptFile(text, "b")),
        batch_size=4,
        run="r",
    )
    model = load(request)
    whole = captured(replace(request, run="whole"), model)
    merged = merge_runs(tmp_path / "merged.duckdb", parts_of(request, model, 3)).path
    assert_same(whole, merged)
    sound(merged)


# What is not a whole


@pytest.fixture(scope="session")
def three_made(
    model_dir: MakeDir,
    loaded: Callable[[str], LoadedModel],
    prompts: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[Path]:
    store = tmp_path_factory.mktemp("parts")
    request = CaptureRequest(str(model_dir("gpt2")), store, prompts=(PromptFile(prompts),), run="r", batch_size=3)
    return parts_of(request, loaded("gpt2"), 3)


@pytest.fixture
def three(three_made: list[Path], tmp_path: Path) -> list[Path]:
    """The parts of `request_()`, in its store: prompts 0-5, 6-14 and 15-22."""
    shutil.copytree(three_made[0].parent, tmp_path / "store")
    return [tmp_path / "store" / path.name for path in three_made]


def refused(paths: list[Path], out: Path, **options: Any) -> str:
    with pytest.raises(CannotMerge) as caught:
        merge_runs(out, paths, **options)
    assert not out.exists()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_missing_part_is_named(three: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "m.duckdb"
    assert "missing are prompts 6-14 (part 2 of 3)" in refused([three[2], three[0]], out)
    assert "missing are prompts 0-5 (part 1 of 3); prompts 15-22 (part 3 of 3)" in refused([three[1]], out)
    assert "missing are prompts 6-22 (parts 2-3 of 3)" in refused([three[0]], out)


def test_parts_given_twice_or_merged_before_are_harmless(three: list[Path], tmp_path: Path) -> None:
    out, copy, said = tmp_path / "m.duckdb", tmp_path / "copy.duckdb", list[str]()
    copy.write_bytes(three[1].read_bytes())
    first = merge_runs(out, [*three, three[0], copy], note=said.append)
    assert len(first.left_out) == 1 and said == [f"{first.left_out[0]} is left out: another part has its prompts"]
    state = (out.stat().st_ino, out.stat().st_mtime_ns)
    again = merge_runs(out, three[::-1], note=said.append)
    assert not again.written and (again.prompts, again.tokens) == (first.prompts, first.tokens) == (23, 328)
    with_itself = merge_runs(out, [*three, out], note=said.append)
    assert not with_itself.written and "m is left out: it was merged from such parts before" in said
    assert (out.stat().st_ino, out.stat().st_mtime_ns) == state
    elsewhere = merge_runs(tmp_path / "n.duckdb", [*three, out])
    with RunFile.open(out) as a, RunFile.open(elsewhere.path) as b:
        assert digests(a) | {"run": ()} == digests(b) | {"run": ()}
        assert a.info.run_id == b.info.run_id


def test_some_of_the_parts_are_merged_if_that_is_asked_for(
    three: list[Path], request_: Callable[..., CaptureRequest], loaded: Callable[[str], LoadedModel], tmp_path: Path
) -> None:
    out = tmp_path / "m.duckdb"
    some = merge_runs(out, [three[2], three[0]], partial=True)
    assert some.missing == ((6, 15),) and some.prompts == 14
    sound(out)
    with RunFile.open(out) as run, RunFile.open(three[2]) as last:
        (note,) = run.where_notes
        assert "prompts 6-14 of 23 are missing" in note
        assert run.prompt(6).text == last.prompt(0).text
        np.testing.assert_array_equal(run.activations("mlp", 1)[-last.tokens :], last.activations("mlp", 1))
    with pytest.raises(RunExists, match="m holds 6 prompts of this capture that these parts do not"):
        merge_runs(out, three[1:], partial=True)
    merge_runs(out, three)
    assert_same(captured(request_(run="whole"), loaded("gpt2")), out)


@pytest.mark.slow
def test_a_part_that_was_cut_short_is_named(
    request_: Callable[..., CaptureRequest], loaded: Callable[[str], LoadedModel], tmp_path: Path
) -> None:
    request, model = request_(), loaded("gpt2")
    whole = captured(replace(request, run="whole"), model)
    first = captured(replace(request, shard=Shard(1, 2)), model)
    second = replace(request, shard=Shard(2, 2))
    with pytest.raises(Exception, match="stopped .*limit-bytes"):
        captured(replace(second, limit_bytes=stops_after_a_batch(second, model)), model)
    cut = request.store / f"{part_name('r', Shard(2, 2))}.duckdb"
    with RunFile.open(cut) as run:
        assert run.info.status == "interrupted" and 0 < run.prompts < 11
        held = 12 + run.prompts
    out = tmp_path / "m.duckdb"
    message = refused([first, cut], out)
    assert f"prompts {held}-22 of r.part-2-of-2, which is not complete (repeat its command with --resume)" in message
    assert merge_runs(tmp_path / "some.duckdb", [cut, first], partial=True).missing == ((held, 23),)
    captured(replace(second, resume=True), model)
    assert_same(whole, merge_runs(out, [first, cut]).path)


def stops_after_a_batch(request: CaptureRequest, model: LoadedModel) -> int:
    """A limit that the second batch of the capture exceeds."""
    capture = Capture(replace(request, run="sizes"), model, Listener(), read_files(request))
    with capture.recording() as recorder:
        return capture._bytes_with(capture.batches[0], recorder) + 1


def changed(path: Path, to: Path, **settings: Any) -> Path:
    """A copy of a part whose settings, or columns of `run`, are others, and their digest with them."""
    to.write_bytes(path.read_bytes())
    with duckdb.connect(str(to)) as file:
        for name, value in settings.items():
            columns = {row[0] for row in file.execute("DESCRIBE run").fetchall()}
            if name in columns:
                file.execute(f"UPDATE run SET {name} = ?", [value])
            else:
                told = json.dumps({name: value})
                file.execute("UPDATE run SET settings = json_merge_patch(settings, ?::JSON)", [told])
        write_digests(file, {"run": digest_table(file, "run")})
    return to


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"dtype": "bfloat16"}, "dtype float32 and bfloat16"),
        ({"device": "cuda:1"}, "device cpu and cuda"),
        ({"nfinspect_version": "0.0.9"}, "nfinspect 0.1.0 and 0.0.9"),
        ({"torch_version": "1.0"}, "torch .* and 1.0"),
        ({"generate": 3}, "generate 0 and 3"),
        ({"prompts_sha256": "ab" * 32}, "prompts [0-9a-f]{12}… and abababababab…"),
        ({"where": "tokens=1-"}, "where None and tokens=1-"),
        ({"shard": {"plan": "0"}}, "the plan of the capture"),
        ({"shard": {"all_prompts": 99}}, "number of prompts 23 and 99"),
    ],
)
def test_parts_of_different_captures_are_refused(
    setting: dict[str, Any], message: str, three: list[Path], tmp_path: Path
) -> None:
    other = changed(three[1], tmp_path / "other.duckdb", **setting)
    said = refused([three[0], other, three[2]], tmp_path / "m.duckdb")
    assert said.startswith(f"{three[0].stem} and other are no parts of one capture: they differ in ")
    assert re.search(message, said), said


def test_another_seed_is_named_once(three: list[Path]) -> None:
    """It is a setting and a column."""
    with RunFile.open(three[1]) as run:
        part = Part.of_run(run)
    other = replace(part, info=replace(part.info, seed=5, settings={**part.info.settings, "seed": 5}))
    assert differences(part, other) == "seed 0 and 5"


def test_parts_of_other_weights_are_refused(three: list[Path], tmp_path: Path) -> None:
    with RunFile.open(three[1]) as run:
        told = dict(run.info.settings["fingerprint"])
    rounded = {"logits": [x * (1 + 1e-9) for x in told["logits"]]}
    slightly = changed(three[1], tmp_path / "slightly.duckdb", fingerprint=rounded)
    merge_runs(tmp_path / "rounded.duckdb", [three[0], slightly, three[2]])
    other = changed(three[1], tmp_path / "other.duckdb", fingerprint={"logits": [-x for x in told["logits"]]})
    said = refused([three[0], other, three[2]], tmp_path / "m.duckdb")
    assert said == f"{three[0].stem} and other were captured from models with different weights"


def test_prompts_that_were_changed_are_noticed(three: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other.duckdb"
    other.write_bytes(three[1].read_bytes())
    with duckdb.connect(str(other)) as file:
        file.execute("UPDATE prompts SET text = text || ' ' WHERE prompt_idx = 2")
    with pytest.raises(NotARun, match="other.duckdb is damaged: prompts: its rows are not those that were written"):
        merge_runs(tmp_path / "m.duckdb", [three[0], other, three[2]])
    with duckdb.connect(str(other)) as file:
        write_digests(file, {"prompts": digest_table(file, "prompts")})
    assert "are not those that were planned" in refused([three[0], other, three[2]], tmp_path / "m.duckdb")


@pytest.mark.slow
def test_parts_of_two_divisions_must_not_overlap(
    request_: Callable[..., CaptureRequest], loaded: Callable[[str], LoadedModel], tmp_path: Path
) -> None:
    halves, thirds = (parts_of(request_(run=f"p{n}"), loaded("gpt2"), n) for n in (2, 3))
    said = refused([halves[0], thirds[1], thirds[2]], tmp_path / "m.duckdb")
    assert "p2.part-1-of-2 and p3.part-2-of-3 overlap in prompts" in said
    # Where the borders are the same, N does not matter.
    sixths = parts_of(request_(run="p6"), loaded("gpt2"), 6)
    with RunFile.open(halves[0]) as run:
        end = run.prompts
    later = [path for path in sixths if starts_at(path) >= end]
    if any(starts_at(path) == end for path in sixths):
        merge_runs(tmp_path / "mixed.duckdb", [*later, halves[0]])


def starts_at(path: Path) -> int:
    with RunFile.open(path) as run:
        return int(run.info.settings["shard"]["first_prompt"])


def test_other_runs_are_refused(
    three: list[Path], request_: Callable[..., CaptureRequest], loaded: Callable[[str], LoadedModel], tmp_path: Path
) -> None:
    plain = captured(request_(run="plain"), loaded("gpt2"))
    assert "expected a part of a capture, found plain, which was made without --shard" in refused(
        [*three, plain], tmp_path / "m.duckdb"
    )
    with pytest.raises(RunExists, match="plain already exists, and was not merged from these parts"):
        merge_runs(plain, three)
    with pytest.raises(NotARun):
        (tmp_path / "odd.duckdb").write_bytes(b"no run")
        merge_runs(tmp_path / "m.duckdb", [*three, tmp_path / "odd.duckdb"])
    out = merge_runs(tmp_path / "m.duckdb", three).path
    assert "found only m, merged before" in refused([out], tmp_path / "n.duckdb")
    others = parts_of(request_(run="other", seed=5, temperature=1.0, generate=1), loaded("gpt2"), 2)
    assert "found m, which was merged from those of another" in refused([*others, out], tmp_path / "n.duckdb")


# A part by itself


def test_shards_are_read() -> None:
    assert parse_shard("1/4") == Shard(1, 4) and parse_shard(" 4 / 4 ") == Shard(4, 4)
    for wrong in ("0/4", "5/4", "1/0", "1", "a/b", "1/4/2", "-1/4", "1/10001"):
        with pytest.raises(RequestError, match="expected --shard I/N such as 1/4"):
            parse_shard(wrong)
    with pytest.raises(RequestError, match=r"parts count from 1: with ranks from 0, \$\(\(RANK \+ 1\)\)/\$WORLD_SIZE"):
        parse_shard("0/4")


@pytest.mark.parametrize("seed", range(20))
def test_every_batch_is_in_one_part(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 50, rng.integers(1, 40)).tolist()
    for count in (1, 2, 3, 7, 60):
        at = 0
        for part in range(1, count + 1):
            own = batches_of(Shard(part, count), tokens)
            assert own.start == at
            at = own.stop
            assert abs(sum(tokens[i] for i in own) - sum(tokens) / count) <= max(tokens) + 1e-9
        assert at == len(tokens)


def test_a_part_says_what_it_is(three: list[Path]) -> None:
    with RunFile.open(three[1]) as run:
        assert run.where_notes == (
            "this is part 2 of 3 of a capture, prompts 6-14 of its 23 prompts: every figure is of these (nfinspect "
            "merge puts the parts together)",
        )
        assert run.name == "r.part-2-of-3" and run.info.kind == "capture"


def test_a_part_is_resumed_as_that_part(
    three: list[Path], request_: Callable[..., CaptureRequest], loaded: Callable[[str], LoadedModel]
) -> None:
    again = replace(request_(), shard=Shard(2, 3))
    with pytest.raises(RunExists):
        load(again)
    for named in ("r", "r.part-2-of-3"):
        with pytest.raises(CannotResume, match="r.part-2-of-3 is complete"):
            captured(replace(again, resume=True, run=named), loaded("gpt2"))
    with pytest.raises(CannotResume, match="expected an unfinished run of the same command"):
        captured(replace(again, resume=True, run=None), loaded("gpt2"))


@pytest.mark.slow
def test_what_a_part_would_cost(request_: Callable[..., CaptureRequest]) -> None:
    whole = estimate(request_())
    parts = [estimate(replace(request_(), shard=Shard(i, 12))) for i in range(1, 13)]
    assert sum(part.tokens for part in parts) == whole.tokens
    assert [part.seconds > 0 for part in parts] == [part.tokens > 0 for part in parts]


def test_values_beyond_a_running_percentile_have_no_parts(request_: Callable[..., CaptureRequest]) -> None:
    with pytest.raises(RequestError, match="beyond=p99 keeps the values beyond a percentile of all tokens before"):
        replace(request_(where=parse_where("beyond=p99")), shard=Shard(1, 2))


def test_parts_from_python(loaded: Callable[[str], LoadedModel], tmp_path: Path) -> None:
    model = loaded("gpt2")
    texts = {"a": [f"w{i} w{i + 3} w{i + 9}" for i in range(3, 12)], "b": [f"w{i} w4" for i in range(3, 12)]}
    options: dict[str, Any] = {"store": tmp_path, "batch_size": 4, "generate": 2}
    with nf.capture(model.model, model.tokenizer, texts, run="whole", **options) as whole:
        for part in ("1/2", "2/2"):
            nf.capture(model.model, model.tokenizer, texts, run="r", shard=part, **options).close()
        with nf.merge("m", ["r.part-2-of-2", "r.part-1-of-2"], store=tmp_path) as merged:
            assert merged.name == "m"
            np.testing.assert_array_equal(merged.activations("mlp", 0), whole.activations("mlp", 0))
    assert_same(tmp_path / "whole.duckdb", tmp_path / "m.duckdb")


def test_loading_refuses_a_part_that_is_there(three: list[Path], request_: Callable[..., CaptureRequest]) -> None:
    with pytest.raises(RunExists, match="a run named r.part-1-of-3 already exists"):
        capture_run(replace(request_(), shard=Shard(1, 3)))


@pytest.mark.parametrize(("keep", "precision"), [("stats", "float32"), ("all", "float32"), ("all", "int8")])
@pytest.mark.filterwarnings("ignore:found by structure", "ignore:the neurons of mlp.shared")
def test_experts_that_only_some_parts_use(keep: str, precision: str, tmp_path: Path) -> None:
    """Each neuron of a mixture of experts has its own tokens: it may be absent from a part, or from all."""
    model = model_of("mixtral")
    texts = {"a": ["w5 w6 w7", "w10", "w12 w13", "w20 w21 w22 w23"], "b": ["w30 w31", "w40", "w41 w42 w43", "w50"]}
    options: dict[str, Any] = {"store": tmp_path, "batch_size": 1, "generate": 2, "keep": keep, "seed": 7}
    options |= {"sites": ("mlp", "resid"), "precision": precision}
    nf.capture(model, word_tokenizer(), texts, run="whole", **options).close()
    for part in range(1, 9):
        nf.capture(model, word_tokenizer(), texts, run="r", shard=f"{part}/8", **options).close()
    nf.merge("m", [f"r.part-{part}-of-8" for part in (3, 1, 8, 2, 5, 4, 7, 6)], store=tmp_path).close()
    assert_same(tmp_path / "whole.duckdb", tmp_path / "m.duckdb")
    sound(tmp_path / "m.duckdb")
    with RunFile.open(tmp_path / "m.duckdb") as run:
        counts = run.statistics("mlp", layer=run.site_layers("mlp")[0].layer).n
        assert len(set(counts.tolist())) > 2
