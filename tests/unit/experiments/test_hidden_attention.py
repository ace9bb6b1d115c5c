"""The hidden attention of Mamba mixers: equal to its formula, and to what the scan makes in the model."""

import math

import nfinspect_samples
import pytest
import torch
import transformers as tf
from families import FAMILIES, mamba, mamba2
from torch import Tensor
from transformers import PreTrainedModel
from words import word_tokenizer

from nfinspect.experiments import hidden_attention
from nfinspect.experiments.errors import AttentionUnavailable
from nfinspect.experiments.hidden_attention import HiddenAttention, finished, mixed, pieces
from nfinspect.experiments.scans import Scan, read_scans
from nfinspect.models import LoadedModel, find_sites, in_memory, load_model

MAMBAS = ("mamba", "mamba_bias", "mamba2", "falcon_mamba")


def tokens(count: int, vocabulary: int = 101) -> list[int]:
    return torch.randint(3, vocabulary, (count,), generator=torch.Generator().manual_seed(count)).tolist()


def lively(model: PreTrainedModel) -> PreTrainedModel:
    """The same with mixers that mix: a fresh Mamba's step sizes are so small that its output is nearly D u alone."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("dt_proj.bias", "dt_bias")):
                parameter.add_(2.0)
            elif name.endswith(("in_proj.weight", "x_proj.weight")):
                parameter.mul_(2.0)
            elif name.endswith("mixer.D"):
                parameter.mul_(0.1)
    return model


def whole(scan: Scan) -> Tensor:
    """α: float32[heads, tokens, tokens]."""
    heads, count = scan.delta.shape
    weights = torch.full((heads, count, count), math.nan)
    for piece in pieces(scan):
        n, rows = piece.weights.shape[:2]
        weights[piece.head : piece.head + n, piece.query : piece.query + rows] = piece.weights
    return weights


def random_scan(count: int, delta: float = 1.0) -> Scan:
    draw = torch.Generator().manual_seed(5)
    heads, groups, state = 6, 2, 4

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    return Scan(
        u=normal(heads, 3, count),
        delta=delta * torch.rand(heads, count, generator=draw),
        A=-torch.rand(heads, state, generator=draw) * 4,
        B=normal(groups, count, state),
        C=normal(groups, count, state),
        D=normal(heads),
        gate=None,
    )


@pytest.mark.parametrize("budget", [1, 20_000, 2**26])
def test_pieces_are_the_formula(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written out in float64 with a loop over pairs, for 37 tokens: three blocks of queries."""
    monkeypatch.setattr(hidden_attention, "PIECE_BYTES", budget)
    scan = random_scan(37)
    expected = torch.zeros(6, 37, 37, dtype=torch.float64)
    for head in range(6):
        group = head // 3
        A, delta = scan.A[head].double(), scan.delta[head].double()
        B, C = scan.B[group].double(), scan.C[group].double()
        for i in range(37):
            for j in range(i + 1):
                decay = torch.exp(A * delta[j + 1 : i + 1].sum())
                expected[head, i, j] = (C[i] * decay * delta[j] * B[j]).sum()
    assert torch.allclose(whole(scan).double(), expected, rtol=1e-5, atol=1e-6)


def test_fast_forgetting_neither_overflows_nor_loses_the_present() -> None:
    scan = random_scan(100, delta=200.0)
    weights = whole(scan)
    assert weights.isfinite().all()
    now = (scan.B * scan.C).sum(-1).repeat_interleave(3, dim=0) * scan.delta
    assert torch.allclose(weights.diagonal(dim1=1, dim2=2), now, rtol=1e-5)


@pytest.mark.parametrize("family", MAMBAS)
@pytest.mark.parametrize("count", [1, 2, 45])
def test_it_reproduces_the_scan(family: str, count: int) -> None:
    """Σ_j α_ij u_j + D u_i, gated, is the input of out_proj (Mamba-2: of the gated norm), within 1e-5."""
    assert_reproduced(in_memory(lively(FAMILIES[family]()), word_tokenizer()), tokens(count))


@pytest.mark.parametrize("limit", [(0.0, math.inf), (0.2, 0.6)])
def test_the_clamped_step_of_mamba2_reproduces_the_scan(limit: tuple[float, float]) -> None:
    assert_reproduced(in_memory(lively(mamba2(time_step_limit=limit)), word_tokenizer()), tokens(30))


def test_it_reproduces_the_scan_of_the_trained_sample() -> None:
    model = next(name for name in nfinspect_samples.MODELS if "mamba" in name)
    loaded = load_model(nfinspect_samples.path(model), device="cpu")
    assert_reproduced(loaded, tokens(64, 4096))


def assert_reproduced(loaded: LoadedModel, ids: list[int]) -> None:
    """Against the model's own modules, hooked here, layer by layer."""
    sites = find_sites(loaded.model, ["mixer"])
    mixers = [loaded.model.get_submodule(site.module.rpartition(".")[0]) for site in sites]
    inputs: dict[int, Tensor] = {}
    handles = []
    for layer, mixer in enumerate(mixers):

        def note(module: object, args: tuple[Tensor, ...], layer: int = layer) -> None:
            inputs[layer] = args[0][0]

        place = mixer.norm if hasattr(mixer, "norm") else mixer.out_proj
        handles.append(place.register_forward_pre_hook(note))
    outputs: dict[int, tuple[Tensor, Tensor]] = {}

    def sink(layer: int, scan: Scan, output: Tensor) -> None:
        mixing = torch.einsum("hij,hpj->hpi", whole(scan), scan.u)
        outputs[layer] = finished(scan, mixing), finished(scan, torch.zeros_like(mixing))

    read_scans(loaded, sites, ids, sink)
    for handle in handles:
        handle.remove()
    assert len(outputs) == len(mixers)
    for layer, (output, without_mixing) in outputs.items():
        error = float((output - inputs[layer]).abs().max())
        assert error <= 1e-5
        assert error <= 1e-4 * float((output - without_mixing).abs().max())  # no small part that could be anything


def test_mixed_is_the_product_of_a_piece() -> None:
    scan = random_scan(20)
    product = torch.einsum("hij,hpj->hpi", whole(scan), scan.u)
    for piece in pieces(scan):
        rows = slice(piece.query, piece.query + piece.weights.shape[1])
        assert torch.allclose(mixed(scan, piece), product[piece.head : piece.head + 6, :, rows], atol=1e-5)


@pytest.mark.parametrize("family", MAMBAS)
def test_maps_are_the_mean_of_the_scaled_sizes(family: str) -> None:
    loaded = in_memory(FAMILIES[family](), word_tokenizer())
    sites, ids = find_sites(loaded.model, ["mixer"]), tokens(20)
    expected: list[Tensor] = []

    def sink(layer: int, scan: Scan, output: Tensor) -> None:
        size = whole(scan).abs()
        expected.append((size / size.sum(-1, keepdim=True)).mean(0))

    read_scans(loaded, sites, ids, sink)
    for found, map_ in zip(HiddenAttention(loaded, sites).read(ids).values(), expected, strict=True):
        assert found.weights == pytest.approx(map_.numpy(), abs=1e-6)
        assert found.weights.sum(axis=1) == pytest.approx(1, abs=1e-5)
        assert len(found.entropy) == (4 if family == "mamba2" else 32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("family", MAMBAS)
def test_other_dtypes_pass_the_check_against_the_mixer(family: str, dtype: torch.dtype) -> None:
    loaded = in_memory(FAMILIES[family]().to(dtype), word_tokenizer())
    for found in HiddenAttention(loaded, find_sites(loaded.model, ["mixer"])).read(tokens(12)).values():
        assert found.weights.sum(axis=1) == pytest.approx(1, abs=1e-4)


def test_a_mixer_that_does_something_else_is_refused() -> None:
    loaded = in_memory(mamba(), word_tokenizer())
    sites = find_sites(loaded.model, ["mixer"])
    loaded.model.get_submodule(sites[1].module).register_forward_pre_hook(lambda module, args: (args[0] * 1.1,))
    with pytest.raises(AttentionUnavailable, match="layer 1 to reproduce"):
        HiddenAttention(loaded, sites).read(tokens(9))


def test_hooks_are_gone_after_a_pass_and_after_a_failure() -> None:
    loaded = in_memory(mamba(), word_tokenizer())
    sites = find_sites(loaded.model, ["mixer"])

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in loaded.model.modules())

    HiddenAttention(loaded, sites).read(tokens(5))
    assert hooks() == 0
    with pytest.raises(RuntimeError, match="cancelled"):
        read_scans(loaded, sites, tokens(5), cancel)
    assert hooks() == 0


def cancel(layer: int, scan: Scan, output: Tensor) -> None:
    raise RuntimeError("cancelled")


def test_mixers_of_an_unknown_kind_are_refused() -> None:
    config = tf.JambaConfig(
        vocab_size=101, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=24, num_experts=1, attn_layer_period=2, attn_layer_offset=1, use_mamba_kernels=False,
        mamba_d_state=4,
    )  # fmt: skip
    loaded = in_memory(tf.AutoModelForCausalLM.from_config(config).eval(), word_tokenizer())
    with pytest.raises(AttentionUnavailable, match="its scan is not known"):
        HiddenAttention(loaded, find_sites(loaded.model, ["mixer"])).read(tokens(5))
