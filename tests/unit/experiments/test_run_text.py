"""A run's own text for its model: which prompts, and windows as they were captured."""

from pathlib import Path

import numpy as np
import pytest

from nfinspect.capturing.arrays import ArrayPrompt, write_run
from nfinspect.experiments.perplexity import sliding_windows
from nfinspect.experiments.run_text import TooFewSequences, spread_prompts, windows
from nfinspect_store.reader import RunFile
from nfinspect_store.types import Layer


def run_of(tmp_path: Path, lengths: list[int]) -> RunFile:
    """A run whose prompt i has the token ids 100 i, 100 i + 1, …"""
    path = tmp_path / "run.duckdb"
    write_run(
        path,
        layers=[Layer(0, "mlp", 0, "h.0.mlp", 2, "relu", "positive")],
        prompts=[
            ArrayPrompt("a", "text", [100 * i + j for j in range(size)], ["w"] * size, size)
            for i, size in enumerate(lengths)
        ],
        values=lambda prompt, layer: np.ones((lengths[prompt], 2), np.float32),
    )
    return RunFile.open(path)


def test_prompts_are_spread_over_the_run(tmp_path: Path) -> None:
    with run_of(tmp_path, [3, 1, 3, 3, 3, 3]) as run:
        assert [ids[0] for ids in spread_prompts(run, 9)] == [0, 300, 500]  # the one of a single token is none
        assert spread_prompts(run, 1) == [[0, 1, 2]]
        assert spread_prompts(run, 1000) == [[100 * i, 100 * i + 1, 100 * i + 2] for i in (0, 2, 3, 4, 5)]


def test_windows_are_the_sequences_of_the_greatest_length(tmp_path: Path) -> None:
    with run_of(tmp_path, [4, 2, *[4] * 20, 3]) as run:
        found = windows(run, "mine", 1000)
        assert found.length == 4 and found.corpus.name == "the run mine"
        ids = found.corpus.token_ids.reshape(-1, 4)
        assert ids[:, 0].tolist() == [0, *range(200, 2200, 100)]
        assert (ids - ids[:, :1] == np.arange(4)).all()
        assert found.corpus.document is not None
        assert found.corpus.document.tolist() == [i for i in range(21) for _ in range(4)]
        # With a stride as long as the context each is read by itself.
        read = sliding_windows(len(found.corpus.token_ids), 4, 4)
        assert [(w.start, w.stop, w.first) for w in read] == [(4 * i, 4 * i + 4, 4 * i + 1) for i in range(21)]
        fewer = windows(run, "mine", 44)
        assert len(fewer.corpus.token_ids) == 44 and fewer.corpus.token_ids[-4] == 2100
        assert windows(run, "mine", 44).corpus.sha256 == fewer.corpus.sha256 != found.corpus.sha256


@pytest.mark.parametrize("lengths", [[5, *[4] * 20], [1] * 20])
def test_too_few_windows_are_refused(tmp_path: Path, lengths: list[int]) -> None:
    with run_of(tmp_path, lengths) as run, pytest.raises(TooFewSequences, match="expected 10 or more sequences"):
        windows(run, "mine", 100)


def test_a_run_of_single_tokens_has_no_prompt_to_read(tmp_path: Path) -> None:
    with run_of(tmp_path, [1, 1]) as run, pytest.raises(TooFewSequences, match="two tokens or more"):
        spread_prompts(run, 10)
