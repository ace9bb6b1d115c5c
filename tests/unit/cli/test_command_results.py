"""What the commands say of a run whose contents are known."""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import duckdb
import pytest
from command_line import Run


def no_constant(name: str) -> float:
    raise AssertionError(f"{name} is no JSON")


def document(run: Run, *arguments: str) -> Any:
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout, parse_constant=no_constant)


def test_runs(nfinspect: Run) -> None:
    found = document(nfinspect, "runs")
    assert {entry["name"] for entry in found} == {"planted", "stats"}
    assert {"name", "status", "model", "created_at", "tokens", "bytes", "progress"} <= set(found[0])
    assert found[0]["tokens"] == 1200 and found[0]["status"] == "complete" and found[0]["progress"] is None


def test_info(nfinspect: Run) -> None:
    found = document(nfinspect, "info", "planted")
    assert (found["layers"], found["prompts"], found["tokens"]) == (6, 30, 1200)
    assert found["bytes"] > 0 and found["settings"] == {"keep": "all", "precision": "float32"}
    assert [(site["site"], site["neurons"]) for site in found["sites"]] == [("mlp", 192), ("resid", 48)]
    assert found["concepts"] == ["tulip", "vietnam", "baseline"]


def test_health_finds_what_was_planted(nfinspect: Run) -> None:
    found = document(nfinspect, "health", "planted")
    assert found["total_layers"] == 3 and 0.9 < found["overall_health_score"] < 1
    layer = found["layer_analyses"][1]
    assert (layer["dead_neurons"], layer["saturated_neurons"], layer["neurons"]) == (1, 1, 64)


def test_health_options_reach_the_analysis(nfinspect: Run) -> None:
    strict = document(nfinspect, "health", "planted", "--threshold-weak", "5", "--threshold-missing", "4")
    assert strict["missing_firing_percentage"] > 50
    absolute = document(nfinspect, "health", "planted", "--threshold-scale", "absolute", "--skip-first")
    assert absolute["total_layers"] == 3


def test_neurons(nfinspect: Run) -> None:
    dead = document(nfinspect, "neurons", "planted", "--class", "dead")
    assert [(row["layer"], row["neuron"]) for row in dead] == [(0, 0), (1, 0), (2, 0)]
    assert dead[0]["class"] == "dead" and dead[0]["max"] == 0 and dead[0]["skewness"] is None
    highest = document(nfinspect, "neurons", "planted", "--sort", "mean", "--top", "2", "--offset", "1", "--layer", "1")
    assert [row["neuron"] for row in highest][0] == 5  # neuron 1 is stuck at 3
    lowest = document(nfinspect, "neurons", "planted", "--sort", "mean", "--asc", "--filter", "mean>2")
    assert {row["neuron"] for row in lowest} == {1}
    resid = document(nfinspect, "neurons", "planted", "--site", "resid", "--top", "100")
    assert len(resid) == 48


def test_neuron(nfinspect: Run) -> None:
    found = document(nfinspect, "neuron", "planted", "L1/N5")
    assert (found["site"], found["layer"], found["neuron"], found["n"]) == ("mlp", 1, 5, 1200)
    assert sum(found["histogram"]["counts"]) == 1200
    assert len(found["histogram"]["edges"]) == len(found["histogram"]["counts"]) + 1
    top = found["top_examples"]
    assert {"token_idx", "prompt_idx", "position", "token", "value", "text"} <= set(top[0])
    assert math.isclose(top[0]["value"], found["max"], rel_tol=1e-6)
    assert top[0]["prompt_idx"] % 3 == 0  # tulip
    assert document(nfinspect, "neuron", "planted", "resid:L2/N3")["site"] == "resid"
    assert document(nfinspect, "neuron", "planted", "L2/N3", "--site", "resid")["site"] == "resid"


def test_trace_and_overlap(nfinspect: Run) -> None:
    found = document(nfinspect, "trace", "planted", "--concept", "tulip", "--top", "3")
    assert found["baseline"] == "baseline" and found["tokens"] == "generated" and found["samples"] == 10
    assert {(row["layer"], row["neuron"]) for row in found["neurons"]} == {(0, 5), (1, 5), (2, 5)}
    assert found["neurons"][0]["rank"] == 1 and found["neurons"][0]["percent"] == 100
    ranked = document(nfinspect, "trace", "planted", "--concept", "tulip", "--rank", "auroc", "--tokens", "last")
    assert ranked["neurons"][0]["auroc"] == 1
    shared = document(nfinspect, "overlap", "planted", "--concepts", "tulip,vietnam", "--top", "5")
    assert shared["concepts"] == ["tulip", "vietnam"] and shared["top"] == 5
    assert {"a", "b", "overlap", "jaccard", "expected", "p_value", "shared"} <= set(shared["pairs"][0])


def test_the_baseline_that_was_taken_is_said_on_stderr(nfinspect: Run) -> None:
    done = nfinspect("trace", "planted", "--concept", "tulip", "--json")
    assert "baseline" in done.stderr
    json.loads(done.stdout)


def test_verify(nfinspect: Run, store: Path) -> None:
    assert document(nfinspect, "verify", "planted")["ok"] is True
    whole = (store / "planted.duckdb").read_bytes()
    (store / "planted.duckdb").write_bytes(whole[: len(whole) // 2])
    done = nfinspect("verify", "planted", "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert found["ok"] is False and found["problems"] and found["checked"]


def test_verify_says_first_whether_the_run_is_sound(nfinspect: Run, store: Path) -> None:
    done = nfinspect("verify", "planted")
    assert done.stdout.splitlines()[0] == "planted is sound" and "failed" not in done.stdout
    with duckdb.connect(str(store / "planted.duckdb")) as connection:
        connection.execute("DELETE FROM tokens WHERE token_idx = 7")
    done = nfinspect("verify", "planted")
    verdict, *rest = done.stdout.splitlines()
    assert done.returncode == 1 and verdict.startswith("planted is DAMAGED: ")
    words = [line.split()[0] for line in rest]
    assert words == sorted(words, key=["PROBLEM", "failed", "passed", "unseen"].index) and set(words) >= {
        "PROBLEM",
        "failed",
    }
    # What found the problem is not among what passed.
    failed = [line.split(maxsplit=1)[1] for line in rest if line.startswith("failed")]
    assert failed[0].startswith("tokens: ") and not any(f"passed   {what}" in rest for what in failed)


def test_verify_of_a_file_that_cannot_be_opened_passes_nothing(nfinspect: Run, store: Path) -> None:
    (store / "planted.duckdb").write_bytes(b"no run" * 1000)
    lines = nfinspect("verify", "planted").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["planted", "PROBLEM", "failed"]


def test_sql_may_begin_with_a_comment(nfinspect: Run) -> None:
    """Whatever stands in it; a word that begins with a dash and has no space is an option all the same."""
    for comment in ("-- the ten\n", "--all=of --them\n", "-- --json\n", "-a comment?*/\n"):
        done = nfinspect("sql", "planted", f"{comment}SELECT 1 AS one", "--json")
        if comment.startswith("--"):
            assert done.returncode == 0 and json.loads(done.stdout) == [{"one": 1}], done.stderr
        else:
            assert done.returncode == 1, "it is SQL, and wrong"
    for line in (("--formt", "csv", "SELECT 1"), ("SELECT 1", "--formt=csv"), ("SELECT 1", "-x")):
        done = nfinspect("sql", "planted", *line)
        assert done.returncode == 2 and f"No such option '{'-x' if '-x' in line else '--formt'}'" in done.stderr, line
    assert "--format" in nfinspect("sql", "planted", "SELECT 1", "--formt=csv").stderr


def test_sql_in_every_format(nfinspect: Run, tmp_path: Path) -> None:
    query = "SELECT neuron, 'nan'::FLOAT AS nothing FROM neurons WHERE class = 'dead' AND site = 'mlp'"
    assert document(nfinspect, "sql", "planted", query) == [{"neuron": 0, "nothing": None}] * 3
    text = nfinspect("sql", "planted", query, "--format", "csv").stdout
    assert list(csv.reader(io.StringIO(text)))[0] == ["neuron", "nothing"]
    assert nfinspect("sql", "planted", query).stdout.splitlines()[0].split() == ["neuron", "nothing"]
    done = nfinspect("sql", "planted", "FROM activations", "--format", "parquet", "--out", str(tmp_path / "a.parquet"))
    assert done.returncode == 0 and (tmp_path / "a.parquet").stat().st_size > 1000


def test_sql_over_several_runs(nfinspect: Run) -> None:
    query = "SELECT (SELECT count(*) FROM blocks) AS a, (SELECT count(*) FROM stats.blocks) AS b"
    assert document(nfinspect, "sql", "planted", "stats", query) == [{"a": 1200, "b": 0}]


def test_export(nfinspect: Run, tmp_path: Path) -> None:
    found = document(nfinspect, "export", "planted", "--out", "out")
    assert "activations-mlp-L0.safetensors" in found["files"] and "neurons.parquet" in found["files"]
    assert sum(file.stat().st_size for file in (tmp_path / "out").iterdir()) == found["bytes"]


def test_delete(nfinspect: Run, store: Path) -> None:
    assert nfinspect("delete", "stats", "nurons").returncode == 1
    assert (store / "stats.duckdb").exists()  # a mistyped name deletes nothing
    assert nfinspect("delete", "stats").returncode == 0
    assert not (store / "stats.duckdb").exists()
    assert (store / "planted.duckdb").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("runs",),
        ("info", "planted"),
        ("health", "planted"),
        ("neurons", "planted"),
        ("neuron", "planted", "L1/N5"),
        ("trace", "planted", "--concept", "tulip"),
        ("overlap", "planted", "--concepts", "tulip,vietnam"),
        ("sql", "planted", "FROM neurons"),
        ("sql", "planted", "FROM tokens"),
    ],
    ids=" ".join,
)
def test_text_for_people_is_narrow_and_harmless(nfinspect: Run, arguments: tuple[str, ...]) -> None:
    done = nfinspect(*arguments, COLUMNS="80")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines
    assert max(map(len, lines)) <= 80
    assert not any(hostile in done.stdout + done.stderr for hostile in ("\x1b", "\u202e", "\u200b"))


def test_no_command_that_reads_a_run_imports_torch(process: Run) -> None:
    for arguments in (("runs", "--json"), ("health", "planted"), ("trace", "planted", "--concept", "tulip")):
        done = process(*arguments, PYTHONPROFILEIMPORTTIME="1")
        assert done.returncode == 0
        modules = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
        assert "nfinspect" in modules
        assert not modules & {"torch", "transformers", "textual"}


def test_raw_values_are_ranked_when_asked_for(nfinspect: Run) -> None:
    """The run has a concept called baseline, which is else compared with."""
    done = nfinspect("trace", "planted", "--concept", "tulip", "--no-baseline", "--json")
    found = json.loads(done.stdout)
    assert found["baseline"] is None and all(row["difference"] is None for row in found["neurons"])
    assert "raw values are ranked" in done.stderr
    assert json.loads(nfinspect("trace", "planted", "--concept", "tulip", "--json").stdout)["baseline"] == "baseline"
    for arguments in (("--baseline", "baseline", "--no-baseline"), ("--baseline", "")):
        done = nfinspect("trace", "planted", "--concept", "tulip", *arguments)
        assert done.returncode == 2 and "or --no-baseline" in done.stderr


def test_a_trace_without_a_baseline_is_not_called_a_difference(nfinspect: Run, store: Path) -> None:
    with duckdb.connect(str(store / "planted.duckdb")) as connection:
        connection.execute("UPDATE prompts SET concept = 'other' WHERE concept = 'baseline'")
    title = nfinspect("trace", "planted", "--concept", "tulip").stdout.split("#")[0]
    assert "without a baseline" in title and "then raw mean" in title.replace("\n", " ")
