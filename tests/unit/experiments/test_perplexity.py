"""Perplexity, against predicting one token after the other."""

import math

import numpy as np
import pytest
import torch
from families import FAMILIES, VOCAB, gpt2, llama
from words import word_tokenizer

from nfinspect.experiments.documents import tokenised
from nfinspect.experiments.perplexity import (
    Scorer,
    Window,
    chosen_context,
    mean_nll,
    perplexity,
    sliding_windows,
)
from nfinspect.models import LoadedModel, Texts, UnknownToken, in_memory
from nfinspect_store.errors import RequestError
from nfinspect_store.paths import read_text


def loaded(family: str) -> LoadedModel:
    return in_memory(FAMILIES[family](), word_tokenizer())


def some_ids(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, VOCAB, count)


def one_by_one(model: LoadedModel, ids: np.ndarray, context: int, stride: int) -> dict[int, float]:
    """The NLL of every predicted token, from a pass of its own over what stands before it in its window."""
    found: dict[int, float] = {}
    starts = [s for s in range(0, len(ids), stride) if s == 0 or s - stride + context < len(ids)]
    for start in starts:
        for target in range(start + 1, min(start + context, len(ids))):
            if target not in found:
                with torch.no_grad():
                    logits = model.model(torch.as_tensor(ids[None, start:target]), use_cache=False).logits[0, -1]
                found[target] = -float(torch.log_softmax(logits.double(), dim=-1)[int(ids[target])])
    return found


@pytest.mark.parametrize(
    ("family", "context", "stride"),
    [
        ("gpt2", 8, 4),
        ("gpt2", 8, 8),
        ("gpt2", 8, 3),
        ("gpt2", 40, 20),
        ("opt", 6, 3),
        ("gemma2", 6, 3),
        ("mamba", 6, 3),
    ],
)
def test_every_token_is_predicted_from_its_window(family: str, context: int, stride: int) -> None:
    model, ids = loaded(family), some_ids(19)
    expected = one_by_one(model, ids, context, stride)
    scorer = Scorer(model, ids, context, stride)
    nll = scorer.nll()
    assert scorer.target.tolist() == sorted(expected)
    np.testing.assert_allclose(nll, [expected[i] for i in scorer.target], rtol=2e-6, atol=2e-6)
    assert mean_nll(nll) == pytest.approx(sum(expected.values()) / len(expected), rel=1e-6)


def test_windows_are_those_of_the_protocol() -> None:
    assert sliding_windows(10, 4, 2) == [Window(0, 4, 1), Window(2, 6, 4), Window(4, 8, 6), Window(6, 10, 8)]
    assert sliding_windows(9, 4, 4) == [Window(0, 4, 1), Window(4, 8, 5)]  # nothing stands before the ninth token
    assert sliding_windows(3, 4, 2) == [Window(0, 3, 1)]
    assert sliding_windows(11, 4, 2)[-1] == Window(8, 11, 10)


@pytest.mark.parametrize(("tokens", "context", "stride"), [(100, 16, 5), (100, 16, 16), (2, 8, 4), (33, 32, 31)])
def test_every_token_is_predicted_at_most_once(tokens: int, context: int, stride: int) -> None:
    targets = [i for w in sliding_windows(tokens, context, stride) for i in range(w.first, w.stop)]
    assert targets == sorted(set(targets))
    assert 0 not in targets
    missing = set(range(1, tokens)) - set(targets)
    assert missing == (set(range(context, tokens, context)) if stride == context else set())


def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary() -> None:
    model = llama()
    torch.nn.init.zeros_(model.lm_head.weight)
    scorer = Scorer(in_memory(model, word_tokenizer()), some_ids(50), 16, 8)
    assert perplexity(mean_nll(scorer.nll())) == pytest.approx(VOCAB, rel=1e-6)


def test_batches_change_nothing_but_the_number_of_passes() -> None:
    model, ids = loaded("gpt2"), some_ids(80)
    alone = Scorer(model, ids, 8, 4, batch_size=1)
    together = Scorer(model, ids, 8, 4)
    assert alone.passes == len(sliding_windows(80, 8, 4)) > together.passes
    np.testing.assert_allclose(alone.nll(), together.nll(), rtol=1e-6)
    ticks: list[tuple[int, int]] = []
    together.nll(lambda done, total: ticks.append((done, total)), 5, 30)
    assert ticks == [(5 + i + 1, 30) for i in range(together.passes)]


def test_a_model_that_gives_all_logits_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = loaded("gpt2"), some_ids(30)
    expected = Scorer(model, ids, 8, 4).nll()
    forward = model.model.forward
    monkeypatch.setattr(model.model, "forward", lambda input_ids, use_cache: forward(input_ids, use_cache=use_cache))
    np.testing.assert_allclose(Scorer(model, ids, 8, 4).nll(), expected, rtol=1e-6)


def test_what_does_not_fit_is_refused() -> None:
    model = loaded("gpt2")  # 64 positions
    assert chosen_context(model, None, None) == (64, 32)
    assert chosen_context(model, 9, None) == (9, 4)
    assert chosen_context(loaded("mamba"), None, None) == (1024, 512)
    with pytest.raises(RequestError, match="from 2 to 64, the model's own, found 65"):
        chosen_context(model, 65, None)
    with pytest.raises(RequestError, match="--stride from 1 to the context, 8, found 9"):
        chosen_context(model, 8, 9)
    for ids, begin in (([5, VOCAB], ()), ([-1, 5], ()), ([5, 6], (VOCAB,))):
        with pytest.raises(UnknownToken, match="come from another model's tokenizer"):
            Scorer(model, np.array(ids), 8, 4, begin=begin)


def test_beyond_a_float_there_is_no_perplexity() -> None:
    assert perplexity(0.0) == 1.0
    assert perplexity(800.0) is None
    assert perplexity(math.log(50)) == pytest.approx(50)


TEXT = "w5 w6\nw7\n\nw8 w9\n \t\n\nw10\n"


def test_a_document_is_a_block_between_blank_lines() -> None:
    corpus = tokenised(TEXT, "text", Texts(word_tokenizer()))
    assert corpus.token_ids.tolist() == [5, 6, 7, 8, 9, 10]
    assert corpus.document is not None
    assert corpus.document.tolist() == [0, 0, 0, 1, 1, 2]
    assert tokenised(TEXT, "text", Texts(word_tokenizer()), 4).token_ids.tolist() == [5, 6, 7, 8]
    assert tokenised("w5 w6\nw7", "text", Texts(word_tokenizer())).document.tolist() == [0, 0, 0]  # type: ignore[union-attr]


def test_texts_that_cannot_be_read_are_refused(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RequestError, match="nowhere.txt"):
        read_text(tmp_path / "nowhere.txt", "a text", RequestError)
    (tmp_path / "bytes.txt").write_bytes(b"w5 \xff")
    with pytest.raises(RequestError, match="UTF-8"):
        read_text(tmp_path / "bytes.txt", "a text", RequestError)
    with pytest.raises(RequestError, match="two tokens or more in text, found 1"):
        tokenised("w5", "text", Texts(word_tokenizer()))


def test_the_model_is_left_as_it_was() -> None:
    model = gpt2()
    Scorer(in_memory(model, word_tokenizer()), some_ids(20), 8, 4).nll()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
