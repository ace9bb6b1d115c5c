"""Compiled decoding: each step has the values of one plain pass, one graph makes all steps, and it can be replayed."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from experts_by_hand import model_of
from families import FAMILIES, compiled_ways
from rounding import assert_same_pass
from test_padding import NAMES, plain
from torch import nn
from torch._dynamo.utils import counters
from transformers import CompileConfig, GPT2LMHeadModel, PreTrainedModel
from words import word_tokenizer

import nfinspect as nf
from nfinspect.models import LayerSite, NonFiniteActivations, SilentHook, StepBuffers, UnsupportedModel, find_sites
from nfinspect_store.errors import RequestError

PROMPTS = [[5], [9, 8, 7, 6, 5], [11, 12, 13], [20, 21, 22, 23, 24, 25, 26, 27, 28]]
NEW = 6


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """No compiled code is left from another test."""
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def endless(family: str, backend: Any = "eager", **how: Any) -> PreTrainedModel:
    """A tiny model whose decoding steps this backend compiles, and that never ends a text."""
    model = FAMILIES[family]()
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    model.generation_config.compile_config = CompileConfig(backend=backend, mode="default", **how)
    return model


def captured(model: PreTrainedModel, store: Path, prompts: Sequence[Sequence[int]] = PROMPTS, **options: Any) -> nf.Run:
    given: dict[str, Any] = {
        "generate": NEW, "mode": "live", "compiled": True, "batch_size": 4, "sites": ("mlp", "attn", "resid"),
        "run": "compiled",
    }  # fmt: skip
    return nf.capture(model, word_tokenizer(), prompts, store=store, **{**given, **options})


def sequences_of(run: nf.Run) -> list[list[int]]:
    rows = run.sql("SELECT prompt_idx, token_id FROM tokens ORDER BY token_idx").fetchall()
    return [[token for prompt, token in rows if prompt == one] for one in range(run.prompts)]


def assert_plain(run: nf.Run, model: PreTrainedModel, family: str) -> None:
    """Every value is the one of a pass over the text alone, read by hooks of the test's own, and fires as its gate."""
    passes = [plain(model, NAMES[family], ids) for ids in sequences_of(run)]
    for layer in run.layers:
        found = np.asarray(run.activations(layer.site, layer.layer))
        expected = torch.cat([values[layer.site, layer.layer] for values, _ in passes])
        assert_same_pass(found, expected, layer.layer)
    rates = run.sql(
        "SELECT layer, neuron, firing_rate FROM neurons WHERE site = 'mlp' ORDER BY layer, neuron"
    ).fetchall()
    for layer in sorted({layer for layer, _, _ in rates} if NAMES[family].gate else ()):
        gates = torch.cat([gates[layer] for _, gates in passes])
        found = torch.tensor([rate for at, _, rate in rates if at == layer], dtype=torch.float64)
        assert torch.allclose(found, (gates > 0).double().mean(0), atol=1e-12)


GRAPHS = "unique_graphs"


@pytest.mark.parametrize(
    "family",
    ["gpt2", "llama", *(pytest.param(f, marks=pytest.mark.slow) for f in (
        "opt", "gpt_neox", "mistral", "qwen3", "gemma2", "gemma3_text", "phi", "phi3", "bloom", "falcon_new",
        "gptj",
    ))],
)  # fmt: skip
def test_values_of_compiled_steps_are_those_of_one_pass(family: str, tmp_path: Path) -> None:
    model = endless(family)
    with captured(model, tmp_path) as run:
        assert [len(ids) for ids in sequences_of(run)] == [len(ids) + NEW for ids in PROMPTS]
        assert_plain(run, model, family)
        written = sequences_of(run)
    assert counters["stats"][GRAPHS] >= 1
    with captured(model, tmp_path, compiled=False, run="eager") as run:
        assert sequences_of(run) == written


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_machine_code_computes_the_same(family: str, tmp_path: Path) -> None:
    model = endless(family, "inductor")
    with captured(model, tmp_path) as run:
        assert_plain(run, model, family)
    assert counters["stats"][GRAPHS] == 1


@pytest.mark.parametrize("family", ["gpt2", pytest.param("llama", marks=pytest.mark.slow)])
def test_one_graph_makes_all_steps(family: str, tmp_path: Path) -> None:
    found = []
    for new in (4, 12):
        torch._dynamo.reset()
        counters.clear()
        captured(endless(family), tmp_path, generate=new, run=f"of{new}").close()
        found.append(counters["stats"][GRAPHS])
    assert found == [1, 1]


@pytest.mark.slow
def test_sliding_windows_need_a_few_graphs_however_long_the_text(tmp_path: Path) -> None:
    """Their cache counts in Python, and goes over from filling to rolling."""
    found = []
    for new in (8, 24):
        torch._dynamo.reset()
        counters.clear()
        captured(endless("gemma2"), tmp_path, generate=new, run=f"of{new}").close()
        found.append(counters["stats"][GRAPHS])
    assert found[0] == found[1] <= 4


@pytest.mark.slow
def test_batches_of_several_sizes_need_few_graphs(tmp_path: Path) -> None:
    model = endless("gpt2")
    prompts = [PROMPTS[i % 4] for i in range(2 * 4 + 3)]
    with captured(model, tmp_path, prompts) as run:
        assert_plain(run, model, "gpt2")
    assert counters["stats"][GRAPHS] <= 2  # 4 texts twice, and 3
    with captured(model, tmp_path, prompts, batch_size=3, run="again") as run:  # 3 texts, and 2
        assert_plain(run, model, "gpt2")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["live", "replay"])
def test_many_batches_need_one_graph(mode: str, tmp_path: Path) -> None:
    """Each has a cache of its own; torch makes 8 graphs of one function at most."""
    model = endless("llama")
    prompts = [PROMPTS[i % 4] for i in range(10)]
    with captured(model, tmp_path, prompts, batch_size=1, mode=mode) as run:
        assert_plain(run, model, "llama")
    assert counters["stats"][GRAPHS] == 1


@pytest.mark.slow
def test_texts_that_end_early_are_as_long_as_uncompiled(tmp_path: Path) -> None:
    model = endless("llama")
    with captured(model, tmp_path, compiled=False, run="endless") as run:
        written = [ids[len(prompt) :] for ids, prompt in zip(sequences_of(run), PROMPTS, strict=True)]
    model.generation_config.eos_token_id = model.config.eos_token_id = written[0][2]
    with captured(model, tmp_path, compiled=False, run="eager") as run:
        expected = sequences_of(run)
    assert len(expected[0]) < len(PROMPTS[0]) + NEW
    for size in (1, 4):
        with captured(model, tmp_path, batch_size=size, run=f"ends{size}") as run:
            assert sequences_of(run) == expected
            assert_plain(run, model, "llama")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*already end with an end-of-sequence token")
def test_a_text_of_one_new_token_and_of_one_that_ends_it(tmp_path: Path) -> None:
    model = endless("gpt2")
    with captured(model, tmp_path, generate=1) as run:
        assert_plain(run, model, "gpt2")
        (first,) = sequences_of(run)[0][1:]
    model.generation_config.eos_token_id = model.config.eos_token_id = first
    with captured(model, tmp_path, [PROMPTS[1], PROMPTS[0]], batch_size=1, run="ended") as run:
        assert len(sequences_of(run)[1]) == 2
        assert_plain(run, model, "gpt2")


@pytest.mark.slow
def test_draws_are_those_of_uncompiled_steps(tmp_path: Path) -> None:
    model = endless("llama")
    found = []
    for compiled in (True, False):
        with captured(model, tmp_path, temperature=1.0, compiled=compiled, run=f"drawn{compiled}") as run:
            found.append(sequences_of(run))
            assert_plain(run, model, "llama")
    assert found[0] == found[1]


def test_a_replay_reads_the_text_of_compiled_steps_in_one_pass(tmp_path: Path) -> None:
    model = endless("llama")
    with captured(model, tmp_path, mode="replay") as run:
        assert_plain(run, model, "llama")
    assert counters["stats"][GRAPHS] == 1


@pytest.mark.slow
def test_only_chosen_tokens_are_kept(tmp_path: Path) -> None:
    model = endless("llama")
    with (
        captured(model, tmp_path, where="answers") as run,
        captured(model, tmp_path, compiled=False, run="eager") as whole,
    ):
        assert run.tokens == 4 * NEW
        answers = np.concatenate([np.arange(len(ids) + NEW) >= len(ids) for ids in PROMPTS])
        for layer in run.layers:
            expected = torch.from_numpy(np.asarray(whole.activations(layer.site, layer.layer))[answers])
            assert_same_pass(run.activations(layer.site, layer.layer), expected, layer.layer)
    with captured(model, tmp_path, where="tokens=0-0", run="first") as run:
        assert run.tokens == 4


@pytest.mark.slow
@pytest.mark.parametrize("family", ["mamba2", "mixtral"])
def test_what_only_python_reads_is_read_in_a_replay(family: str, tmp_path: Path) -> None:
    """Mamba's step size, and which experts a token passes."""
    sites = ("mixer",) if family == "mamba2" else ("mlp",)
    model = endless(family) if family in FAMILIES else model_of("mixtral", "batched_mm")
    model.generation_config.compile_config = CompileConfig(backend="eager", mode="default")
    found = []
    for compiled in (True, False):
        with captured(model, tmp_path, keep="stats", sites=sites, compiled=compiled, run=f"as{compiled}") as run:
            found.append(run.sql("SELECT mean, firing_rate FROM neurons ORDER BY site, layer, neuron").fetchall())
    for one, other in zip(*found, strict=True):
        assert one == pytest.approx(other, abs=1e-5, nan_ok=True)


# Models that their user has compiled


@pytest.mark.parametrize(
    "way",
    ["in place", *(pytest.param(w, marks=pytest.mark.slow) for w in
     ("torch.compile", "blocks", "a wrapped part", "forward", "static cache"))],
)  # fmt: skip
def test_what_the_user_compiled_before_is_not_taken_for_ours(way: str, tmp_path: Path) -> None:
    """Code made before the hooks came would write nothing, or what another capture's hooks wrote."""
    model: Any = endless("gpt2")
    called: Any = model
    if way == "forward":
        model.forward = torch.compile(model.forward, backend="eager")
    elif way == "static cache":
        model.generation_config.cache_implementation = "static"
    else:
        called = compiled_ways()[way](model)
    config = CompileConfig(backend="eager", mode="default")
    config._compile_all_devices = True
    with torch.no_grad():
        called(torch.tensor([PROMPTS[1]]))
        model.generate(
            torch.tensor([PROMPTS[1]]), max_new_tokens=3, cache_implementation="static", compile_config=config,
            pad_token_id=0,
        )  # fmt: skip
    for number in range(2):
        with captured(called, tmp_path, run=f"compiled{number}") as run:
            assert_plain(run, FAMILIES["gpt2"](), "gpt2")
    with (
        pytest.warns(UserWarning, match="read as plain Python"),
        captured(called, tmp_path, compiled=False, run="e") as run,
    ):
        assert_plain(run, FAMILIES["gpt2"](), "gpt2")


def test_the_model_is_as_before(tmp_path: Path) -> None:
    model = endless("gpt2")
    config = model.generation_config
    before = {name: value for name, value in vars(model).items() if not name.startswith("_")}
    captured(model, tmp_path).close()
    assert {name: value for name, value in vars(model).items() if not name.startswith("_")} == before
    assert "get_compiled_call" not in vars(model) and "_previous_max_cache_length" not in vars(model)
    assert model.generation_config is config and config.cache_implementation is None
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


# What a graph may do


def test_the_graph_writes_each_site_once_into_memory_that_stays(tmp_path: Path) -> None:
    """CUDA graphs replay fixed addresses: of what a graph changes, inductor takes only what is marked so."""
    graphs: list[torch.fx.GraphModule] = []
    places: list[set[int]] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        nodes = [node for node in graph.graph.nodes if node.op == "placeholder"]
        ours = [i for i, node in enumerate(nodes) if any("index_copy_" in str(user.target) for user in node.users)]

        def run(*given: Any) -> Any:
            places.append({given[i].data_ptr() for i in ours})
            return graph.forward(*given)

        return run

    model = endless("llama", backend)
    prompts = [PROMPTS[i % 4] for i in range(8)]
    captured(model, tmp_path, prompts, sites=("mlp",)).close()
    (graph,) = graphs
    changed = {}
    for node in graph.graph.nodes:
        target = str(node.target)
        if node.op in ("call_method", "call_function") and target.rstrip("'>").endswith("_") and "__" not in target:
            changed[node.args[0]] = changed.get(node.args[0], 0) + 1
    static = [
        node
        for node in changed
        if node.op == "placeholder" and node.meta["tensor_dict"].get("_dynamo_static_input_type")
    ]
    # Keys, values and the position of each of 3 layers; values of the neurons, and which fire.
    assert len(static) == len(changed) == 3 * (3 + 2) and set(changed.values()) == {1}
    # Of two batches the buffers are the same; keys and values are new ones in each.
    steps = len(places) // 2
    assert steps == NEW and len({frozenset(one) for one in places[:steps]}) == 1
    assert len(places[0] & places[-1]) >= 3 * 2


# Buffers


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, hidden: torch.Tensor, skip: bool = False) -> torch.Tensor:
        return hidden if skip else self.down(self.up(hidden))


def buffered() -> tuple[Wide, LayerSite, StepBuffers]:
    model, site = Wide(), LayerSite("mlp", 0, "down", 6, "", "positive")
    buffers = StepBuffers(model, [site], most=5)
    buffers.attach(2, {site: torch.zeros(1)})
    return model, site, buffers


def test_buffers_hold_each_step_at_its_place() -> None:
    model, site, buffers = buffered()
    given = torch.randn(3, 2, 1, 4)
    with torch.no_grad():
        for hidden in given:
            model(hidden)
            buffers.next()
        expected = torch.stack([model.up(hidden)[:, 0] for hidden in given], dim=1)
    buffers.settle()
    values, fired = buffers.take(site)
    assert torch.equal(values, expected) and fired is None
    buffers.detach()
    assert not model.down._forward_pre_hooks
    where = values.data_ptr()
    buffers.attach(2, {site: torch.zeros(1)})
    with torch.no_grad():
        model(given[0])
    buffers.next()
    assert buffers.take(site)[0].data_ptr() == where and buffers.take(site)[0].shape == (2, 1, 6)
    assert torch.equal(buffers.take(site)[0][:, 0], expected[:, 0])


def test_a_graph_alone_writes_the_next_step() -> None:
    """As a CUDA graph is replayed: without a hook, and without Python."""
    graphs: list[Any] = []

    def backend(graph: torch.fx.GraphModule, inputs: Sequence[Any]) -> Any:
        graphs.append((graph, inputs))
        return graph.forward

    model, site, buffers = buffered()
    given = torch.randn(2, 1, 4)
    with torch.no_grad():
        expected = model.up(given)[:, 0]
        torch.compile(model, fullgraph=True, backend=backend)(given)
        buffers.next()
        buffers.detach()
        ((graph, inputs),) = graphs
        for node, tensor in zip((n for n in graph.graph.nodes if n.op == "placeholder"), inputs, strict=True):
            assert node.meta["tensor_dict"].get("_dynamo_static_input_type") or tensor.shape == given.shape
        graph(*inputs)
        buffers.next()
    assert torch.equal(buffers.take(site)[0], torch.stack([expected, expected], dim=1))


def test_a_step_that_writes_nothing_is_not_taken_for_one_that_did() -> None:
    model, _, buffers = buffered()
    with torch.no_grad():
        for skip in (False, True, False):
            model(torch.randn(2, 1, 4), skip)
            buffers.next()
    with pytest.raises(SilentHook, match="mlp of layer 0"):
        buffers.settle()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_an_error(bad: float) -> None:
    model, _, buffers = buffered()
    with torch.no_grad():
        model(torch.randn(2, 1, 4))
        buffers.next()
        model.up.bias[2] = bad
        model(torch.randn(2, 1, 4))
        buffers.next()
    with pytest.raises(NonFiniteActivations, match="mlp of layer 0"):
        buffers.settle()


# Refused


def test_what_cannot_be_compiled_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="transformers compiles no GPTNeoForCausalLM as one graph"):
        captured(FAMILIES["gpt_neo"](), tmp_path)
    for options in ({"edits": ["zero L1/N5"]}, {"generate": 0}):
        with pytest.raises(RequestError, match="expected new tokens and no edits with --compiled"):
            captured(endless("gpt2"), tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_a_graph_that_breaks_is_refused_and_no_run_is_left(tmp_path: Path) -> None:
    model = endless("gpt2")
    assert isinstance(model, GPT2LMHeadModel)
    model.transformer.h[1].mlp.act.register_forward_hook(lambda *_: torch._dynamo.graph_break())
    with pytest.raises(UnsupportedModel, match="expected steps of GPT2LMHeadModel that compile as one graph, found"):
        captured(model, tmp_path)
    assert not list(tmp_path.glob("*.duckdb"))


def test_sites_of_another_model_are_not_silently_empty() -> None:
    model = FAMILIES["gpt2"]()
    with pytest.raises(KeyError):
        StepBuffers(FAMILIES["llama"](), find_sites(model), 3).attach(
            1, dict.fromkeys(find_sites(model), torch.zeros(1))
        )
