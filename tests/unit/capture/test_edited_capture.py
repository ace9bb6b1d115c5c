"""A run captured with edits holds what hooks written by hand give, token by token: every kind, batches and modes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, VOCAB
from rounding import assert_same_pass
from sampled import sampled
from test_padding import NAMES, Names, plain
from torch import Tensor
from transformers import AutoModelForCausalLM, OpenAIGPTConfig, PreTrainedModel
from words import word_tokenizer

import nfinspect as nf
from nfinspect.capturing import segments
from nfinspect.capturing.errors import CannotResume
from nfinspect.capturing.session import Capture
from nfinspect.experiments.run_model import difference_from_run
from nfinspect.models import NonFiniteActivations, in_memory
from nfinspect_store.catalog import list_runs
from nfinspect_store.edits import WIDEST, edits_text
from nfinspect_store.errors import RequestError

PROMPTS = ["w5", "w9 w8 w7 w6 w5", "w11 w12 w13", "w20 w21 w22 w23 w24 w25 w26 w27 w28"]
EDITS = ("zero L0/N1,L0/N2", "scale L1/N4=-2.5", "clamp L1/N9,L2/N9=3", "add L2/N3=-2", "scale resid:L1/N5=2")
BY_HAND: list[tuple[int, list[int], Callable[[Tensor], Tensor]]] = [
    (0, [1, 2], lambda a: a * 0),
    (1, [4], lambda a: a * -2.5),
    (1, [9], lambda a: a * 0 + 3),
    (2, [9], lambda a: a * 0 + 3),
    (2, [3], lambda a: a - 2),
]
NEW = 4


def model_of(family: str) -> tuple[PreTrainedModel, Names]:
    if family != "gpt1":
        return FAMILIES[family](), NAMES[family]
    torch.manual_seed(7)  # it has no key-value cache: each step reads the whole text again
    config = OpenAIGPTConfig(vocab_size=VOCAB, n_embd=16, n_layer=3, n_head=4, n_positions=64)
    return AutoModelForCausalLM.from_config(config).eval(), Names("transformer.h.{}", "mlp.c_proj", None)


@contextmanager
def by_hand(model: PreTrainedModel, names: Names, start: int) -> Iterator[None]:
    """EDITS, for passes over one whole text."""

    def at_input(neurons: list[int], change: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
        def hook(module: object, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            values = args[0].clone()
            rows = values.view(-1, values.shape[-1])  # OPT's have no batch
            rows[start:, neurons] = change(rows[start:, neurons])
            return (values, *args[1:])

        return hook

    def at_output(module: object, args: object, output: Any) -> Any:
        hidden = (output if isinstance(output, Tensor) else output[0]).clone()
        hidden[0, start:, 5] *= 2
        return hidden if isinstance(output, Tensor) else (hidden, *output[1:])

    blocks = [model.get_submodule(names.blocks.format(layer)) for layer in range(3)]
    handles = [blocks[1].register_forward_hook(at_output)]
    for layer, neurons, change in BY_HAND:
        module = blocks[layer].get_submodule(names.neuron)
        handles.append(module.register_forward_pre_hook(at_input(neurons, change)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def continued(model: PreTrainedModel, ids: list[int]) -> list[int]:
    """Greedy, reading the whole text again for every token."""
    ids = list(ids)
    for _ in range(NEW):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == 2:  # the end of the text
            break
    return ids


def capture(model: PreTrainedModel, store: Path, run: str = "r", **options: Any) -> nf.Run:
    return nf.capture(model, word_tokenizer(), PROMPTS, store=store, run=run, **{"batch_size": 3, **options})


@pytest.mark.filterwarnings("ignore:found by structure:UserWarning")
@pytest.mark.parametrize(
    ("generate", "mode", "start"),
    [
        (0, "auto", 0),
        (NEW, "replay", 2),
        (NEW, "live", 2),
        pytest.param(0, "auto", 2, marks=pytest.mark.slow),
        pytest.param(NEW, "replay", 0, marks=pytest.mark.slow),
        pytest.param(NEW, "live", 0, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("family", sampled(["gpt2", "phi3", "mamba", "opt", "llama", "bloom", "gpt1"], 3))
def test_values_are_those_that_the_model_goes_on_with(
    family: str, generate: int, mode: str, start: int, tmp_path: Path
) -> None:
    model, names = model_of(family)
    site = "mixer" if family == "mamba" else "mlp"
    options: dict[str, Any] = {"generate": generate, "mode": mode, "sites": [site, "resid"]}
    run = capture(model, tmp_path, edits=EDITS, edits_from=start, **options)
    unlike = 0
    for prompt_idx, text in enumerate(PROMPTS):
        rows = run.prompt_tokens(prompt_idx)
        ids = rows.token_id.tolist()
        with by_hand(model, names, start):
            if generate:
                assert ids == continued(model, [int(word[1:]) for word in text.split()])
            values, _ = plain(model, names, ids)
        untouched, _ = plain(model, names, ids)
        for layer in run.layers:
            stored = run.activations(layer.site, layer.layer)[rows.token_idx]
            assert_same_pass(stored, values[layer.site, layer.layer], layer.layer)
            unlike += int((np.abs(stored - untouched[layer.site, layer.layer].numpy()) > 0.1).sum())
    assert unlike > 100, "the edits change much"
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_what_fires_is_told_by_the_edited_value_or_by_the_gate(tmp_path: Path) -> None:
    """A clamped neuron without a gate fires where its value is positive; with one, where the gate is."""
    run = capture(FAMILIES["gpt2"](), tmp_path, "plain", edits=["clamp L1/N9=3"])
    assert run.statistics(layer=1).fired[9] == run.tokens and set(run.neuron(1, 9)) == {3.0}
    model = FAMILIES["llama"]()
    run = capture(model, tmp_path, "gated", edits=["clamp L1/N9=3"])
    gates = sum(
        int((plain(model, NAMES["llama"], run.prompt_tokens(i).token_id.tolist())[1][1][:, 9] > 0).sum())
        for i in range(len(PROMPTS))
    )
    assert 0 < gates < run.tokens and set(run.neuron(1, 9)) == {3.0}
    assert run.statistics(layer=1).fired[9] == gates, "the gate of an edited neuron is as the model computes it"


def test_scale_1_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    one = capture(FAMILIES["llama"](), tmp_path, "one", generate=NEW, temperature=0.8, seed=3)
    other = capture(
        FAMILIES["llama"](), tmp_path, "other", generate=NEW, temperature=0.8, seed=3, edits=["scale L1/N4,L2/N9=1"]
    )
    for layer in one.layers:
        np.testing.assert_array_equal(
            one.activations(layer.site, layer.layer), other.activations(layer.site, layer.layer)
        )
    tokens = "SELECT * FROM tokens ORDER BY ALL"
    assert one.sql(tokens).fetchall() == other.sql(tokens).fetchall()
    assert one.edits == "" and other.edits == "scale L1/N4,L2/N9=1"


def test_a_direction_of_a_run_is_added(tmp_path: Path) -> None:
    model = FAMILIES["gpt2"]()
    prompts = {"one": ["w5 w6 w7", "w8 w9"], "two": ["w10 w11 w12 w13"]}
    base = nf.capture(model, word_tokenizer(), prompts, store=tmp_path, run="base", sites=["resid"])
    means = [
        np.mean([base.activations("resid", 1)[slice(first + 1, last)].mean(axis=0) for first, last in parts], axis=0)
        for parts in ([(0, 3), (3, 5)], [(5, 9)])
    ]
    vector = torch.tensor(2 * (means[0] - means[1]), dtype=torch.float32)
    run = capture(model, tmp_path, edits="direction base:one-two@resid:L1=2", sites=["resid"])
    assert run.edits == "direction base:one-two@resid:L1=2"
    (told,) = run.info.settings["edits"]
    assert told["norm"] == pytest.approx(float(vector.norm()) / 2, rel=1e-5)
    ids = run.prompt_tokens(1).token_id.tolist()
    hook = model.transformer.h[1].register_forward_hook(
        lambda m, args, out: out + vector if isinstance(out, Tensor) else (out[0] + vector, *out[1:])
    )
    values, _ = plain(model, NAMES["gpt2"], ids)
    hook.remove()
    for layer in range(3):
        stored = run.activations("resid", layer)[run.prompt_tokens(1).token_idx]
        assert_same_pass(stored, values["resid", layer], layer)


def test_the_run_says_so_wherever_its_figures_are(tmp_path: Path) -> None:
    model = FAMILIES["gpt2"]()
    edited = capture(model, tmp_path, "edited", edits=["zero L0/N1,L0/N2", "scale L1/N4=-2.5"], edits_from=2)
    plain_run = capture(model, tmp_path, "plain")
    said = "captured with edits (zero L0/N1,L0/N2; scale L1/N4=-2.5; from token 2): every figure is of the edited model"
    assert edited.info.settings["edits"] == [
        {"kind": "zero", "site": "mlp", "layer": 0, "neurons": [1, 2], "amount": None, "direction": None, "norm": None},
        {"kind": "scale", "site": "mlp", "layer": 1, "neurons": [4], "amount": -2.5, "direction": None, "norm": None},
    ]
    assert edited.info.settings["edits_from"] == 2 and "edits" not in plain_run.info.settings
    assert said in edited.notes and said in edited.health().notes and said in edited.neuron_detail("L0/N1").notes
    assert said in edited.trace("prompts").notes
    from nfinspect.analysis.diff import diff

    assert f"edited: {said}" in diff(plain_run, edited).notes
    assert not plain_run.edits and plain_run.health().notes == tuple(x for x in edited.health().notes if x != said)
    assert {entry.name: entry.edits for entry in list_runs(tmp_path)} == {"edited": edited.edits, "plain": ""}
    assert {entry.name: entry.edits for entry in list_runs(tmp_path)}["edited"], "the same from the cache"


def test_a_line_of_edits_has_an_end() -> None:
    def edit(kind: str, amount: float | None, direction: str | None = None) -> dict[str, Any]:
        return {"kind": kind, "site": "mlp", "layer": 1, "neurons": [3], "amount": amount, "direction": direction}

    long = edit("direction", 2, f"night:{'tulip' * 3000}-base@resid:L2=2")
    told = edits_text({"edits": [long]})
    assert len(told) == WIDEST and told.startswith("direction night:tulip") and told.endswith("-base@resid:L2=2")
    many = [edit("clamp", i) for i in range(1000)]
    expected = "; ".join(f"clamp L1/N3={i}" for i in range(5))
    assert edits_text({"edits": many, "edits_from": 4}) == f"{expected}; 995 more; from token 4"
    assert edits_text({"edits": many[:5]}) == expected
    twice = [edit("scale", 0.1), edit("scale", 0.1), edit("zero", None)]
    assert edits_text({"edits": twice}) == "scale L1/N3=0.1; scale L1/N3=0.1; zero L1/N3", "as often as it is done"
    assert len(edits_text({"edits": [{**edit("k" * 9999, 1), "site": "s" * 9999}]})) == WIDEST


def test_more_neurons_than_a_line_has_room_for_are_counted(tmp_path: Path) -> None:
    many = ",".join(f"L0/N{i}" for i in range(7))
    assert capture(FAMILIES["gpt2"](), tmp_path, edits=f"add {many}=1.5").edits == "add 7 neurons=1.5"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"edits": ["grow L0/N1=2"]}, "expected an edit such as zero L3/N17"),
        ({"edits": ["zero L0/N999"]}, "no neuron 999 in layer 0"),
        ({"edits": ["clamp L0/N1"]}, "expected --clamp L3/N17=VALUE with a number"),
        ({"edits": ["zero @none"]}, "no set @none"),
        ({"edits_from": 2}, "expected edits, and --from of 0 or more"),
        ({"edits": ["zero L0/N1"], "edits_from": -1}, "--from of 0 or more"),
    ],
)
def test_what_cannot_be_edited_is_refused_and_leaves_no_run(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=said) as error:
        capture(FAMILIES["gpt2"](), tmp_path, **options)
    assert "\n" not in str(error.value) and not list(tmp_path.glob("*.duckdb"))


@pytest.mark.parametrize("generate", [0, NEW])
def test_edits_that_begin_after_the_end_of_every_prompt_are_refused(generate: int, tmp_path: Path) -> None:
    longest = 9 + generate
    how: dict[str, Any] = {"edits": ["clamp L0/N1=7"], "generate": generate, "mode": "replay"}
    with pytest.raises(RequestError, match=f"expected --from below {longest}, .*found {longest}: the edits would"):
        capture(FAMILIES["gpt2"](), tmp_path, edits_from=longest, **how)
    assert not list(tmp_path.glob("*.duckdb"))
    run = capture(FAMILIES["gpt2"](), tmp_path, edits_from=longest - 1, **how)
    assert (run.neuron(0, 1) == 7).sum() == 1, "the last token of the longest"


def test_edits_that_make_values_infinite_are_named(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteActivations) as error:
        capture(FAMILIES["gpt2"](), tmp_path, edits=["clamp L0/N2,L0/N3=3e38"])
    said = "the model is edited (clamp L0/N2,L0/N3=3e+38): try smaller amounts"
    assert said in str(error.value) and "float16" not in str(error.value)


def test_another_model_next_to_an_edited_run_is_told_with_the_edits(tmp_path: Path) -> None:
    run = nf.capture(FAMILIES["gpt2"](), word_tokenizer(), ["w5 w6"], store=tmp_path, run="one", edits=["zero L0/N1"])
    other = FAMILIES["gpt2"]()
    other.lm_head.weight.data.mul_(-3)
    loaded = replace(in_memory(other, word_tokenizer()), name="other")
    same, notes = difference_from_run(run, loaded)
    assert not same and "one was captured with edits (zero L0/N1): here its model has none" in notes
    assert any("the run is of" in note for note in notes)


def test_the_list_of_runs_tells_the_edits_of_one_that_is_being_captured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, listed = Capture.read_batch, []

    def looks(self: Capture, *given: Any) -> Any:
        listed.extend((entry.status, entry.edits) for entry in list_runs(tmp_path))
        return read(self, *given)

    monkeypatch.setattr(Capture, "read_batch", looks)
    capture(FAMILIES["gpt2"](), tmp_path, edits=["zero L0/N1"], edits_from=2, batch_size=4)
    assert listed == [("capturing", "zero L0/N1; from token 2")]


def test_resume_repeats_the_edits_and_refuses_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = FAMILIES["gpt2"]()
    options: dict[str, Any] = {"batch_size": 1, "generate": NEW, "edits": ["zero L0/N1", "scale L1/N4=-2.5"]}
    whole = capture(model, tmp_path, "whole", **options)
    monkeypatch.setattr(segments, "SEGMENT_SECONDS", 0.0)
    read, done = Capture.read_batch, []

    def stops(self: Capture, *given: Any) -> Any:
        if len(done) == 2:
            raise RuntimeError("stopped by the test")
        done.append(None)
        return read(self, *given)

    monkeypatch.setattr(Capture, "read_batch", stops)
    with pytest.raises(RuntimeError, match="stopped by the test"):
        capture(model, tmp_path, "part", **options)
    monkeypatch.setattr(Capture, "read_batch", read)
    for other, told in (
        ({"edits": ()}, "edits: zero L0/N1; scale L1/N4=-2.5 then, none now"),
        ({"edits": ["zero L0/N1"]}, "edits: zero L0/N1; scale L1/N4=-2.5 then, zero L0/N1 now"),
        ({"edits_from": 1}, "edits_from: 0 then, 1 now"),
    ):
        with pytest.raises(CannotResume) as error:
            capture(model, tmp_path, "part", resume=True, **{**options, **other})
        assert told in str(error.value)
    resumed = capture(model, tmp_path, "part", resume=True, **options)
    assert resumed.info.status == "complete" and resumed.edits == whole.edits
    for layer in whole.layers:
        np.testing.assert_array_equal(
            whole.activations(layer.site, layer.layer), resumed.activations(layer.site, layer.layer)
        )
