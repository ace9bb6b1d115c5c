import os
import random
from pathlib import Path

import duckdb
import numpy as np
import pytest

from nfinspect_store import kernels, verify_values
from nfinspect_store.errors import RunBusy, RunNotFound
from nfinspect_store.heartbeat import Heartbeat
from nfinspect_store.reader import RunFile
from nfinspect_store.verify import verify_run


def damage(path: Path, *statements: str) -> list[str]:
    """Change a run by SQL, as no capture would, and say what `verify` finds."""
    with duckdb.connect(str(path)) as connection:
        for statement in statements:
            connection.execute(statement)
    found = verify_run(path)
    assert found.ok is not bool(found.problems)
    return list(found.problems)


@pytest.mark.parametrize("name", ["planted", "stats"])
def test_a_run_as_written_is_sound(store: Path, name: str) -> None:
    found = verify_run(store / f"{name}.duckdb")
    assert found.problems == ()
    assert found.to_json() == {
        "ok": True,
        "checked": list(found.checked),
        "problems": [],
        "not_covered": list(found.not_covered),
    }
    assert len(found.checked) >= 8


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("DELETE FROM tokens WHERE token_idx = 7", "tokens: expected 0 to 1198"),
        ("INSERT INTO tokens SELECT * FROM tokens WHERE token_idx = 7", "tokens: expected 0 to 1200"),
        ("UPDATE tokens SET position = 3 WHERE token_idx = 7", "token 7 does not fit its prompt 0"),
        ("UPDATE tokens SET generated = true WHERE token_idx = 7", "token 7 does not fit its prompt 0"),
        ("UPDATE tokens SET prompt_idx = 77 WHERE token_idx = 7", "token 7 does not fit its prompt 77"),
        (
            "UPDATE prompts SET first_token = 41 WHERE prompt_idx = 1",
            "prompt 1 begins at token 41, expected 40",
        ),
        ("UPDATE prompts SET tokens = 39 WHERE prompt_idx = 29", "they count 1199 tokens together"),
        ("UPDATE statistics SET n = n + 1 WHERE layer_id = 1 AND neuron = 3", "mlp layer 1: 1 neurons count"),
        ("DELETE FROM statistics WHERE layer_id = 1 AND neuron = 3", "mlp layer 1 has 63 neurons"),
        (
            "DELETE FROM blocks WHERE layer_id = 1 AND neuron = 3 AND block = 2",
            "mlp layer 1: 1 neurons have 944 to 1200 values, expected 1200",
        ),
        ("UPDATE blocks SET neuron = 900 WHERE layer_id = 1 AND neuron = 3", "5 belong to no neuron"),
        (
            "UPDATE statistics SET minimum = -1 WHERE layer_id = 1 AND neuron = 3",
            "the minimum of 1 neurons is not that of the statistics, the first is N3",
        ),
        (
            "UPDATE statistics SET mean = mean + 0.001 WHERE layer_id = 1 AND neuron = 3",
            "the mean of 1 neurons is not that of the statistics, the first is N3",
        ),
        ("UPDATE histograms SET counts = '\\x01'::BLOB", "a histogram does not count 64 neurons"),
        ("UPDATE histograms SET counts = unhex(reverse(hex(counts))) WHERE bin = 49", "histograms: mlp layer 0"),
        ('UPDATE blocks SET "last" = 200 WHERE layer_id = 1 AND neuron = 3', "5 belong to no neuron or no token"),
        ("UPDATE blocks SET block = 0 WHERE layer_id = 1 AND neuron = 3 AND block = 1", "have a token twice"),
        (
            "UPDATE neurons SET class = 'weak' WHERE layer = 1 AND neuron = 3 AND site = 'mlp'",
            "mlp layer 1 counts",
        ),
        (
            "UPDATE neurons SET class = 'odd' WHERE layer = 1 AND neuron = 3 AND site = 'mlp'",
            "unknown class 'odd'",
        ),
        ("DELETE FROM neurons WHERE layer = 1", "mlp layer 1 has 64 neurons, the table neurons 0"),
        ("DELETE FROM layer_health WHERE layer = 1", "layer_health 0"),
        ("DROP TABLE histograms", "it has no table histograms"),
        ("DROP VIEW activations", "it has no view activations"),
        ("UPDATE run SET schema_version = 999", "schema version 999"),
        ("DELETE FROM run", "holds no run"),
        ("DROP TABLE run", "no table run"),
    ],
)
def test_what_does_not_agree_is_found(store: Path, statement: str, expected: str) -> None:
    problems = damage(store / "planted.duckdb", statement)
    assert any(expected in problem for problem in problems), problems
    assert all("\n" not in problem for problem in problems)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_value_that_is_no_number_is_found(store: Path, value: str) -> None:
    bits = {"nan": "7FC00000", "inf": "7F800000", "-inf": "FF800000"}[value]
    change = f"""UPDATE blocks SET "values" = unhex(repeat('{bits}', 256))
                 WHERE layer_id = 1 AND neuron = 3 AND block = 0"""
    problems = damage(store / "planted.duckdb", change)
    assert any("256 values are NaN or infinite, the first in N3" in problem for problem in problems), problems


def test_values_that_changed_places_are_found(store: Path) -> None:
    """Minimum, maximum and mean stay; what was told of each prompt does not."""
    change = """UPDATE blocks SET "values" = "values"[513:] || "values"[:512] WHERE block = 0 AND layer_id = 1"""
    problems = damage(store / "planted.duckdb", change)
    assert any("prompt_means: mlp layer 1: the mean over last" in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("UPDATE concept_statistics SET concept = 'tulip' WHERE concept = 'vietnam'", "concept 'tulip' has 64 neurons"),
        ("DELETE FROM concept_statistics WHERE layer_id = 1 AND neuron = 3", "has 63 neurons"),
        ("DELETE FROM concept_statistics WHERE layer_id = 1 AND concept = 'tulip'", "concept 'tulip' is missing"),
        ("UPDATE examples SET token_idx = list_prepend(5000, token_idx[2:])", "name tokens that the run does not hold"),
    ],
)
def test_what_does_not_agree_is_found_where_only_statistics_are(store: Path, statement: str, expected: str) -> None:
    problems = damage(store / "stats.duckdb", statement)
    assert any(expected in problem for problem in problems), problems


@pytest.mark.slow
def test_no_flipped_bit_and_no_cut_goes_unseen_or_crashes(store: Path) -> None:
    path = store / "planted.duckdb"
    whole = path.read_bytes()
    rng = random.Random(7)
    for round_number in range(24):
        if round_number < 6:
            path.write_bytes(whole[: rng.randrange(len(whole))])
        else:
            place = rng.randrange(len(whole))
            path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << rng.randrange(8))]) + whole[place + 1 :])
        assert not verify_run(path).ok, f"round {round_number}"


def test_many_problems_are_cut_short(store: Path) -> None:
    change = "UPDATE layer_health SET dead = 9"
    problems = damage(store / "planted.duckdb", change, "UPDATE tokens SET position = 9")
    assert len(problems) < 100


def test_what_is_no_run_is_a_problem_not_a_crash(tmp_path: Path) -> None:
    for content in (b"", b"text", os.urandom(20_000)):
        file = tmp_path / "x.duckdb"
        file.write_bytes(content)
        found = verify_run(file)
        assert not found.ok and "\n" not in found.problems[0]


def test_a_run_that_is_missing_or_being_written_is_no_verdict(store: Path) -> None:
    with pytest.raises(RunNotFound):
        verify_run(store / "none.duckdb")
    Heartbeat(store / "planted.duckdb").beat()
    with pytest.raises(RunBusy):
        verify_run(store / "planted.duckdb")


@pytest.mark.parametrize("statement", [None, "UPDATE statistics SET m3 = m3 + 9 WHERE layer_id = 1 AND neuron = 3"])
def test_without_the_compiled_loops_the_same_is_found(
    store: Path, monkeypatch: pytest.MonkeyPatch, statement: str | None
) -> None:
    path = store / "planted.duckdb"
    problems = damage(path, *([statement] if statement else []))
    monkeypatch.setattr(kernels, "_kernels", None)
    assert list(verify_run(path).problems) == problems and bool(problems) is bool(statement)


@pytest.mark.parametrize("prompt", [-7, 0, 4, 29, 10**6])
def test_means_are_counted_in_pieces_of_prompts_as_at_once(
    store: Path, prompt: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts that are not there, too: a mean of theirs is told, wherever the pieces are cut."""
    path = store / "planted.duckdb"
    statement = (
        f"DELETE FROM prompt_means WHERE prompt_idx = {prompt} AND layer_id = 1"
        if 0 <= prompt < 30
        else f"INSERT INTO prompt_means SELECT * REPLACE ({prompt} AS prompt_idx) FROM prompt_means LIMIT 2"
    )
    problems = [one for one in damage(path, statement) if one.startswith("prompt_means: prompt")]
    assert problems and all(one.startswith(f"prompt_means: prompt {prompt}, ") for one in problems)
    for at_once in (1, 100):
        monkeypatch.setattr(verify_values, "MEANS_AT_ONCE", at_once)
        assert [one for one in verify_run(path).problems if one.startswith("prompt_means: prompt")] == problems


def test_values_are_checked_whatever_sums_of_layers_are_held_together(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store / "planted.duckdb"
    problems = damage(path, 'UPDATE prompt_means SET "values" = "values"[5:] || "values"[:4] WHERE layer_id > 0')
    assert problems and all(problem.startswith(("prompt_means", "digests")) for problem in problems)
    with RunFile.open(path) as run:
        groups = list(verify_values.layer_groups(run))
        assert [layer for group in groups for layer in group] == list(run.layers) and len(groups) < len(run.layers)
        monkeypatch.setattr(verify_values, "MEANS_BYTES", 16 * run.prompts * max(x.neurons for x in run.layers))
        assert len(list(verify_values.layer_groups(run))) > len(groups) and verify_values.means_step(run) == 1
    assert list(verify_run(path).problems) == problems


def test_histograms_read_with_those_of_other_layers_are_the_layers_own(store: Path) -> None:
    with RunFile.open(store / "planted.duckdb") as run:
        order = [*run.layers, *reversed(run.layers), run.layers[0]]
        for layer in order:
            for skip_first in (True, False):
                width = 8 * -(-layer.neurons // 8)
                query = f"""SELECT bin, sum(get_bit(counts::BIT, (b * {width} + neuron)::INT) << b)::BIGINT AS counted
                            FROM histograms, range({layer.neurons}) r(neuron), range(11) s(b)
                            WHERE layer_id = {layer.layer_id} AND b * {width} < 8 * octet_length(counts)
                              AND NOT ("first" AND {skip_first}) GROUP BY neuron, bin ORDER BY neuron, bin"""
                expected = run.cursor().execute(query).fetchnumpy()
                found = run.histograms(layer.site, layer.layer, skip_first=skip_first)
                bins = np.unique(expected["bin"])
                assert (found[:, bins].ravel() == expected["counted"]).all() and found.sum() == found[:, bins].sum()
