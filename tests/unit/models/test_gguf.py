"""GGUF files: dequantised as they say, and refused in one line where they cannot be."""

import importlib.util
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from test_load import one_line

from nfinspect.model_files import lasting_name
from nfinspect.models import BrokenCheckpoint, ModelError, ModelNotFound, WrongRevision, load_model

HIDDEN, WIDTH, HEADS = 32, 64, 4
WORDS = ["<unk>", "<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz", "Ġ", "Ġa", "ab", "cd"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NDArray[np.float32]]:
    """A Llama of one layer as GGUF, and what its down projection is after 8 bits."""
    file = tmp_path_factory.mktemp("gguf") / "tiny.Q8_0.gguf"
    rng = np.random.default_rng(4)
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(WORDS) - 3))
    writer.add_token_merges(["Ġ a", "a b", "c d"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    kept = gguf.GGMLQuantizationType.Q8_0
    down = np.empty(0, np.float32)
    for name, shape in {
        "token_embd": (len(WORDS), HIDDEN),
        "output": (len(WORDS), HIDDEN),
        "output_norm": (HIDDEN,),
        "blk.0.attn_norm": (HIDDEN,),
        "blk.0.ffn_norm": (HIDDEN,),
        "blk.0.attn_q": (HIDDEN, HIDDEN),
        "blk.0.attn_k": (HIDDEN, HIDDEN),
        "blk.0.attn_v": (HIDDEN, HIDDEN),
        "blk.0.attn_output": (HIDDEN, HIDDEN),
        "blk.0.ffn_gate": (WIDTH, HIDDEN),
        "blk.0.ffn_up": (WIDTH, HIDDEN),
        "blk.0.ffn_down": (HIDDEN, WIDTH),
    }.items():
        values = rng.normal(size=shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", values)
            continue
        packed = gguf.quants.quantize(values, kept)
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=kept)
        if name.endswith("down"):
            down = gguf.quants.dequantize(packed, kept)
            assert np.abs(down - values).max() > 1e-4
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file, down


def test_a_gguf_file_is_dequantised_and_says_so(made: tuple[Path, NDArray[np.float32]]) -> None:
    file, down = made
    for named in (file, file.parent):  # the only one in its directory
        loaded = load_model(named, device="cpu")
        np.testing.assert_array_equal(loaded.model.model.layers[0].mlp.down_proj.weight.detach().numpy(), down)
        assert (loaded.model_type, loaded.dtype, loaded.layers) == ("llama", "float32", 1)
        assert loaded.notes == ("tiny.Q8_0.gguf holds Q8_0, F32 weights: they are dequantised to float32",)
        assert loaded.tokenizer("ab a", add_special_tokens=False)["input_ids"] == [WORDS.index("ab"), WORDS.index("Ġa")]
    assert load_model(file, device="cpu", dtype="bfloat16").model.dtype == torch.bfloat16
    assert lasting_name(str(file)) == str(file.resolve())


def test_what_is_no_gguf_or_not_whole_is_refused_in_one_line(
    made: tuple[Path, NDArray[np.float32]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = made[0].read_bytes()
    for content, said in [
        (b"", "found 0 bytes that do not begin with GGUF"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS's pointer"),
        (whole[: len(whole) // 2], f"of {len(whole) // 2} bytes: it is cut short"),
        (b"GGUF", "of 4 bytes: it is cut short"),
    ]:
        (tmp_path / "m.gguf").write_bytes(content)
        with pytest.raises(BrokenCheckpoint, match=said) as error:
            load_model(tmp_path / "m.gguf", device="cpu")
        one_line(error)
    (tmp_path / "n.gguf").write_bytes(whole)
    with pytest.raises(ModelNotFound, match=r"found 2 \(m.gguf, n.gguf\): name one") as found:
        load_model(tmp_path, device="cpu")
    one_line(found)
    with pytest.raises(WrongRevision, match="it has no revisions"):
        load_model(tmp_path / "n.gguf", revision="v1", device="cpu")
    monkeypatch.setattr("nfinspect.models.gguf.find_spec", lambda name: None if name == "gguf" else importlib.util)
    with pytest.raises(ModelError, match=r"no gguf for .*n.gguf: pip install 'nfinspect\[gguf\]'") as missing:
        load_model(tmp_path / "n.gguf", device="cpu")
    one_line(missing)
