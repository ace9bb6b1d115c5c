"""Text of many scripts from a model's tokens to every place where people read it: whole characters, no U+FFFD."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers_of_kinds import KINDS
from transformers import GPT2Config, GPT2LMHeadModel

import nfinspect as nf
from nfinspect.analysis.neuron import neuron_detail
from nfinspect_store.reader import RunFile
from nfinspect_store.token_text import whole_text

PROMPTS = ["中文汉字測試，日本語のテキスト。", "naïve 😀 café 👩‍👩‍👧‍👦!", "हिन्दी पाठ and plain words", "Привет, мир"]


def model(vocabulary: int) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 160}
    return GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, bos_token_id=1, eos_token_id=2, **sizes)).eval()


@pytest.fixture(params=["byte level", "byte fallback"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> nf.Run:
    tokenizer = KINDS[request.param]()
    return nf.capture(model(len(tokenizer)), tokenizer, PROMPTS, store=tmp_path, run="scripts", generate=3)


def test_tokens_have_their_bytes_and_prompts_their_text(run: nf.Run) -> None:
    with RunFile.open(run.path) as file:
        for i, prompt in enumerate(PROMPTS):
            rows = file.prompt_tokens(i)
            size = int((~rows.generated).sum())
            assert whole_text(rows.token[:size], rows.raw[:size]).text == prompt
            assert not any("\ufffd" in token for token in rows.token)
            assert any(rows.raw) == (not prompt.isascii())
        sql = "SELECT count(*) FROM tokens WHERE bytes IS NULL AND token LIKE '<%>' AND generated = false"
        assert file.sql(sql).fetchall() == [(0,)]


def test_every_example_has_whole_characters_and_marks_its_tokens(run: nf.Run) -> None:
    with RunFile.open(run.path) as file:
        texts = {i: whole_text(r.token, r.raw).text for i in range(4) for r in [file.prompt_tokens(i)]}
        for neuron in range(12):
            detail = neuron_detail(file, f"L0/N{neuron}")
            for one in (*detail.top_examples, *detail.min_examples, *detail.random_examples):
                assert "\ufffd" not in one.text and one.text in texts[one.prompt_idx]
                token = one.window[one.at]
                marked = one.text[token.start : token.stop]
                own = file.tokens_at([one.token_idx])
                assert own.token[0] in marked or (own.raw[0] or b"?") in marked.encode()
                assert "".join(one.pieces()) == one.text and one.pieces()[one.at] == marked
                # No window begins or ends within a character: what is loose there was never finished.
                inside = texts[one.prompt_idx].index(one.text)
                assert "<" not in one.text or "<" in texts[one.prompt_idx][inside:]
            assert "\ufffd" not in json.dumps(detail.to_json(), ensure_ascii=False)


def test_what_nf_record_stores_is_the_text(tmp_path: Path) -> None:
    tokenizer = KINDS["byte level"]()
    reader = model(len(tokenizer))
    with nf.record(reader, tokenizer, store=tmp_path, run="r") as recording, torch.no_grad():
        for prompt in PROMPTS:
            reader(torch.tensor([tokenizer(prompt)["input_ids"]]))
    found = recording.run.sql("SELECT text FROM prompts ORDER BY prompt_idx").fetchall()
    assert [text for (text,) in found] == PROMPTS


def test_vocabulary_pieces_are_readable(tmp_path: Path) -> None:
    from nfinspect.experiments.lens import logit_lens
    from nfinspect.experiments.logits import neuron_logits
    from nfinspect.models import in_memory

    tokenizer = KINDS["byte level"]()
    loaded = in_memory(model(len(tokenizer)), tokenizer)
    found = neuron_logits(loaded, "L0/N3", top=len(tokenizer))
    assert any(effect.token == "<E4>" for effect in found.promoted)
    lens = logit_lens(loaded, "中文 a", positions=True)
    assert "\ufffd" not in json.dumps([found.to_json(), lens.to_json()], ensure_ascii=False)


def test_an_ngram_of_pieces_is_shown_whole(run: nf.Run) -> None:
    from nfinspect.analysis.ngram_ids import token_texts

    with RunFile.open(run.path) as file:
        ids = file.sql("SELECT token_id FROM tokens WHERE prompt_idx = 0 ORDER BY token_idx").fetchall()
        texts = token_texts(file, [i for (i,) in ids])
    first = [texts[i] for (i,) in ids]
    assert whole_text([t for t, _ in first], [raw for _, raw in first]).text.lstrip().startswith(PROMPTS[0])


def test_the_app_shows_whole_characters(run: nf.Run) -> None:
    from nfinspect.tui.glyphs import UNICODE
    from nfinspect.tui.neuron_text import example_cell
    from nfinspect.tui.session import Session
    from nfinspect.tui.token_lines import laid_out
    from nfinspect.tui.walking import TokenWalk
    from nfinspect_store.addresses import parse_address

    session = Session.open(run.path)
    part = session.ask_walk(TokenWalk.beginning, 0).parts[0]
    shown = "".join(cell.text for line in laid_out(part, 200, UNICODE, wrote_before=False) for cell in line)
    assert part.whole.text.startswith(PROMPTS[0]) and PROMPTS[0].replace("\n", "") in shown.replace("␊", "")
    assert "\ufffd" not in shown
    for example in session.neuron(parse_address("L0/N3")).top_examples:
        assert "\ufffd" not in example_cell(example, 60, 1.0, UNICODE).text
