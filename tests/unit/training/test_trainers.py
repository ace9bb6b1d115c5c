"""The callbacks of transformers' Trainer and of Lightning: the same weights, and the history of the training."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import dropout_mlp, hooks_of, same_weights
from torch import nn

import nfinspect as nf
from nfinspect.analysis.history import read_history
from nfinspect.training.errors import NotReadable
from nfinspect_store.errors import NotInstalled


def trainer(folder: Path, watched: nf.FiringMonitor | None, **options: Any) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    torch.manual_seed(0)
    ids = {"vocab_size": 99, "bos_token_id": 1, "eos_token_id": 2}
    model = GPT2LMHeadModel(GPT2Config(**ids, n_embd=16, n_layer=2, n_head=2, n_positions=32))
    rows = torch.randint(3, 99, (64, 10), generator=torch.Generator().manual_seed(5))
    settings: dict[str, Any] = {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_steps": 12,
        "logging_steps": 1,
        "save_steps": 6,
        "eval_strategy": "steps",
        "eval_steps": 4,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 7,
        **options,
    }
    return Trainer(
        model=model,
        args=TrainingArguments(str(folder), **settings),
        train_dataset=[{"input_ids": row, "labels": row} for row in rows],
        eval_dataset=[{"input_ids": row, "labels": row} for row in rows[:8]],
        callbacks=[] if watched is None else [watched.trainer_callback()],
    )


@pytest.mark.filterwarnings("ignore::UserWarning:torch.*")
def test_the_trainer_gives_the_same_weights_and_a_history(tmp_path: Path) -> None:
    watched = nf.FiringMonitor(every=3, run="night", store=tmp_path / "store", gradients=True)
    bare = trainer(tmp_path / "a", None)  # draws the seed: so the other one is made after this one has trained
    bare.train()
    seen = trainer(tmp_path / "b", watched)
    seen.train()
    assert same_weights(bare.model, seen.model) and hooks_of(seen.model) == 0 and not watched.active
    history = read_history(tmp_path / "store" / "night.history.jsonl")
    assert [reading.step for reading in history.readings] == [1, 3, 6, 9, 12]
    # 2 passes of 4 x 10 tokens a step; the evaluations in between do not count.
    assert {layer.tokens for reading in history.readings for layer in reading.layers} == {80}
    assert history.status == "complete" and history.info["model"] == "GPT2LMHeadModel"
    # Every step is logged: each reading has its own step's loss, not that of the step before.
    logged = {row["step"]: row["loss"] for row in seen.state.log_history if "loss" in row}
    assert [reading.loss for reading in history.readings] == [logged[step] for step in (1, 3, 6, 9, 12)]

    resumed = nf.FiringMonitor(every=3, run="night", store=tmp_path / "store", resume=True)
    trainer(tmp_path / "b", resumed, max_steps=15).train(resume_from_checkpoint=str(tmp_path / "b" / "checkpoint-6"))
    history = read_history(tmp_path / "store" / "night.history.jsonl")
    assert [reading.step for reading in history.readings] == [1, 3, 6, 7, 9, 12, 15]


@pytest.mark.filterwarnings("ignore::UserWarning:torch.*")
@pytest.mark.parametrize("options", [{"logging_steps": 5}, {"logging_steps": 5, "logging_first_step": True}])
def test_a_loss_that_is_a_mean_over_several_steps_is_not_a_readings(tmp_path: Path, options: dict[str, Any]) -> None:
    watched = nf.FiringMonitor(every=2, write=False)
    trainer(tmp_path, watched, **options, eval_strategy="no").train()
    assert [reading.step for reading in watched.history] == [1, 2, 4, 6, 8, 10, 12]
    # The first step's own, where it is logged; those of steps 5 and 10 are means.
    assert [reading.loss is not None for reading in watched.history] == ["logging_first_step" in options] + [False] * 6


def test_data_parallel_copies_are_refused() -> None:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    class TwoCards(TrainingArguments):
        @property
        def n_gpu(self) -> int:
            return 2

    callback = nf.FiringMonitor(write=False).trainer_callback()
    with pytest.raises(NotReadable, match="torchrun"):
        callback.on_train_begin(TwoCards("x"), TrainerState(), TrainerControl(), model=dropout_mlp())


def lit(
    watched: nf.FiringMonitor | None, folder: Path, fail_at: int | None = None, losses: list[float] | None = None
) -> Any:
    """A Lightning training of six steps of two batches each. losses: gets the loss of each batch."""
    losses = [] if losses is None else losses
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import lightning.pytorch as pl

        class Module(pl.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.net = dropout_mlp()

            def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
                if batch_idx == fail_at:
                    raise ValueError("as it happens")
                values, labels = batch
                loss = nn.functional.cross_entropy(self.net(values), labels)
                losses.append(float(loss.detach()))
                return loss

            def validation_step(self, batch: Any, batch_idx: int) -> None:
                self.net(batch[0])

            def configure_optimizers(self) -> torch.optim.Optimizer:
                return torch.optim.Adam(self.parameters(), 1e-2)

        pl.seed_everything(3, verbose=False)
        module = Module()
        values = torch.randn(12 * 16, 8)
        data = torch.utils.data.TensorDataset(values, (values[:, 0] > 0).long())
        runner = pl.Trainer(
            max_epochs=1,
            accelerator="cpu",
            accumulate_grad_batches=2,
            val_check_interval=4,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            callbacks=[] if watched is None else [watched.lightning_callback()],
        )
        loaders = [torch.utils.data.DataLoader(data, batch_size=16) for _ in range(2)]
        runner.fit(module, *loaders)
        return module


def test_lightning_gives_the_same_weights_and_a_history(tmp_path: Path) -> None:
    watched = nf.FiringMonitor(every=2, run="lit", store=tmp_path)
    losses: list[float] = []
    bare, seen = lit(None, tmp_path), lit(watched, tmp_path, losses=losses)
    assert same_weights(bare, seen) and hooks_of(seen) == 0
    history = read_history(tmp_path / "lit.history.jsonl")
    assert [reading.step for reading in history.readings] == [1, 2, 4, 6] and history.status == "complete"
    assert history.layers == ("net.3", "net.7", "net.9")
    assert {layer.tokens for reading in history.readings for layer in reading.layers} == {32}
    # The mean of the step's two batches: what its gradients came from.
    own = [sum(losses[2 * step - 2 : 2 * step]) / 2 for step in (1, 2, 4, 6)]
    assert [reading.loss for reading in history.readings] == pytest.approx(own, rel=1e-6)


def test_lightning_that_fails_ends_the_history(tmp_path: Path) -> None:
    watched = nf.FiringMonitor(every=1, run="lit", store=tmp_path)
    with pytest.raises(ValueError, match="as it happens"):
        lit(watched, tmp_path, fail_at=5)
    history = read_history(tmp_path / "lit.history.jsonl")
    assert history.status == "failed" and [reading.step for reading in history.readings] == [1, 2]


def test_without_lightning_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import nfinspect.training.lightning as ours

    monkeypatch.setattr(ours, "PACKAGES", ("no_such_package",))
    with pytest.raises(NotInstalled, match="pip install lightning"):
        nf.FiringMonitor(write=False).lightning_callback()
