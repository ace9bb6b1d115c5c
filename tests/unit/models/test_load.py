"""Loading: what is refused, in one line each, and what is returned."""

import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import transformers as tf
from families import FAMILIES, VOCAB, gpt2, mamba
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from nfinspect.models import (
    BrokenCheckpoint,
    HubUnreachable,
    ModelError,
    ModelNotFound,
    NonFiniteWeights,
    PickleRefused,
    UnsupportedModel,
    load_model,
)
from nfinspect.models.hub import probe
from nfinspect.models.load import max_context


def tokenizer() -> tf.PreTrainedTokenizerFast:
    words = {"<unk>": 0, "</s>": 1} | {f"w{i}": i for i in range(2, VOCAB)}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return tf.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", eos_token="</s>")


def save(model: tf.PreTrainedModel, directory: Path) -> Path:
    model.save_pretrained(directory)
    tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def _saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(gpt2(), tmp_path_factory.mktemp("saved") / "gpt2")


@pytest.fixture
def saved(_saved: Path, tmp_path: Path) -> Path:
    """A fresh copy of a good checkpoint, to be spoilt at will."""
    return Path(shutil.copytree(_saved, tmp_path / "model"))


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith("expected ")
    assert "found" in text
    return text


def test_a_local_directory_loads_in_eval_mode_with_its_facts(saved: Path) -> None:
    loaded = load_model(str(saved), device="cpu")
    assert not loaded.model.training
    assert (loaded.model_type, loaded.device, loaded.dtype) == ("gpt2", "cpu", "float32")
    assert (loaded.max_context, loaded.layers, loaded.name) == (64, 3, str(saved))
    assert loaded.tokenizer.pad_token is None
    assert loaded.pad_id == 1
    want = gpt2().state_dict()
    assert all(torch.equal(value, want[name]) for name, value in loaded.model.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_comes_back_with_the_values_it_was_saved_with(family: str, tmp_path: Path) -> None:
    model, ids = FAMILIES[family](), torch.tensor([[5, 6, 7]])
    loaded = load_model(save(model, tmp_path / family), device="cpu")
    with torch.no_grad():
        assert torch.equal(loaded.model(ids).logits, model(ids).logits)
    assert loaded.layers == model.config.num_hidden_layers


def test_a_checkpoint_of_the_bare_body_gets_its_tied_head(tmp_path: Path) -> None:
    model, ids = gpt2(), torch.tensor([[5, 6, 7]])
    loaded = load_model(save(model.transformer, tmp_path / "bare"), device="cpu")
    with torch.no_grad():
        assert torch.equal(loaded.model(ids).logits, model(ids).logits)


def test_dtype_and_attention_can_be_chosen(saved: Path) -> None:
    loaded = load_model(saved, device="cpu", dtype="bfloat16", eager_attention=True)
    assert loaded.dtype == "bfloat16"
    assert loaded.model.config._attn_implementation == "eager"


def test_dtype_auto_is_the_checkpoints_own(tmp_path: Path) -> None:
    directory = save(mamba().bfloat16(), tmp_path / "mamba")
    loaded = load_model(directory, device="cpu")
    assert (loaded.dtype, loaded.max_context) == ("bfloat16", None)


def test_alibi_has_no_longest_context() -> None:
    assert max_context(tf.BloomConfig(hidden_size=16, n_layer=1, n_head=4)) is None
    assert max_context(tf.FalconConfig(alibi=True)) is None
    assert max_context(tf.FalconConfig(alibi=False, max_position_embeddings=77)) == 77


def test_a_missing_directory_and_a_file_are_refused(saved: Path, tmp_path: Path) -> None:
    for name in (tmp_path / "absent", "./absent", "~/absent/model", "a/b/c", "a b"):
        with pytest.raises(ModelNotFound) as error:
            load_model(name)
        assert "absent" in one_line(error) or "a" in str(name)
    with pytest.raises(ModelNotFound, match="found a file") as error:
        load_model(saved / "config.json")
    one_line(error)


def _no_config(d: Path) -> None:
    (d / "config.json").unlink()


def _broken_config(d: Path) -> None:
    (d / "config.json").write_text("{")


def _strange_type(d: Path) -> None:
    (d / "config.json").write_text(json.dumps({"model_type": "nobody_knows_it"}))


def _own_code(d: Path) -> None:
    config = {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"},
    }
    (d / "config.json").write_text(json.dumps(config))
    (d / "own.py").write_text("raise SystemExit('code from a checkpoint was run')")


def _encoder_decoder(d: Path) -> None:
    tf.T5Config(vocab_size=VOCAB, d_model=16, d_ff=24, num_layers=1).save_pretrained(d)


def _no_tokenizer(d: Path) -> None:
    for file in d.glob("*token*"):
        file.unlink()


def _broken_tokenizer(d: Path) -> None:
    (d / "tokenizer.json").write_text("{}")


def _no_weights(d: Path) -> None:
    (d / "model.safetensors").unlink()


def _cut_weights(d: Path) -> None:
    whole = (d / "model.safetensors").read_bytes()
    (d / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def _garbage_weights(d: Path) -> None:
    (d / "model.safetensors").write_bytes(b"\xff" * 64)


def _empty_weights(d: Path) -> None:
    (d / "model.safetensors").write_bytes(b"")


def _fewer_weights(d: Path) -> None:
    weights = load_file(d / "model.safetensors")
    weights.pop("transformer.h.1.mlp.c_fc.weight")
    save_file(weights, d / "model.safetensors", {"format": "pt"})


def _other_shape(d: Path) -> None:
    weights = load_file(d / "model.safetensors")
    weights["transformer.h.1.mlp.c_fc.weight"] = torch.zeros(3, 3)
    save_file(weights, d / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (_no_config, ModelNotFound, "config.json"),
        (_broken_config, BrokenCheckpoint, "config.json"),
        (_strange_type, UnsupportedModel, "newer transformers"),
        (_own_code, UnsupportedModel, "not run"),
        (_encoder_decoder, UnsupportedModel, "'t5'"),
        (_no_tokenizer, BrokenCheckpoint, "tokenizer"),
        (_broken_tokenizer, BrokenCheckpoint, "tokenizer"),
        (_no_weights, ModelNotFound, "safetensors"),
        (_cut_weights, BrokenCheckpoint, "cut short"),
        (_garbage_weights, BrokenCheckpoint, "weights"),
        (_empty_weights, BrokenCheckpoint, "weights"),
        (_fewer_weights, BrokenCheckpoint, "transformer.h.1.mlp.c_fc.weight"),
        (_other_shape, BrokenCheckpoint, "weights"),
    ],
)
def test_a_spoilt_checkpoint_is_refused_in_one_line(
    saved: Path, spoil: Callable[[Path], None], kind: type[ModelError], words: str
) -> None:
    spoil(saved)
    with pytest.raises(kind, match=words) as error:
        load_model(saved, device="cpu")
    assert str(saved) in one_line(error) or kind is UnsupportedModel


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_not_finite_is_named(saved: Path, value: float) -> None:
    weights = load_file(saved / "model.safetensors")
    weights["transformer.h.2.mlp.c_proj.bias"][3] = value
    save_file(weights, saved / "model.safetensors", {"format": "pt"})
    with pytest.raises(NonFiniteWeights, match=r"transformer\.h\.2\.mlp\.c_proj\.bias") as error:
        load_model(saved, device="cpu")
    one_line(error)


def test_pickle_is_refused_unless_allowed(saved: Path) -> None:
    weights = load_file(saved / "model.safetensors")
    (saved / "model.safetensors").unlink()
    torch.save(weights, saved / "pytorch_model.bin")
    with pytest.raises(PickleRefused, match="--allow-pickle") as error:
        load_model(saved, device="cpu")
    one_line(error)
    loaded = load_model(saved, device="cpu", allow_pickle=True)
    assert torch.equal(loaded.model.transformer.wpe.weight, weights["transformer.wpe.weight"])


@pytest.mark.parametrize(
    "packed",
    [
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {"quant_method": "gptq", "bits": 4, "group_size": 128},
        {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"},
        {"quant_method": "compressed-tensors", "format": "pack-quantized"},
    ],
    ids=lambda packed: packed["quant_method"],
)
def test_quantised_weights_whose_package_is_missing_are_refused(saved: Path, packed: dict[str, object]) -> None:
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "quantization_config": packed}))
    with pytest.raises(ModelError, match="quantised weights need their own") as error:
        load_model(saved, device="cpu")
    one_line(error)


def test_safetensors_win_over_a_pickle_beside_them(saved: Path) -> None:
    (saved / "pytorch_model.bin").write_bytes(b"not even a pickle")
    load_model(saved, device="cpu", allow_pickle=True)


@pytest.mark.parametrize(
    "how",
    [{"dtype": "int8"}, {"device": "abacus"}, {"device": "cuda:97"}, {"device": "cpu", "dtype": "float64"}],
)
def test_dtypes_and_devices_that_do_not_exist_are_refused(saved: Path, how: dict[str, str]) -> None:
    with pytest.raises(ModelError) as error:
        load_model(saved, **how)
    one_line(error)


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "cache"


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port that takes connections and never says a word: the worst a firewall does."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(8)
        yield server.getsockname()[1]


def test_a_hub_that_never_answers_fails_within_15_seconds(
    monkeypatch: pytest.MonkeyPatch, empty_cache: Path, deaf_port: int
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{deaf_port}")
    start = time.monotonic()
    with pytest.raises(HubUnreachable, match="copy its directory") as error:
        load_model("someone/model")
    assert time.monotonic() - start < 15
    assert "someone/model" in one_line(error)


def test_a_resolver_that_hangs_does_not_hold_up_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hang(*args: object, **kwargs: object) -> None:
        release.wait(20)
        raise OSError("released")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    start = time.monotonic()
    answer = probe("http://hub.invalid/x", 0.3)
    release.set()
    assert answer is not None
    assert "no answer within 0.3 s" in answer
    assert time.monotonic() - start < 5


def test_a_refused_connection_is_told_at_once(monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    start = time.monotonic()
    with pytest.raises(HubUnreachable, match=str(port)):
        load_model("someone/model")
    assert time.monotonic() - start < 3


def test_offline_without_a_copy_says_what_is_set(monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubUnreachable, match="HF_HUB_OFFLINE") as error:
        load_model("someone/model")
    one_line(error)


@pytest.mark.parametrize("offline", [True, False])
def test_a_cached_model_loads_without_a_hub(
    monkeypatch: pytest.MonkeyPatch, empty_cache: Path, deaf_port: int, _saved: Path, offline: bool
) -> None:
    repo = empty_cache / "models--someone--model"
    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(_saved, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{deaf_port}")
    loaded = load_model("someone/model", device="cpu", timeout=0.5)
    assert (loaded.name, loaded.layers) == ("someone/model", 3)
