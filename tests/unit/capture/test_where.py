"""`--where`: the run holds exactly the tokens that meet the conditions, with the values of a run that records all."""

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import FAMILIES
from words import special_tokenizer

import nfinspect as nf
from nfinspect.capturing.classification import classify_tables
from nfinspect.capturing.errors import BadPrompts, CannotResume, CaptureInterrupted, LimitReached
from nfinspect.capturing.where import Where, parse_where
from nfinspect.run import Run
from nfinspect_store.errors import RequestError
from nfinspect_store.reader import RunFile
from nfinspect_store.tables import RunTables
from nfinspect_store.verify import verify_run

MakeDir = Callable[[str], Path]

CHATS = [
    [{"role": "user", "content": "w9 w8 w7"}, {"role": "assistant", "content": "w5 w6"}],
    [
        {"role": "user", "content": "w20"},
        {"role": "assistant", "content": "w21 w22 w23 w24"},
        {"role": "user", "content": "w25 w26 w27 w28 w29"},
        {"role": "assistant", "content": "w30"},
    ],
    [{"role": "user", "content": "w40 w41 w42 w43 w44 w45"}],
]
"""The last one has no answer."""

WHERES = [("answers", "tokens=0-3"), ("role=user", "tokens=1-"), ("role=assistant and tokens=3-6", "answers")]
"""Two for each way to read."""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("answers", Where(answers=True)),
        (" role = user , assistant ", Where(roles=("assistant", "user"))),
        ("tokens=0-7", Where(first=0, last=7)),
        ("tokens=4- and answers and role=a", Where(True, ("a",), 4, None)),
        ("beyond=p99.90", Where(beyond=Decimal("99.9"))),
        ("beyond = p90 and tokens=4-", Where(first=4, beyond=Decimal(90))),
    ],
)
def test_an_expression_is_read_and_written(text: str, expected: Where) -> None:
    assert parse_where(text) == expected
    assert parse_where(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    ["", "answer", "answers=1", "role=", "role=a,", "role", "tokens=", "tokens=3", "tokens=5-3", "tokens=-3",
     "tokens=a-b", "answers role=a", "answers or role=a", "answers and", "beyond", "beyond=", "beyond=p1000",
     "beyond=p100", "beyond=p0", "beyond=p0.0", "beyond=99", "beyond=p-1", "beyond=p9.9.9", "beyond=pnan"],
)  # fmt: skip
def test_another_expression_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(RequestError, match="expected --where answers, role=R") as caught:
        parse_where(text)
    assert "\n" not in str(caught.value)


def test_a_condition_comes_once() -> None:
    with pytest.raises(RequestError, match="each condition of --where once, found 'tokens' twice"):
        parse_where("tokens=0-3 and tokens=5-7")


def captured(family: str, store: Path, name: str, **options: Any) -> Run:
    return nf.capture(
        FAMILIES[family](), special_tokenizer(), {"chat": CHATS}, store=store, run=name, **{"batch_size": 2, **options}
    )


def chosen_of(run: Run, where: Where, generate: int) -> np.ndarray:
    """Which tokens of a run that records all of them meet the conditions, from its table: bool[tokens]."""
    rows = run.sql('SELECT "position", role, generated FROM tokens ORDER BY token_idx').fetchall()
    found = []
    for position, role, generated in rows:
        answer = generated if generate else role == "assistant"
        within = position >= where.first and (where.last is None or position <= where.last)
        found.append(within and (answer or not where.answers) and (not where.roles or role in where.roles))
    return np.array(found)


def sites_of(family: str) -> list[str]:
    return ["mixer", "resid"] if family.startswith("mamba") else ["mlp", "resid"]


# opt flattens its batches, llama fires by a gate, mamba has Δ.
@pytest.mark.parametrize(
    ("family", "generate", "mode"),
    [
        ("opt", 0, "auto"),
        ("opt", 4, "live"),
        ("llama", 4, "live"),
        pytest.param("mamba", 4, "live", marks=pytest.mark.slow),
        pytest.param("mamba", 4, "replay", marks=pytest.mark.slow),
    ],
)
def test_a_run_holds_the_chosen_part_of_a_whole_run(family: str, generate: int, mode: str, tmp_path: Path) -> None:
    options = {"generate": generate, "mode": mode, "sites": sites_of(family)}
    with captured(family, tmp_path, "whole", **options) as whole:
        for where in WHERES[["auto", "live", "replay"].index(mode)]:
            is_the_chosen_part(whole, family, where, options)


def is_the_chosen_part(whole: Run, family: str, where: str, options: dict[str, Any]) -> None:
    generate = options["generate"]
    with captured(family, whole.path.parent, where.replace(" ", ""), where=where, **options) as part:
        chosen = chosen_of(whole, parse_where(where), generate)
        assert 0 < chosen.sum() < len(chosen)
        assert part.tokens == chosen.sum() and part.unrecorded == (~chosen).sum()
        for layer in whole.layers:
            assert np.array_equal(
                part.activations(layer.site, layer.layer), whole.activations(layer.site, layer.layer)[chosen]
            )
        columns = "prompt_idx, position, token_id, token, generated, bytes, role"
        tokens = whole.sql(f"SELECT {columns} FROM tokens ORDER BY token_idx").fetchall()
        held = [row for row, kept in zip(tokens, chosen, strict=True) if kept]
        others = [row for row, kept in zip(tokens, chosen, strict=True) if not kept]
        assert part.sql(f"SELECT {columns} FROM tokens ORDER BY token_idx").fetchall() == held
        assert part.sql(f"SELECT {columns} FROM unrecorded ORDER BY 1, 2").fetchall() == others
        assert part.info.settings["where"] == str(parse_where(where))
        for prompt in range(3):
            rows, every = part.prompt_tokens(prompt), whole.prompt_tokens(prompt)
            assert rows.token == every.token and rows.position.tolist() == every.position.tolist()
        positions = part.sql("SELECT count(*) FROM tokens WHERE position > 0").fetchall()[0][0]
        assert {n for (n,) in part.sql("SELECT DISTINCT n FROM mamba_delta").fetchall()} <= {positions}
        kept = part.path
    found = verify_run(kept, lambda tables, exact: classify_tables(tables, exact=exact))
    assert found.ok, found.problems


def test_statistics_alone_are_of_the_chosen_tokens(tmp_path: Path) -> None:
    options: dict[str, Any] = {"where": "answers", "generate": 3, "sites": ["mlp", "resid"]}
    with (
        captured("llama", tmp_path, "values", **options) as values,
        captured("llama", tmp_path, "stats", keep="stats", **options) as stats,
    ):
        for layer in values.layers:
            found = stats.concept_statistics(layer)["chat"]
            every = values.activations(layer.site, layer.layer)
            assert found.n.tolist() == [values.tokens] * layer.neurons
            assert np.allclose(found.mean, every.mean(0, dtype=np.float64)) and (found.maximum == every.max(0)).all()
            for neuron in range(0, layer.neurons, 40):
                told = [run.examples(layer.site, layer.layer, neuron) for run in (values, stats)]
                assert told[0] == told[1]
        assert verify_run(stats.path).ok


def test_a_prompt_without_a_chosen_token_stays_with_its_text(tmp_path: Path) -> None:
    with captured("gpt2", tmp_path, "r", where="answers") as run:
        assert [(run.prompt(i).tokens, run.prompt(i).prompt_tokens) for i in range(3)] == [(4, 4), (9, 9), (0, 0)]
        assert run.prompt(2).text and len(run.prompt_tokens(2).token) == 9
        assert run.prompt_means("all").prompt_idx.tolist() == [0, 1]
        assert run.trace("chat").samples == 2
    assert verify_run(tmp_path / "r.duckdb").ok


def test_nothing_to_record_is_refused_and_leaves_no_run(tmp_path: Path) -> None:
    plain = {"a": ["w3 w4", "w5"]}
    for where, generate, told in (
        ("role=system", 2, "of the role system for --where role=system, found these roles: assistant, user"),
        ("tokens=50-", 2, "expected tokens that meet --where tokens=50-, found none in any prompt"),
    ):
        with pytest.raises(BadPrompts, match=told):
            captured("gpt2", tmp_path, "r", where=where, generate=generate)
    for where in ("answers", "role=user"):
        with pytest.raises(BadPrompts, match="found these roles: none, as no prompt is a chat"):
            nf.capture(FAMILIES["gpt2"](), special_tokenizer(), plain, store=tmp_path, run="r", where=where)
    assert not list(tmp_path.glob("*"))


def test_an_end_before_the_chosen_tokens_leaves_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every prompt may end before the first position to be recorded, which only generating shows."""
    monkeypatch.setattr("nfinspect.capturing.generation.end_ids", lambda model: frozenset(range(200)))
    with pytest.raises(BadPrompts, match="found none in any prompt"):
        nf.capture(
            FAMILIES["gpt2"](),
            special_tokenizer("$A"),
            ["w3 w4"],
            store=tmp_path,
            run="r",
            where="tokens=4-",
            generate=6,
        )
    assert not list(tmp_path.glob("*.duckdb"))


def test_a_run_resumes_under_the_same_conditions_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nfinspect.capturing.recorder import Recorder

    options: dict[str, Any] = {"generate": 2, "batch_size": 1, "keep": "stats"}
    with captured("gpt2", tmp_path, "whole", where="answers", **options) as whole:
        expected = [whole.layer_examples(layer, "random", 10)[1].tolist() for layer in whole.layers]
    add = Recorder.add

    def stop_after_two(self: Recorder, *given: Any) -> None:
        if self.prompts == 2:
            raise CaptureInterrupted("stop")
        add(self, *given)
        self.commit({"status": "capturing"}, final=False)

    with monkeypatch.context() as patch, pytest.raises(CaptureInterrupted):
        patch.setattr(Recorder, "add", stop_after_two)
        captured("gpt2", tmp_path, "cut", where="answers", **options)
    for other in (None, "tokens=1-"):
        with pytest.raises(CannotResume, match="where: 'answers' then"):
            captured("gpt2", tmp_path, "cut", where=other, resume=True, **options)
    with captured("gpt2", tmp_path, "cut", where=" answers ", resume=True, **options) as run:
        assert run.info.status == "complete" and run.tokens == 5  # one ended early
        assert [run.layer_examples(layer, "random", 10)[1].tolist() for layer in run.layers] == expected
    assert verify_run(tmp_path / "cut.duckdb").ok


def test_an_estimate_and_a_limit_count_recorded_tokens(model_dir: MakeDir, tmp_path: Path) -> None:
    from nfinspect.capturing.estimation import estimate
    from nfinspect.capturing.request import CaptureRequest, PromptFile
    from nfinspect.capturing.session import capture_run
    from nfinspect.capturing.sizes import run_bytes

    file = tmp_path / "p.jsonl"
    file.write_text("".join(json.dumps({"text": " ".join(["w5"] * 40)}) + "\n" for _ in range(4)))
    request = CaptureRequest(str(model_dir("gpt2")), tmp_path, prompts=(PromptFile(file),), run="r", batch_size=1,
                             where=parse_where("tokens=0-9"))  # fmt: skip
    found = estimate(request)
    assert found.tokens == 40 and found.values % 40 == 0 and found.seconds > 0
    path = capture_run(request)
    with RunFile.open(path) as run:
        size = run_bytes(run.layers, "all", tokens=40, prompts=4, concepts=1, generates=False)
    assert found.bytes == size
    capture_run(CaptureRequest(**{**vars(request), "run": "limited", "limit_bytes": size}))
    with pytest.raises(LimitReached):
        capture_run(CaptureRequest(**{**vars(request), "run": "less", "limit_bytes": size - 1}))


def test_what_is_recorded_is_told(tmp_path: Path) -> None:
    with captured("gpt2", tmp_path, "start", where="tokens=0-3") as run:
        assert run.where_notes == (
            "recorded are 12 of 39 tokens (--where tokens=0-3): every count, mean and class is of these, and the last "
            "token of a prompt is the last one recorded",
        )
        assert run.where_notes[0] in run.health().notes and run.where_notes[0] in run.notes
    with captured("gpt2", tmp_path, "end", where="tokens=4-") as run:
        assert "recorded are 27 of 39 tokens, none of them at position 0 (--where tokens=4-)" in run.where_notes[0]
    with captured("gpt2", tmp_path, "all") as run:
        assert not run.where_notes and run.where == ""


def test_a_changed_place_is_found(tmp_path: Path) -> None:
    """Digests aside, tokens and unrecorded ones together count positions without a gap."""
    import duckdb

    from nfinspect_store.verify_tables import check_tokens

    with captured("gpt2", tmp_path, "r", where="tokens=2-3") as run:
        path = run.path
    for change in (
        "UPDATE unrecorded SET position = 2 WHERE position = 1 AND prompt_idx = 1",
        "DELETE FROM unrecorded WHERE position = 0 AND prompt_idx = 1",
        "UPDATE tokens SET position = 5 - position WHERE prompt_idx = 1",
    ):
        with duckdb.connect(str(path)) as connection:
            connection.execute("BEGIN")
            connection.execute(change)
            assert any("prompt 1" in problem for problem in check_tokens(RunTables(connection, in_transaction=True)))  # type: ignore[arg-type]
            connection.execute("ROLLBACK")
