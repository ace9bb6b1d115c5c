"""Some families of the sweep, one of each kind, in every run of the tests; `make test-models` goes through all."""

import sys
from pathlib import Path

import pytest
import transformers

sys.path.insert(0, str(Path(__file__).parent))

import sweep  # noqa: E402
import tiny  # noqa: E402

SHORT = (
    "bart",  # a decoder of an encoder-decoder: left padding is inexact
    "bert",  # sees ahead
    "deepseek_v3",  # shared experts beside those chosen
    "deepseek_v4",  # several streams between the blocks
    "gemma3",  # multimodal: generation hands embeddings on
    "git",  # generation loses the mask
    "gpt_oss",  # experts with a gate of their own
    "jamba",  # mixers, attention, dense and sparse MLPs
    "llama",
    "nemotron_h",  # experts without a gate, each layer of one kind
    "modernbert-decoder",  # what it calls its decoder is the vocabulary projection
    "qwen3_5_text",  # linear attention with a gate
    "recurrent_gemma",  # a state that takes padding in
    "xlm",  # no blocks of one module each
    "zamba",  # one MLP that several layers share, and link layers that are none
    "zamba2",  # adapters that add to the gate
)

PAGE = sweep.PAGE.read_text(encoding="utf-8")
CURRENT = f"in transformers {transformers.__version__}, as" in PAGE  # with another one only what is wrong counts

pytestmark = pytest.mark.filterwarnings("ignore")  # what transformers says of tiny configs


@pytest.mark.parametrize("family", SHORT)
def test_a_family_is_read_rightly_or_refused_and_its_line_is_current(family: str) -> None:
    if family not in tiny.families():
        pytest.skip(f"transformers {transformers.__version__} has no {family}")
    result = sweep.swept(family)
    assert result.wrong == []
    if CURRENT:
        assert sweep.line(result) in PAGE.splitlines()


def test_the_page_has_every_family_and_none_is_wrong() -> None:
    rows = [line.split("|") for line in PAGE.splitlines() if line.startswith("| `")]
    assert "WRONG" not in {row[2].strip() for row in rows}
    if CURRENT:
        assert [row[1].strip(" `") for row in rows] == tiny.families()
        assert sweep.with_rows(PAGE, []) == PAGE  # the head, and its counts
