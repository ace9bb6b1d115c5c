"""A language model inside other modules is read as the model itself: the same neurons, no padding, the same health."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from networks import monitor
from torch import Tensor, nn
from transformers import BatchEncoding, GPT2Config, GPT2LMHeadModel, MixtralConfig, MixtralForCausalLM

import nfinspect as nf
from nfinspect.training.errors import NotReadable, SilentLayer

IDS = torch.randint(3, 99, (4, 12), generator=torch.Generator().manual_seed(4))
LENGTHS = (12, 7, 3, 9)
MASK = (torch.arange(12) >= 12 - torch.tensor(LENGTHS)[:, None]).long()
REAL = sum(LENGTHS)


def language_model() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    ids = {"vocab_size": 99, "bos_token_id": 1, "eos_token_id": 2}
    config = GPT2Config(**ids, n_embd=16, n_layer=2, n_head=2, n_positions=32, resid_pdrop=0, embd_pdrop=0)
    config.attn_pdrop = 0
    model = GPT2LMHeadModel(config).train()
    for i, block in enumerate(model.transformer.h):  # faults that a wrong reading would not show
        with torch.no_grad():
            block.mlp.c_fc.bias[: 20 + 10 * i] = -50
    return model


class Own(nn.Module):
    """One's own module around it, which calls the mask as it likes."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, tokens: Tensor, keep: Tensor) -> Tensor:
        return self.inner(tokens, attention_mask=keep).logits  # type: ignore[no-any-return]


class Positional(Own):
    def forward(self, tokens: Tensor, keep: Tensor) -> Tensor:
        return self.inner(tokens, None, keep).logits  # type: ignore[no-any-return]


class Batched(Own):
    """Takes the whole batch."""

    def forward(self, batch: BatchEncoding) -> Tensor:  # type: ignore[override]
        return self.inner(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits  # type: ignore[no-any-return]


class Body(Own):
    """Passes by the language model's own forward."""

    def forward(self, tokens: Tensor, keep: Tensor) -> Tensor:
        out = self.inner.transformer(tokens, attention_mask=keep)  # type: ignore[operator, union-attr]
        return self.inner.lm_head(out.last_hidden_state)  # type: ignore[operator, no-any-return, union-attr]


class Nested(Own):
    """Two wrappers deep; only the outer one knows the mask."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__(Own(inner))

    def forward(self, tokens: Tensor, keep: Tensor) -> Tensor:
        return self.inner(tokens, keep)  # type: ignore[no-any-return]


def with_peft(model: nn.Module) -> Any:
    import peft

    torch.manual_seed(1)
    found = peft.get_peft_model(model, peft.LoraConfig(target_modules=["c_attn", "c_proj"], r=2, fan_in_fan_out=True))
    return found.train()


def lightning_module(model: nn.Module) -> Any:
    import lightning.pytorch as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: Any, index: int) -> Tensor:
            return self.model(**batch).logits.sum()  # type: ignore[no-any-return]

    return Module()


@pytest.fixture
def one_process() -> Iterator[None]:
    """torch.distributed of this process alone."""
    from torch import distributed

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


WRAPPED: dict[str, tuple[Callable[[nn.Module], nn.Module], Callable[[nn.Module], Any]]] = {
    "bare": (lambda m: m, lambda m: m(input_ids=IDS, attention_mask=MASK).logits),
    "bare, by position": (lambda m: m, lambda m: m(IDS, None, MASK).logits),
    "own": (Own, lambda m: m(IDS, MASK)),
    "own, by position": (Positional, lambda m: m(IDS, keep=MASK)),
    "a batch": (Batched, lambda m: m({"input_ids": IDS, "attention_mask": MASK})),
    "a batch encoding": (Batched, lambda m: m(BatchEncoding({"input_ids": IDS, "attention_mask": MASK}))),
    "body": (Body, lambda m: m(IDS, MASK)),
    "nested": (Nested, lambda m: m(IDS, MASK)),
    "peft": (with_peft, lambda m: m(input_ids=IDS, attention_mask=MASK).logits),
    "peft in own": (lambda m: Own(with_peft(m)), lambda m: m(IDS, MASK)),
    "lightning": (lightning_module, lambda m: m.training_step({"input_ids": IDS, "attention_mask": MASK}, 0)),
    "parts": (Own, lambda m: m.inner(input_ids=IDS, attention_mask=MASK).logits),
}


def reading(model: nn.Module, call: Callable[[nn.Module], Tensor]) -> Any:
    with monitor(model=model) as watched:
        call(model).sum().backward()
        watched.step()
    return watched.history[0]


@pytest.mark.filterwarnings("ignore::UserWarning:peft.*")
@pytest.mark.parametrize("name", list(WRAPPED))
def test_the_monitor_reads_the_model_inside(name: str) -> None:
    wrap, call = WRAPPED[name]
    expected = nf.NeuralFiringAnalyzer().analyze_pytorch_model(
        language_model(), {"input_ids": IDS, "attention_mask": MASK}
    )
    found = reading(wrap(language_model()), call)
    assert [layer.tokens for layer in found.layers] == [REAL, REAL]
    assert [layer.layer_name.rpartition("transformer.")[2] for layer in found.layers] == [
        "h.0.mlp.c_proj",
        "h.1.mlp.c_proj",
    ]
    assert [layer.dead_neurons for layer in found.layers] == [x.dead_neurons for x in expected.layer_analyses]
    assert found.health_score == pytest.approx(expected.overall_health_score)


def test_ddp_is_looked_through(one_process: None) -> None:
    for wrap in (nn.parallel.DistributedDataParallel, lambda m: Own(nn.parallel.DistributedDataParallel(m))):
        model = wrap(language_model())
        call = WRAPPED["own"][1] if isinstance(model, Own) else WRAPPED["bare"][1]
        assert [layer.tokens for layer in reading(model, call).layers] == [REAL, REAL]


def test_a_compiled_language_model_is_refused_with_the_reason() -> None:
    with pytest.raises(NotReadable, match=r"torch\.compile"):
        monitor(model=torch.compile(language_model(), backend="eager")).start()  # type: ignore[arg-type]


def test_the_analyzer_reads_the_model_inside_and_takes_batches_as_they_are_called_for() -> None:
    batch = {"input_ids": IDS, "attention_mask": MASK}
    analyzer = nf.NeuralFiringAnalyzer()
    expected = analyzer.analyze_pytorch_model(language_model(), batch)
    cases: list[tuple[nn.Module, Any]] = [
        (Own(language_model()), (IDS, MASK)),
        (Positional(language_model()), {"tokens": IDS, "keep": MASK}),
        (Batched(language_model()), batch),
        (Batched(language_model()), BatchEncoding(batch)),
        (Batched(language_model()), {0: (BatchEncoding(batch), "labels")}.values()),  # as a loader gives them
        (Nested(language_model()), (IDS, MASK)),
        (with_peft(language_model()), batch),
    ]
    for model, given in cases:
        report = analyzer.analyze_pytorch_model(model, given)
        assert [layer.tokens for layer in report.layer_analyses] == [REAL, REAL]
        assert report.overall_health_score == pytest.approx(expected.overall_health_score)
        assert nf.check_firing_health(model, given) == list(report.alerts)


def test_padding_of_an_encoder_does_not_count_either() -> None:
    from transformers import BertConfig, BertModel

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            config = BertConfig(vocab_size=99, hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
            self.bert = BertModel(config, add_pooling_layer=False)
            self.head = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))

        def forward(self, ids: Tensor, keep: Tensor) -> Tensor:
            return self.head(self.bert(ids, keep).last_hidden_state[:, 0])  # type: ignore[no-any-return]

    layers = reading(Classifier(), lambda m: m(IDS, MASK.flip(1))).layers
    # The head sees one vector of each sequence: no token of the mask's.
    assert [(layer.layer_name, layer.tokens) for layer in layers] == [
        ("bert.encoder.layer.0.output.dense", REAL),
        ("bert.encoder.layer.1.output.dense", REAL),
        ("head.1", 4),
    ]


def test_tokens_first_is_told_from_batch_first() -> None:
    class TokensFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.act = nn.Embedding(99, 8), nn.ReLU()

        def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
            # Padding is told by its size: a mask laid along the wrong axis would let some of it through.
            size = 1 + 99 * (1 - attention_mask.t()[..., None])
            return self.act(self.table(ids.t()).abs() * size)  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model = TokensFirst()
    layer = reading(model, lambda m: m(IDS, MASK)).layers[0]
    real = model.table(IDS).detach().abs()[MASK.bool()]
    assert layer.tokens == REAL and layer.mean == pytest.approx(float(real.mean()), rel=1e-5)


def test_of_several_language_models_the_frozen_teacher_is_left_out() -> None:
    class Distilled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.teacher, self.student = language_model().requires_grad_(False), language_model()

        def forward(self) -> Tensor:
            with torch.no_grad():
                target = self.teacher(input_ids=IDS, attention_mask=MASK).logits
            return (self.student(input_ids=IDS, attention_mask=MASK).logits - target).square()

    layers = reading(Distilled(), lambda m: m()).layers
    assert [(layer.layer_name, layer.tokens) for layer in layers] == [
        (f"student.transformer.h.{i}.mlp.c_proj", REAL) for i in range(2)
    ]


def test_a_language_model_that_runs_without_gradients_is_no_part_of_the_training() -> None:
    class Probe(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.head = language_model(), nn.Linear(16, 2)

        def forward(self) -> Tensor:
            with torch.no_grad():
                hidden = self.model.transformer(IDS, attention_mask=MASK).last_hidden_state
            return self.head(hidden)  # type: ignore[no-any-return]

    with pytest.raises(SilentLayer, match=r"only calls without gradients .* name the layers that are trained"):
        reading(Probe(), lambda m: m())


def test_a_mixture_of_experts_is_watched_at_its_blocks_which_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """Not silently: the health is not that of its MLPs."""
    sizes = {"hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    experts = {"num_key_value_heads": 1, "num_local_experts": 4, "num_experts_per_tok": 2}
    model = MixtralForCausalLM(MixtralConfig(vocab_size=99, **sizes, **experts))
    with nf.FiringMonitor(model, every=1, write=False) as watched:
        model(IDS)
        watched.step()
    assert [layer.layer_name for layer in watched.history[0].layers] == ["model.layers.0", "model.layers.1"]
    said = "the neurons of the experts in MixtralForCausalLM are not watched, as a token has values of few of them"
    assert caplog.text.count(said) == 1  # there may be alerts beside it
    assert "read is resid (the outputs of the blocks)" in caplog.text
    caplog.clear()
    with nf.FiringMonitor(language_model(), write=False):
        pass
    assert "experts" not in caplog.text
