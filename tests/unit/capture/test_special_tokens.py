"""What stands before a text: the one rule about special tokens, and every command that tokenises held to it."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from families import FAMILIES
from words import special_tokenizer, word_tokenizer

import nfinspect as nf
from nfinspect.capturing.errors import BadPrompts, CannotResume
from nfinspect.capturing.prompts import corpus_windows
from nfinspect.cli import main
from nfinspect.experiments.documents import tokenised
from nfinspect.experiments.perplexity import Scorer, chosen_context, mean_nll
from nfinspect.models import CannotTokenize, Message, Texts, in_memory
from nfinspect.models.tokenizing import Bos, put_before

BOS, EOS = 1, 2
AROUND = {"nothing": "$A", "bos": "<bos> $A", "eos": "$A <eos>", "both": "<bos> $A <eos>"}
EXPECTED = {
    ("nothing", "auto"): [3, 4],
    ("nothing", "each"): [BOS, 3, 4],
    ("nothing", "none"): [3, 4],
    ("bos", "auto"): [BOS, 3, 4],
    ("bos", "each"): [BOS, 3, 4],
    ("bos", "none"): [3, 4],
    ("eos", "auto"): [3, 4],
    ("eos", "each"): [BOS, 3, 4],
    ("eos", "none"): [3, 4],
    ("both", "auto"): [BOS, 3, 4],
    ("both", "each"): [BOS, 3, 4],
    ("both", "none"): [3, 4],
}


@pytest.mark.parametrize(("around", "bos"), EXPECTED)
def test_bos_stands_before_a_text_once_and_eos_after_none(around: str, bos: Bos) -> None:
    texts = Texts(special_tokenizer(AROUND[around]), bos)
    expected = EXPECTED[around, bos]
    assert list(texts.text("w3 w4").token_ids) == expected and not texts.text("w3 w4").begins
    assert texts.begin == tuple(expected[:-2])
    # A text that begins with it by itself, as one that a chat template has made: what it says, once.
    begun = texts.text("<bos> w3 w4")
    assert list(begun.token_ids) == [BOS, 3, 4] and begun.begins == bool(texts.begin)
    assert texts.text("").token_ids == ()


@pytest.mark.parametrize("prefix", ["<bos> <eos> $A", "<bos> <bos> $A <eos>"])
def test_whatever_a_tokenizer_puts_before_a_text_stands_there_once(prefix: str) -> None:
    tokenizer = special_tokenizer(prefix)
    begin = put_before(tokenizer)
    assert len(begin) == 2 and Texts(tokenizer).text("w5").token_ids == (*begin, 5)


def test_each_needs_a_token_to_put() -> None:
    tokenizer = word_tokenizer()
    tokenizer.bos_token = None
    with pytest.raises(CannotTokenize, match="--bos each, found one without"):
        Texts(tokenizer, "each")
    with pytest.raises(CannotTokenize, match="found 'twice'"):
        Texts(tokenizer, "twice")  # type: ignore[arg-type]


def test_a_chat_goes_through_the_template_with_the_roles_of_its_tokens() -> None:
    texts = Texts(special_tokenizer("<bos> $A <eos>"))
    said = [Message("user", "w3 w4"), Message("assistant", "w5")]
    read = texts.messages(said, answer=False)
    assert read.token_ids == (BOS, 90, 3, 4, EOS, 91, 5, EOS)
    assert read.roles == ("user",) * 5 + ("assistant",) * 3 and not read.begins
    asked = texts.messages(said[:1], answer=True)
    assert asked.token_ids == (BOS, 90, 3, 4, EOS, 91) and asked.roles == ("user",) * 5 + ("assistant",)
    assert Texts(special_tokenizer(), chat=True).text("w3 w4", answer=True) == asked


def test_a_template_that_takes_no_lone_system_message_or_rewrites_the_past() -> None:
    picky = (
        "{% if messages[0].role == 'system' and messages | length == 1 %}{{ raise_exception('alone') }}{% endif %}"
        "{% for m in messages %}{{ 'w90 ' + m.content + ' ' }}{% endfor %}"
    )
    said = [Message("system", "w7"), Message("user", "w3")]
    assert Texts(special_tokenizer(chat=picky)).messages(said, answer=False).roles == ("user",) * 5
    with pytest.raises(CannotTokenize, match="accepts, found .*alone"):
        Texts(special_tokenizer(chat=picky)).messages(said[:1], answer=False)
    counting = "{{ 'w' ~ (50 + messages | length) }}{% for m in messages %}{{ ' ' + m.content }}{% endfor %}"
    read = Texts(special_tokenizer(chat=counting)).messages(said, answer=False)
    assert read.token_ids == (BOS, 52, 7, 3) and read.roles is None


def test_without_a_template_a_chat_is_refused() -> None:
    with pytest.raises(CannotTokenize, match="found one without") as caught:
        Texts(special_tokenizer(chat=None), chat=True)
    assert "\n" not in str(caught.value) and caught.value.exit_status == 2


# Corpora


@pytest.mark.parametrize("text", ["w3 w4 w5 w6 w7 w8 w9", "<bos> w3 w4 w5 w6 w7 w8 w9"])
def test_every_window_of_a_corpus_begins_with_bos(text: str) -> None:
    book = Path("book.txt"), text, Texts(special_tokenizer("<bos> $A <eos>"))
    windows = corpus_windows(*book, 4)
    assert [w.token_ids for w in windows] == [(BOS, 3, 4, 5), (BOS, 6, 7, 8), (BOS, 9)]
    assert [w.text for w in windows] == ["w3 w4 w5", "w6 w7 w8", "w9"]
    assert [w.begins for w in windows] == [text.startswith("<"), False, False]
    assert [w.token_ids for w in corpus_windows(*book, 4, max_tokens=4)] == [(BOS, 3, 4, 5), (BOS, 6)]
    with pytest.raises(BadPrompts, match="--context of 2 or more, found 1: every window begins with '<bos>'"):
        corpus_windows(*book, 1)


@pytest.mark.parametrize(("context", "stride"), [(8, 4), (8, 8), (8, 3), (100, 50)])
def test_perplexity_has_bos_in_every_window_and_counts_none(context: int, stride: int) -> None:
    """Against predicting each token by itself, with what the protocol shows it: BOS, then the window so far."""
    model = FAMILIES["llama"]()
    loaded = in_memory(model, special_tokenizer())
    rng = np.random.default_rng(5)
    text = " ".join(f"w{i}" for i in rng.integers(3, 101, 30))
    corpus = tokenised(text, "words", Texts(loaded.tokenizer))
    ids = corpus.token_ids.tolist()
    assert corpus.begin == (BOS,) and BOS not in ids and len(ids) == 30
    loaded_limit = loaded.max_context
    assert loaded_limit is not None
    if context > loaded_limit:
        context, stride = loaded_limit, loaded_limit // 2
    context, stride = chosen_context(loaded, context, stride, corpus.begin)
    scorer = Scorer(loaded, corpus.token_ids, context, stride, None, corpus.begin)
    expected, start = [], 0
    for i, target in enumerate(ids):
        while i >= start + context - 1:
            start += stride
        with torch.no_grad():
            logits = model(torch.tensor([[BOS, *ids[start:i]]])).logits[0, -1]
        expected.append(-float(torch.log_softmax(logits.double(), -1)[target]))
    assert scorer.target.tolist() == list(range(30))  # the first one, too: BOS stands before it
    np.testing.assert_allclose(scorer.nll(), expected, rtol=1e-4, atol=1e-5)


def test_windows_that_do_not_overlap_stay_so_beside_bos() -> None:
    loaded = in_memory(FAMILIES["llama"](), special_tokenizer())
    assert chosen_context(loaded, 8, 8, (BOS,)) == (8, 7)
    assert chosen_context(loaded, 8, 4, (BOS,)) == (8, 4)
    assert chosen_context(loaded, 8, 8) == (8, 8)


# Captures


def token_ids(run: nf.Run) -> list[list[int]]:
    query = "SELECT list(token_id ORDER BY token_idx) FROM tokens GROUP BY prompt_idx ORDER BY prompt_idx"
    return [ids for (ids,) in run.sql(query).fetchall()]


def test_generation_goes_on_from_the_text_and_not_from_its_end(tmp_path: Path) -> None:
    """A tokenizer that appends EOS: the model writes after the text, and `last` reads the text's last token."""
    model = FAMILIES["llama"]()
    for number, text in enumerate(["w3 w4 w5", "w30 w9"]):
        plain = nf.capture(model, special_tokenizer(), [text], store=tmp_path, run=f"bos{number}", generate=3)
        both = nf.capture(
            model, special_tokenizer(AROUND["both"]), [text], store=tmp_path, run=f"both{number}", generate=3
        )
        assert token_ids(plain) == token_ids(both)
        read = nf.capture(model, special_tokenizer(AROUND["both"]), [text], store=tmp_path, run=f"read{number}")
        assert token_ids(read)[0][-1] == int(text.split()[-1][1:])


def test_prompts_in_memory_may_be_texts_chats_and_token_ids(tmp_path: Path) -> None:
    model, tokenizer = FAMILIES["llama"](), special_tokenizer()
    chat = [{"role": "user", "content": "w3"}, {"role": "assistant", "content": "w4"}]
    prompts = {"a": ["w3 w4", chat, [7, 8, 9]], "b": [torch.tensor([5, 6]), np.array([BOS, 5]), (10,)]}
    run = nf.capture(model, tokenizer, prompts, store=tmp_path, run="mixed")  # type: ignore[arg-type]
    # What is put before texts is not put before token ids: they are what the model is to read.
    assert token_ids(run) == [[BOS, 3, 4], [BOS, 90, 3, EOS, 91, 4, EOS], [7, 8, 9], [5, 6], [BOS, 5], [10]]
    assert [p for (p,) in run.sql("SELECT text FROM prompts ORDER BY prompt_idx").fetchall()][2:4] == [
        "w7 w8 w9",
        "w5 w6",
    ]
    chats = nf.capture(model, tokenizer, ["w3", chat], store=tmp_path, run="chats", chat=True)
    assert token_ids(chats) == [[BOS, 90, 3, EOS], [BOS, 90, 3, EOS, 91, 4, EOS]]
    rows = nf.capture(model, tokenizer, torch.tensor([[5, 6], [7, 8]]), store=tmp_path, run="rows")
    assert token_ids(rows) == [[5, 6], [7, 8]]


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ([[]], "empty prompt"),
        ([[3, 101]], "from 0 to 100, the model's vocabulary, found 101 in prompts prompt 1"),
        ([[-1]], "found -1"),
        ([torch.tensor([3.0])], "expected token ids, a flat list of whole numbers, as prompts prompt 1, found 3.0"),
        ([torch.tensor([[3]])], "found [3]"),
        ([[3, "w4"]], "found w4"),
        ([[True]], "found True"),
        ([7], "single one"),
        ([3, 4], "found a single one"),
        (torch.tensor([3, 4]), "found a single one"),
        ([{"role": "user", "content": "w3"}], "found a single one"),
        ([[{"role": "user"}]], "expected messages"),
        ([[{"role": "user", "content": None}]], "expected messages"),
        ([[{"role": "user", "content": "w3"}, "w4"]], "expected messages"),
        ([None], "found NoneType"),
        ([b"w3"], "found bytes"),
    ],
)
def test_prompts_in_memory_that_are_none_end_in_one_line(prompts: object, said: str, tmp_path: Path) -> None:
    with pytest.raises(BadPrompts) as caught:
        nf.capture(FAMILIES["llama"](), special_tokenizer(), prompts, store=tmp_path, run="r")  # type: ignore[arg-type]
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_text_that_begins_with_bos_itself_is_told(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="1 of 2 texts begin with '<bos>' already, such as prompts prompt 2") as told:
        run = nf.capture(FAMILIES["llama"](), special_tokenizer(), ["w3", "<bos> w4"], store=tmp_path, run="r")
    assert told[0].filename == __file__
    assert token_ids(run) == [[BOS, 3], [BOS, 4]]


def test_a_prompt_that_ends_is_told_where_the_model_goes_on_after_it(tmp_path: Path) -> None:
    model = FAMILIES["llama"]()
    nf.capture(model, special_tokenizer(), ["w3 <eos>"], store=tmp_path, run="read")
    with pytest.warns(UserWarning, match="already end with an end-of-sequence token, such as prompts prompt 1"):
        nf.capture(model, special_tokenizer(), ["w3 <eos>"], store=tmp_path, run="written", generate=1)


# Commands


@pytest.fixture(scope="module")
def llama_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama whose tokenizer puts BOS and EOS around a text, and has a chat template."""
    path = tmp_path_factory.mktemp("special") / "llama"
    FAMILIES["llama"]().save_pretrained(path)
    special_tokenizer(AROUND["both"]).save_pretrained(path)
    return path


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def nfinspect(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("NFINSPECT_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "begun.txt").write_text("<bos> w3 w4 w5 w6 w7 w8 w9")
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": "w3 w4"}]}) + "\n")

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main([str(a) for a in arguments])
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return run


TOLD = "begin with '<bos>' already"


@pytest.mark.parametrize(
    ("bos", "chat", "expected"),
    [("auto", False, [BOS, 3, 4]), ("none", False, [3, 4]), ("auto", True, [BOS, 90, 3, 4, EOS, 91])],
)
def test_text_and_lens_read_what_the_rule_says(
    nfinspect: Command, llama_dir: Path, bos: str, chat: bool, expected: list[int]
) -> None:
    options = ["--bos", bos, *(["--chat"] if chat else []), "--json"]
    status, out, err = nfinspect("text", "w3 w4", "--model", llama_dir, *options)
    assert status == 0 and [t["token_id"] for t in json.loads(out)["tokens"]] == expected, err
    status, out, err = nfinspect("logits", llama_dir, "--lens", "w3 w4", "--positions", *options)
    assert status == 0 and json.loads(out)["tokens"] == len(expected), err
    if bos == "auto" and not chat:
        _, out, _ = nfinspect("text", "<bos> w3 w4", "--model", llama_dir, "--json")
        found = json.loads(out)
        assert [t["token_id"] for t in found["tokens"]] == expected
        assert (
            TOLD in found["neural_firing_analysis"]["notes"][0] if "notes" in found["neural_firing_analysis"] else out
        )
        _, out, err = nfinspect("logits", llama_dir, "--lens", "<bos> w3 w4", "--json")
        assert json.loads(out)["tokens"] == 3 and TOLD in err and TOLD in json.loads(out)["notes"][0]


def test_captures_attention_and_ablation_read_what_the_rule_says(
    nfinspect: Command, llama_dir: Path, tmp_path: Path
) -> None:
    status, _, err = nfinspect("capture", llama_dir, "--text", "begun.txt", "--context", "4", "--run", "r")
    assert status == 0 and TOLD in err and "such as begun.txt token 0" in err
    with nf.open_run(tmp_path / "store" / "r.duckdb") as run:
        assert token_ids(run) == [[BOS, 3, 4, 5], [BOS, 6, 7, 8], [BOS, 9]]
        assert (run.info.settings["bos"], run.info.settings["chat"]) == ("auto", False)
    status, out, err = nfinspect("attention", llama_dir, "--text", "begun.txt", "--max-length", "4", "--json")
    assert status == 0 and TOLD in err and json.loads(out)["tokens"] == 10
    status, out, err = nfinspect("ablate", llama_dir, "--text", "begun.txt", "--context", "4", "--json")
    found = json.loads(out)
    assert status == 0 and TOLD in err and (found["tokens"], found["begin"]) == (7, [BOS])
    _, out, err = nfinspect("ablate", llama_dir, "--text", "begun.txt", "--context", "4", "--bos", "none", "--json")
    without = json.loads(out)
    # Nothing is put: the text's own stands in it, where it stands.
    assert (without["tokens"], without["begin"]) == (7, []) and TOLD not in err
    assert not math.isclose(without["baseline"]["nll"], found["baseline"]["nll"])


def test_chats_from_a_file_are_captured_with_their_roles_and_asked_to_answer(
    nfinspect: Command, llama_dir: Path, tmp_path: Path
) -> None:
    status, _, err = nfinspect("capture", llama_dir, "--prompts", "chat.jsonl", "--generate", "1", "--run", "r")
    assert status == 0 and TOLD not in err, err
    with nf.open_run(tmp_path / "store" / "r.duckdb") as run:
        assert token_ids(run)[0][:-1] == [BOS, 90, 3, 4, EOS, 91]
        roles = [role for (role,) in run.sql("SELECT role FROM tokens ORDER BY token_idx").fetchall()]
        assert roles == ["user"] * 5 + ["assistant"] * 2
    word_tokenizer().save_pretrained(llama_dir.parent / "plain")
    FAMILIES["llama"]().save_pretrained(llama_dir.parent / "plain")
    status, _, err = nfinspect("capture", llama_dir.parent / "plain", "--prompts", "chat.jsonl")
    assert status == 1 and "chat.jsonl:1: expected a tokenizer with a chat template, found one without" in err
    status, _, err = nfinspect("capture", llama_dir, "--text", "begun.txt", "--chat")
    assert status == 1 and "windows of a corpus are not chats" in err
    status, _, err = nfinspect("text", "w3", "--model", llama_dir.parent / "plain", "--chat")
    assert status == 2 and "chat template" in err


def test_a_capture_begun_with_bos_goes_on_with_it_only(llama_dir: Path, tmp_path: Path) -> None:
    from nfinspect.capturing.request import CaptureRequest
    from nfinspect.capturing.session import capture_run
    from nfinspect_store.writer import RunWriter

    (tmp_path / "p.txt").write_text("w3 w4\n")
    from nfinspect.capturing.request import PromptFile

    request = CaptureRequest(str(llama_dir), tmp_path, prompts=(PromptFile(tmp_path / "p.txt"),), run="r")
    path = capture_run(request)
    writer = RunWriter.reopen(path)
    writer.mark("interrupted")
    writer.close()
    from dataclasses import replace

    with pytest.raises(CannotResume, match="bos: 'auto' then, 'none' now"):
        capture_run(replace(request, bos="none", resume=True))
    assert mean_nll(np.array([1.0])) == 1.0
