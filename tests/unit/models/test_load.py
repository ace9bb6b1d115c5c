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

from nfinspect.model_files import full_name, split_revision
from nfinspect.models import (
    BrokenCheckpoint,
    HubUnreachable,
    ModelError,
    ModelNotFound,
    NonFiniteWeights,
    PickleRefused,
    UnsupportedModel,
    WrongRevision,
    in_memory,
    load_model,
)
from nfinspect.models.hub import probe
from nfinspect.models.load import max_context
from nfinspect.models.resident import staying


def tokenizer() -> tf.PreTrainedTokenizerFast:
    words = {"<unk>": 0, "</s>": 1} | {f"w{i}": i for i in range(2, VOCAB)}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return tf.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", eos_token="</s>")


def mixtral() -> tf.PreTrainedModel:
    return tf.AutoModelForCausalLM.from_config(
        tf.MixtralConfig(
            vocab_size=VOCAB,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            num_local_experts=4,
        )
    )


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


@pytest.mark.parametrize("checkpoint", ["float32", "bfloat16"])
def test_a_model_that_stays_is_handed_out_for_auto_where_that_is_its_precision(checkpoint: str, tmp_path: Path) -> None:
    """The lab starts a backend with the precision of its run; captures ask for auto."""
    directory = str(save(gpt2().to(getattr(torch, checkpoint)), tmp_path / "model"))
    loaded = load_model(directory, device="cpu", dtype="float32")
    assert (loaded.dtype, loaded.own_dtype) == ("float32", checkpoint)
    assert load_model(directory, device="cpu").own_dtype == checkpoint
    with staying(loaded, directory, None, "float32", "cpu"):
        assert load_model(directory, device="cpu", dtype="float32").model is loaded.model
        if checkpoint == "float32":
            assert load_model(directory, device="cpu").model is loaded.model
        else:
            with pytest.raises(ModelError, match="--dtype float32"):
                load_model(directory, device="cpu")


@pytest.mark.parametrize(("added", "pad_id"), [({"pad_token": "[PAD]"}, 1), ({"pad_token": "a", "eos_token": "b"}, 0)])
def test_padding_is_filled_with_a_token_that_the_model_has(added: dict[str, str], pad_id: int) -> None:
    """Tokens are often added to a tokenizer, and the model's embeddings are not resized."""
    ours = tokenizer()
    ours.add_special_tokens(added)
    assert ours.pad_token_id >= VOCAB
    assert in_memory(gpt2(), ours).pad_id == pad_id


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
        assert str(Path(name)).removeprefix("~") in one_line(error)
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


def _longer_weights(d: Path) -> None:
    with (d / "model.safetensors").open("ab") as file:
        file.write(b"more")


def _pointer_for_weights(d: Path) -> None:
    (d / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n")


def _page_for_weights(d: Path) -> None:
    (d / "model.safetensors").write_text("<!doctype html><title>Sign in</title>")


def _sharded(d: Path) -> None:
    (d / "model.safetensors").unlink()
    gpt2().save_pretrained(d, max_shard_size="20KB")
    assert len(list(d.glob("*.safetensors"))) == 3


def _shard_missing(d: Path) -> None:
    _sharded(d)
    (d / "model-00002-of-00003.safetensors").unlink()


def _shard_cut(d: Path) -> None:
    _sharded(d)
    file = d / "model-00003-of-00003.safetensors"
    file.write_bytes(file.read_bytes()[:-5])


def _index_missing(d: Path) -> None:
    _sharded(d)
    (d / "model.safetensors.index.json").unlink()


def _index_alone(d: Path) -> None:
    _sharded(d)
    for file in d.glob("*.safetensors"):
        file.unlink()


def _index_broken(d: Path) -> None:
    _sharded(d)
    (d / "model.safetensors.index.json").write_text('{"weight_map": ["a"]}')


def _strange_file(d: Path) -> None:
    (d / "model.safetensors").rename(d / "lora_weights.safetensors")


def _weights_alone(d: Path) -> None:
    (d / "config.json").unlink()


def _emptied(d: Path) -> None:
    for file in d.iterdir():
        file.unlink()


def _training_output(d: Path) -> None:
    kept = {file.name: file.read_bytes() for file in d.iterdir()}
    _emptied(d)
    for step in ("checkpoint-1000", "checkpoint-500"):
        (d / step).mkdir()
        for name, content in kept.items():
            (d / step / name).write_bytes(content)
    (d / "checkpoint-1500").mkdir()  # nothing is in it yet
    (d / "trainer_state.json").touch()


def _training_output_with_config(d: Path) -> None:
    config = (d / "config.json").read_bytes()
    _training_output(d)
    (d / "config.json").write_bytes(config)


def _diffusion(d: Path) -> None:
    _emptied(d)
    (d / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (d / "unet").mkdir()


def _flax(d: Path) -> None:
    (d / "model.safetensors").rename(d / "flax_model.msgpack")


def _authors_own(d: Path) -> None:
    _emptied(d)
    (d / "params.json").write_text("{}")
    (d / "consolidated.00.pth").touch()


def _bert(d: Path) -> None:
    config = tf.CLIPConfig()
    config.save_pretrained(d)


def _other_things(d: Path) -> None:
    _emptied(d)
    (d / "notes.txt").touch()


def _nothing(d: Path) -> None:
    _emptied(d)


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
        (_no_config, ModelNotFound, "expected config.json next to the weights"),
        (_broken_config, BrokenCheckpoint, "config.json"),
        (_strange_type, UnsupportedModel, "newer transformers"),
        (_own_code, UnsupportedModel, "not run"),
        (_encoder_decoder, UnsupportedModel, "'t5'"),
        (_no_tokenizer, BrokenCheckpoint, "found no tokenizer.json, tokenizer.model"),
        (_broken_tokenizer, BrokenCheckpoint, "tokenizer that can be read in .*, found "),
        (_no_weights, ModelNotFound, r"weights \(\*.safetensors\) next to config.json in .*, found none"),
        (_cut_weights, BrokenCheckpoint, r"expected \d+ bytes by its own header, found \d+ in .*cut short"),
        (_longer_weights, BrokenCheckpoint, r"expected \d+ bytes by its own header, found \d+ in .*appended to"),
        (_garbage_weights, BrokenCheckpoint, "found 64 bytes without its header"),
        (_empty_weights, BrokenCheckpoint, "found 0 bytes without its header"),
        (_pointer_for_weights, BrokenCheckpoint, "found Git LFS's pointer to them: git lfs pull"),
        (_page_for_weights, BrokenCheckpoint, "found a web page"),
        (_fewer_weights, BrokenCheckpoint, "none for 1 of them .transformer.h.1.mlp.c_fc.weight"),
        (
            _other_shape,
            BrokenCheckpoint,
            r"expected transformer.h.1.mlp.c_fc.weight of shape \[16, 64\] by the config, found \[3, 3\]",
        ),
        (_shard_missing, BrokenCheckpoint, r"found 1 of them missing \(model-00002-of-00003.safetensors\)"),
        (_shard_cut, BrokenCheckpoint, r"found \d+ in .*model-00003-of-00003.safetensors: .* cut short"),
        (_index_missing, BrokenCheckpoint, "expected model.safetensors.index.json next to model-00001-of-00003"),
        (_index_alone, BrokenCheckpoint, "found none of them"),
        (_index_broken, BrokenCheckpoint, "expected an index of weights"),
        (_strange_file, ModelNotFound, "expected model.safetensors in .*, found lora_weights.safetensors"),
        (_weights_alone, ModelNotFound, "expected config.json next to the weights"),
        (_training_output, ModelNotFound, r"checkpoint-500, checkpoint-1000: name .*, such as .*/checkpoint-1000$"),
        (_training_output_with_config, ModelNotFound, r"such as .*/checkpoint-1000$"),
        (_diffusion, UnsupportedModel, "a pipeline of the diffusers library .model_index.json"),
        (_flax, UnsupportedModel, "found only Flax weights .flax_model.msgpack"),
        (_authors_own, UnsupportedModel, "found only weights in their authors' own format .consolidated.00.pth"),
        (_bert, UnsupportedModel, "causal language model|decoder"),
        (_other_things, ModelNotFound, "found only notes.txt: is this a model directory"),
        (_nothing, ModelNotFound, "found nothing: is this a model directory"),
    ],
)
def test_a_spoilt_checkpoint_is_refused_in_one_line(
    saved: Path, spoil: Callable[[Path], None], kind: type[ModelError], words: str
) -> None:
    spoil(saved)
    with pytest.raises(kind, match=words) as error:
        load_model(saved, device="cpu")
    assert str(saved) in one_line(error) or kind is UnsupportedModel
    assert "report" not in str(error.value) and "pickle" not in str(error.value)


def test_experts_that_cannot_be_put_together_are_named_with_their_shapes(tmp_path: Path) -> None:
    directory = save(mixtral(), tmp_path / "mixtral")
    weights = load_file(directory / "model.safetensors")
    name = next(name for name in weights if "experts.1." in name)
    weights[name] = torch.zeros(3, 3)
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    with pytest.raises(BrokenCheckpoint, match=r"layers.0.mlp.experts.*: \w+Error: .*\[3, 3\]") as error:
        load_model(directory, device="cpu")
    assert "report" not in one_line(error)


def test_weights_that_the_config_has_no_place_for_are_told(saved: Path) -> None:
    """Loaded as the config says, with two of three layers: not without a word."""
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "n_layer": 2}))
    loaded = load_model(saved, device="cpu")
    (note,) = loaded.notes
    assert "11 weights of the checkpoint are not used, such as transformer.h.2." in note and "2 layers" in note
    assert loaded.layers == 2


def test_a_directory_and_a_file_have_no_revisions(saved: Path) -> None:
    with pytest.raises(WrongRevision, match="found .*: it has no revisions") as error:
        load_model(saved, revision="step3000")
    assert error.value.exit_status == 2


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
def test_quantised_weights_whose_package_is_missing_are_refused(
    saved: Path, packed: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nfinspect.models.quantised.find_spec", lambda name: object() if name == "accelerate" else None)
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "quantization_config": packed}))
    with pytest.raises(ModelError, match="pip install ") as error:
        load_model(saved, device="cpu")
    one_line(error)
    method = str(packed["quant_method"])
    wanted = {"gptq": "optimum gptqmodel", "awq": "gptqmodel"}.get(method, method)
    assert str(error.value).endswith(f": pip install {wanted}") and f"quantised by {method}" in str(error.value)


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


@pytest.mark.slow
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


@pytest.mark.parametrize("offline", [True, False])
def test_a_revision_is_the_one_that_is_loaded(
    monkeypatch: pytest.MonkeyPatch, empty_cache: Path, deaf_port: int, _saved: Path, offline: bool
) -> None:
    repo = empty_cache / "models--someone--model"
    (repo / "refs").mkdir(parents=True)
    for number, ref in enumerate(("main", "step3000")):
        commit = f"{number}123456789abcdef0123456789abcdef01234567"
        shutil.copytree(_saved, repo / "snapshots" / commit)
        (repo / "refs" / ref).write_text(commit)
    weights = load_file(_saved / "model.safetensors")
    weights["transformer.wpe.weight"] += 1
    save_file(weights, repo / "snapshots" / commit / "model.safetensors", {"format": "pt"})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{deaf_port}")
    for name, revision in [("someone/model@step3000", None), ("someone/model", "step3000"), ("someone/model", commit)]:
        loaded = load_model(name, revision=revision, device="cpu", timeout=0.5)
        assert loaded.name == full_name(name, revision)
        assert torch.equal(loaded.model.transformer.wpe.weight, weights["transformer.wpe.weight"])
    main = load_model("someone/model", device="cpu", timeout=0.5)
    assert main.name == "someone/model" and torch.equal(
        main.model.transformer.wpe.weight + 1, weights["transformer.wpe.weight"]
    )
    with pytest.raises(HubUnreachable, match="'someone/model@step9'") as error:
        load_model("someone/model@step9", timeout=0.5)
    one_line(error)


def test_a_name_and_its_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine@home").mkdir()
    assert split_revision("a/b@refs/pr/1") == ("a/b", "refs/pr/1") == split_revision("a/b", "refs/pr/1")
    assert split_revision("gpt2@v1", "v1") == ("gpt2", "v1") and split_revision("gpt2") == ("gpt2", None)
    for local in ("mine@home", "./x@y", "/x@y", "~/x@y"):
        assert split_revision(local) == (local, None)
    for name, revision, said in [
        ("gpt2@v1", "v2", "found two: '@v1' and --revision 'v2'"),
        ("gpt2@", None, "found none in 'gpt2@'"),
        ("gpt2", "a b", "a branch, a tag or a commit"),
    ]:
        with pytest.raises(WrongRevision, match=said) as error:
            split_revision(name, revision)
        one_line(error)


@pytest.mark.parametrize(
    "name", ["a" * 300, "/" + "a" * 300, "~no-such-user/m", "foo--bar", "foo..bar", "foo.git", "x-", "-x"]
)
@pytest.mark.parametrize("revision", [None, "main"])
def test_a_name_that_no_model_can_have_is_not_found(
    name: str, revision: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFound, match="expected a model directory or a hub name such as") as error:
        load_model(name, revision=revision, device="cpu")
    one_line(error)
