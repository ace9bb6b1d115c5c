"""Prompts files and corpora as they are meant, and every way in which they can be wrong in one line."""

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from families import FAMILIES
from words import special_tokenizer, word_tokenizer

import nfinspect as nf
from nfinspect.capturing.errors import BadPrompts
from nfinspect.capturing.plan import fitting, load_prompts, read_files
from nfinspect.capturing.prompt_files import Columns, PromptText, read_prompts
from nfinspect.capturing.prompts import PromptIds, corpus_windows, prompt_ids
from nfinspect.capturing.request import CaptureRequest, PromptFile
from nfinspect.capturing.session import capture_run
from nfinspect.models import LoadedModel, Message, Texts, in_memory

TOKENIZER = word_tokenizer()
TEXTS = Texts(TOKENIZER)


@pytest.fixture(scope="module")
def gpt2() -> LoadedModel:
    return in_memory(FAMILIES["gpt2"](), TOKENIZER)


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


def files_prompts(request: CaptureRequest, loaded: LoadedModel) -> list[PromptIds]:
    return load_prompts(request, loaded, read_files(request))


def texts(path: Path, concept: str | None = None) -> list[tuple[str, str]]:
    return [(p.concept, p.content) for p in read_prompts(path, concept)]


def test_json_with_a_byte_order_mark_and_without(file: Callable[..., Path]) -> None:
    content = json.dumps({"prompts": ["w3 w4", "wß5\nw6"]}, ensure_ascii=False)
    expected = [("tulip", "w3 w4"), ("tulip", "wß5\nw6")]
    assert texts(file("tulip.json", content)) == expected
    assert texts(file("tulip.json", b"\xef\xbb\xbf" + content.encode())) == expected
    assert texts(file("x.json", json.dumps(["a", "b"])), "mine") == [("mine", "a"), ("mine", "b")]


def test_lines_of_json_have_concepts_of_their_own(file: Callable[..., Path]) -> None:
    content = '{"text": "a", "concept": "one"}\r\n\r\n{"text": "b"}\n{"text": "c", "concept": "two", "more": 1}'
    path = file("mixed.jsonl", b"\xef\xbb\xbf" + content.encode())
    assert texts(path) == [("one", "a"), ("mixed", "b"), ("two", "c")]
    assert texts(path, "all") == [("all", "a"), ("all", "b"), ("all", "c")]


@pytest.mark.parametrize("name", ["p.jsonl", "p.txt"])
def test_only_line_feeds_end_a_line(name: str, file: Callable[..., Path]) -> None:
    """U+2028, U+0085, form feeds and the like stand inside a text, in JSON as well."""
    inside = "one\u2028two\u0085three\x0cfour" if name == "p.txt" else "one\u2028two\u0085three"
    line = inside if name == "p.txt" else json.dumps({"text": inside}, ensure_ascii=False)
    assert [p.content for p in read_prompts(file(name, f"{line}\r\n{line}\r"))] == [inside, inside]


def test_text_has_a_prompt_a_line(file: Callable[..., Path]) -> None:
    path = file("tulip.txt", b"\xef\xbb\xbfw3 w4\r\n\r\n  \r\nw5\r\n")
    assert texts(path) == [("tulip", "w3 w4"), ("tulip", "w5")]
    assert [p.origin for p in read_prompts(path)] == [f"{path}:1", f"{path}:4"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", "", "found none: the file is empty"),
        ("a.txt", " \n\n", "found none: the file is empty"),
        ("a.json", '{"prompts": []}', "found none: the file is empty"),
        ("a.jsonl", "\n", "found none: the file is empty"),
        ("a.json", "", "expected JSON in"),
        ("a.json", '{"prompts": ["a"', "expected JSON in"),
        ("a.json", "[" * 100_000, "expected JSON in"),
        ("a.json", '{"texts": ["a"]}', "found something else"),
        ("a.json", '{"prompts": ["a", 3]}', "found 3 as prompt 2"),
        ("a.json", '{"prompts": "a"}', "found something else"),
        ("a.json", "7", "found something else"),
        ("a.jsonl", '{"text": "a"}\n{"text": ', ":2, found an error"),
        ("a.jsonl", '{"text": "a"}\n\n{"concept": "b"}', ":3, found "),
        ("a.jsonl", '["a"]', ":1, found "),
        ("a.jsonl", '{"text": 5}', ":1, found "),
        ("a.txt", b"\x89PNG\r\n\x1a\n\x00\xff\xfe", "expected UTF-8 text in"),
        ("a.json", '{"prompts": ["a"]}'.encode("utf-16"), "expected UTF-8 text in"),
    ],
)
def test_a_wrong_file_is_one_line(name: str, content: str | bytes, said: str, file: Callable[..., Path]) -> None:
    path = file(name, content)
    with pytest.raises(BadPrompts) as caught:
        read_prompts(path)
    assert said in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("what", ["missing", "directory"])
@pytest.mark.parametrize("option", ["prompts", "text"])
def test_what_cannot_be_read_is_said_before_the_model_is_loaded(what: str, option: str, tmp_path: Path) -> None:
    path = tmp_path / "missing.txt" if what == "missing" else tmp_path
    given = {"prompts": (PromptFile(path),)} if option == "prompts" else {"text": (path,)}
    request = CaptureRequest("no-such-model-anywhere", tmp_path / "store", **given)  # type: ignore[arg-type]
    with pytest.raises(BadPrompts, match=f"cannot read prompts from {re.escape(str(path))}: ") as caught:
        capture_run(request)
    assert "\n" not in str(caught.value) and not (tmp_path / "store").exists()


def test_an_empty_prompt_is_named() -> None:
    with pytest.raises(BadPrompts, match=r"there:7, found an empty prompt \(no token\)"):
        prompt_ids([PromptText("a", "w3", "there:6"), PromptText("a", "", "there:7")], TEXTS)


def test_half_a_surrogate_pair_is_refused() -> None:
    """JSON can spell it, but neither a tokenizer nor a file can hold it."""
    half = json.loads('"w3 \\ud800"')
    chats = Texts(special_tokenizer())
    for content in (half, (Message("user", half),)):
        with pytest.raises(BadPrompts, match="there:1: .*half a surrogate pair"):
            prompt_ids([PromptText("a", content, "there:1")], chats)


@pytest.mark.parametrize("concept", [0, None, ("a", "b"), "\ud800"])
def test_a_concept_is_text(concept: object, gpt2: LoadedModel, tmp_path: Path) -> None:
    expected = re.escape(f"that is a str without half surrogates, found {concept!r}")
    given: dict[Any, list[str]] = {concept: ["w3 w4"]}
    with pytest.raises(BadPrompts, match=expected):
        nf.capture(gpt2.model, TOKENIZER, given, store=tmp_path)
    label: Any = concept
    with pytest.raises(BadPrompts, match=expected), nf.record(gpt2.model, TOKENIZER, store=tmp_path, concept=label):
        pass
    with pytest.raises(BadPrompts, match=f"of there:1 {expected}"):
        prompt_ids([PromptText(label, "w3", "there:1")], TEXTS)
    assert list(tmp_path.iterdir()) == []


# Corpora


def corpus(first: int, count: int) -> list[int]:
    return [3 + (first + 7 * i) % 97 for i in range(count)]


def words(ids: list[int]) -> str:
    return " ".join(f"w{i}" for i in ids)


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (16, [16]), (17, [16, 1]), (40, [16, 16, 8])])
def test_windows_are_disjoint_and_the_last_is_kept(count: int, sizes: list[int]) -> None:
    ids = corpus(0, count)
    windows = corpus_windows(Path("book.txt"), words(ids), TEXTS, 16)
    assert [len(w.token_ids) for w in windows] == sizes
    assert [i for w in windows for i in w.token_ids] == ids
    assert {w.concept for w in windows} == {"book"} and windows[0].text == words(ids[:16])


def test_max_tokens_bounds_all_files_together(file: Callable[..., Path], gpt2: LoadedModel) -> None:
    one, two, three = (file(f"{n}.txt", words(corpus(n, 25))) for n in range(3))
    request = CaptureRequest("m", Path("s"), text=(one, two, three), context=10)
    for limit, sizes in [
        (None, [10, 10, 5, 10, 10, 5, 10, 10, 5]),
        (75, [10, 10, 5, 10, 10, 5, 10, 10, 5]),
        (38, [10, 10, 5, 10, 3]),
        (25, [10, 10, 5]),
        (7, [7]),
    ]:
        found = files_prompts(replace(request, max_tokens=limit), gpt2)
        assert [len(p.token_ids) for p in found] == sizes
    assert [p.concept for p in files_prompts(replace(request, max_tokens=38), gpt2)] == ["0", "0", "0", "1", "1"]


def test_windows_leave_room_for_new_tokens(file: Callable[..., Path], gpt2: LoadedModel) -> None:
    text = file("book.txt", words(corpus(0, 200)))
    request = CaptureRequest("m", Path("s"), text=(text,), generate=10)
    assert max(len(p.token_ids) for p in files_prompts(request, gpt2)) == 54  # of a context of 64
    for context in (55, 64):
        with pytest.raises(BadPrompts, match=f"between 1 and 64 minus 10 new tokens, found {context}"):
            files_prompts(replace(request, context=context), gpt2)
    with pytest.raises(BadPrompts, match="minus 64 new tokens"):
        files_prompts(replace(request, generate=64), gpt2)


def test_a_model_without_a_context_limit_may_write_as_much_as_it_likes(file: Callable[..., Path]) -> None:
    text = file("book.txt", words(corpus(0, 600)))
    mamba = in_memory(FAMILIES["mamba"](), TOKENIZER)
    found = files_prompts(CaptureRequest("m", Path("s"), text=(text,), generate=300), mamba)
    assert [len(p.token_ids) for p in found] == [256, 256, 88]


def test_an_empty_corpus_is_one_line() -> None:
    with pytest.raises(BadPrompts, match="expected text in .*, found none: the file is empty"):
        corpus_windows(Path("book.txt"), "", TEXTS, 16)


# Prompts and the model


def test_a_prompt_that_does_not_fit_is_named_or_cut(gpt2: LoadedModel) -> None:
    given = prompt_ids([PromptText("a", "w3 w4", "there:1"), PromptText("a", words(corpus(0, 61)), "there:2")], TEXTS)
    request = CaptureRequest("m", Path("s"), generate=3)
    assert fitting(given, request, gpt2) == given
    with pytest.raises(BadPrompts, match="there:2 has 61 tokens, which with 4 new ones .* context of 64: .*--truncate"):
        fitting(given, replace(request, generate=4), gpt2)
    cut = fitting(given, replace(request, generate=4, truncate=True), gpt2)
    assert [p.token_ids for p in cut] == [given[0].token_ids, given[1].token_ids[:60]]
    with pytest.raises(BadPrompts, match="there:1 has 2 tokens"):  # no room for even one
        fitting(given, replace(request, generate=64, truncate=True), gpt2)


def test_a_tokenizer_of_another_model_is_found_out(gpt2: LoadedModel) -> None:
    given = prompt_ids([PromptText("a", "w3", "there:1")], TEXTS)
    stranger = [replace(given[0], token_ids=(3, 101))]
    with pytest.raises(BadPrompts, match="from 0 to 100, .* found 101 in there:1: .* from another model's tokenizer"):
        fitting(stranger, CaptureRequest("m", Path("s")), gpt2)


def test_prompts_in_memory_are_held_to_the_same(tmp_path: Path) -> None:
    model = FAMILIES["gpt2"]()
    long = words(corpus(0, 65))
    for prompts, said in [
        ([long], "prompts prompt 1 has 65 tokens"),
        ({"a": ["w3"], "b": ["w4", long]}, "b prompt 2 has 65 tokens"),
        ({"a": ["w3", ""]}, "a prompt 2, found an empty prompt"),
        ([], "found none"),
        ({}, "found none"),
        ("w3 w4", "expected a list of prompts, found a single one, 'w3 w4'"),
        ({"a": "w3 w4"}, "expected a list of prompts"),
    ]:
        with pytest.raises(BadPrompts, match=re.escape(said)):
            nf.capture(model, TOKENIZER, prompts, store=tmp_path, run="r")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
    assert nf.capture(model, TOKENIZER, [long], store=tmp_path, run="r", truncate=True).tokens == 64


# Files with columns


CHAT = [{"role": "user", "content": "w3"}, {"role": "assistant", "content": "w4"}]
MESSAGES = (Message("user", "w3"), Message("assistant", "w4"))


def write_table(path: Path, rows: list[dict[str, object]]) -> None:
    """The same rows as JSONL, CSV, TSV or Parquet, by the file's ending."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="," if path.suffix == ".csv" else "\t")
            writer.writeheader()
            writer.writerows({k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows)


@pytest.mark.parametrize("ending", ["jsonl", "csv", "tsv", "parquet"])
def test_a_table_has_prompts_and_concepts_in_columns(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"mixed.{ending}"

    def read(
        rows: list[dict[str, object]], concept: str | None = None, columns: Columns | None = None
    ) -> list[tuple[str, object]]:
        write_table(path, rows)
        return [(p.concept, p.content) for p in read_prompts(path, concept, columns)]

    multiline = 'w3, "w4"\nw5'
    assert read([{"text": multiline, "concept": "one"}, {"text": "b", "concept": ""}]) == [
        ("one", multiline),
        ("mixed", "b"),
    ]
    assert read([{"prompt": "a", "label": 1, "other": "x"}]) == [("1", "a")]
    assert read([{"text": "a", "prompt": "b", "label": "l"}]) == [("l", "a")]
    assert read([{"text": "a", "concept": "c"}], "mine") == [("mine", "a")]
    assert read([{"q": "a", "topic": "t", "text": "b"}], columns=Columns("q", "topic")) == [("t", "a")]
    assert read([{"messages": CHAT, "label": "l"}]) == [("l", MESSAGES)]
    long = "w3 " * 60_000
    assert read([{"text": long}]) == [("mixed", long)]


def test_chats_stand_in_json_and_beside_texts(file: Callable[..., Path]) -> None:
    assert texts(file("one.json", json.dumps({"messages": CHAT}))) == [("one", MESSAGES)]
    mixed = {"prompts": ["a", CHAT, {"messages": CHAT, "concept": "c"}, {"text": "b"}]}
    assert texts(file("all.json", json.dumps(mixed))) == [
        ("all", "a"),
        ("all", MESSAGES),
        ("c", MESSAGES),
        ("all", "b"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "text,concept\na,b\nc\n", "2 columns as in the first line in {path}:3, found 1"),
        ("a.csv", 'text\n"a\nb"\nc,d\n', "{path}:4, found 2"),  # lines, not rows, are counted
        ("a.csv", 'text\n"a', "expected CSV in {path}:2, found an error"),
        ("a.csv", "text,text\na,b\n", "different names in {path}:1"),
        ("a.csv", "", "found none: the file is empty"),
        ("a.csv", "text\n", "found none: the file is empty"),
        ("a.csv", "words,concept\na,b\n", "'messages' or 'text' or 'prompt' of {path}:2, found ['words', 'concept']"),
        ("a.csv", b"text\n\xff\n", "expected UTF-8 text in {path}"),
        ("a.csv", 'messages\n"[1]"\n', "expected messages"),
        ("a.csv", "messages\nhello\n", "expected messages as JSON in {path}:2"),
        ("a.jsonl", '{"text": "a"}\n{"messages": []}', "{path}:2, found []"),
        ("a.jsonl", '{"messages": [{"role": "user"}]}', "among them"),
        ("a.jsonl", '{"messages": {"role": "user", "content": "a"}}', "expected messages"),
        ("a.jsonl", '{"text": "a", "concept": ["b"]}', "a concept's name in {path}:1"),
        ("a.parquet", "text\na\n", "expected a Parquet file in {path}"),
    ],
)
def test_a_wrong_table_is_one_line(name: str, content: str | bytes, said: str, file: Callable[..., Path]) -> None:
    path = file(name, content)
    with pytest.raises(BadPrompts) as caught:
        read_prompts(path)
    assert said.format(path=path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", ["jsonl", "csv", "tsv", "parquet"])
@pytest.mark.parametrize("absent", ["left out", "empty"])
def test_rows_of_one_file_may_have_their_prompts_in_different_columns(ending: str, absent: str, tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "w3"}]
    rows: list[dict[str, object]] = [
        {"messages": chat, "text": None, "prompt": None, "concept": "a"},
        {"messages": None, "text": "w4", "prompt": None, "concept": None},
        {"messages": None, "text": None, "prompt": "w5", "concept": "b"},
    ]
    if absent == "empty":
        none: dict[str, Any] = {"messages": [] if ending in ("jsonl", "parquet") else ""}
        rows = [{k: none.get(k, "") if v is None else v for k, v in row.items()} for row in rows]
    path = tmp_path / f"mixed.{ending}"
    write_table(path, rows)
    found = [(prompt.concept, prompt.content) for prompt in read_prompts(path)]
    assert found == [("a", (Message("user", "w3"),)), ("mixed", "w4"), ("b", "w5")]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_a_row_that_is_wrong_is_named(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{ending}"
    place = {"jsonl": f"{path}:2", "csv": f"{path}:3", "parquet": f"{path} row 2"}[ending]
    write_table(path, [{"text": "a", "n": 1}, {"text": "", "n": 2}])
    with pytest.raises(BadPrompts, match=re.escape(f"expected text in {place}, found an empty prompt")):
        prompt_ids(read_prompts(path), TEXTS)
    for columns, said in [
        (Columns("words"), "expected a prompt in 'words' of"),
        (Columns("text", "topic"), "expected a concept in 'topic' of"),
    ]:
        with pytest.raises(BadPrompts, match=said):
            read_prompts(path, None, columns)
    if ending != "csv":  # where every value is text
        with pytest.raises(BadPrompts, match="expected text in 'n' of"):
            read_prompts(path, None, Columns("n"))
