"""Train a small language model and its tokenizer from text files.

    python samples/train.py --arch gpt2 --out DIR TEXT[:REPEAT] ...

This is how the sample models were made; README.md has the two commands. Any UTF-8 text will do. With `FILE:5` the
training part of a file is used five times as often as with `FILE`; its held-out part counts once. The same texts,
options and thread count give the same model on the same machine.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from mamba_scan import selective_scan
from texts import END, Text, read
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.mamba import modeling_mamba

log = logging.getLogger("train")


@dataclass(frozen=True)
class Score:
    """Loss summed over held-out text (in nats), and the size of that text."""

    nats: float
    tokens: int
    size: int  # bytes of text

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    def __str__(self) -> str:
        bits = self.nats / math.log(2) / self.size
        return f"{self.loss:.3f} | {math.exp(self.loss):.2f} | {bits:.3f}"


def train_tokenizer(texts: list[Text], vocabulary: int, context: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the training parts, repeats included."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator((d for t in texts for _ in range(t.repeat) for d in t.train), trainer)
    ends = {"bos_token": END, "eos_token": END, "pad_token": END}
    return PreTrainedTokenizerFast(tokenizer_object=bpe, model_max_length=context, **ends)


def encode(tokenizer: PreTrainedTokenizerFast, docs: list[str]) -> Tensor:
    """int64[tokens] of the documents, with END after each."""
    rows = tokenizer(docs, add_special_tokens=False, verbose=False)["input_ids"]
    return torch.tensor([i for row in rows for i in [*row, tokenizer.eos_token_id]])


def build(args: argparse.Namespace, vocabulary: int, end: int) -> PreTrainedModel:
    """A newly initialised model of the given architecture."""
    shared = {"vocab_size": vocabulary, "bos_token_id": end, "eos_token_id": end, "pad_token_id": None}
    if args.arch == "mamba":
        modeling_mamba.mamba_selective_scan = selective_scan
        return MambaForCausalLM(
            MambaConfig(hidden_size=args.hidden, num_hidden_layers=args.layers, state_size=8, **shared)
        )
    shape = {
        "n_embd": args.hidden,
        "n_layer": args.layers,
        "n_head": args.hidden // 32,
        "n_positions": args.context,
    }
    no_dropout = {"embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0}
    # At this width 0.06 instead of 0.02 allows a higher learning rate: held-out loss 4.98, not 5.16, after 300 steps.
    return GPT2LMHeadModel(
        GPT2Config(activation_function="relu", initializer_range=0.06, **shape, **no_dropout, **shared)
    )


def windows(stream: Tensor, args: argparse.Namespace) -> Iterator[Tensor]:
    """Endless int64[batch, context + 1] from random positions of the stream."""
    dice = torch.Generator().manual_seed(args.seed)
    offsets = torch.arange(args.context + 1)
    while True:
        starts = torch.randint(len(stream) - args.context, (args.batch, 1), generator=dice)
        yield stream[starts + offsets]


def cross_entropy(model: PreTrainedModel, batch: Tensor, reduction: str) -> Tensor:
    logits = model(batch[:, :-1], use_cache=False).logits.float()
    return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction=reduction)


@torch.no_grad()
def score(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, text: Text, context: int) -> Score:
    """Loss on the held-out part, cut into windows; every token but the first is predicted once."""
    model.eval()
    ids = encode(tokenizer, text.held_out)
    nats = 0.0
    for start in range(0, len(ids) - 1, context):
        nats += cross_entropy(model, ids[None, start : start + context + 1], "sum").item()
    model.train()
    return Score(nats, len(ids) - 1, sum(len(d.encode()) for d in text.held_out))


def fit(model: PreTrainedModel, stream: Tensor, args: argparse.Namespace, save) -> None:
    """AdamW with warm-up and cosine decay of the rate to a tenth; weight decay only for matrices."""
    matrices = {n for n, p in model.named_parameters() if p.ndim >= 2 and "A_log" not in n and "conv" not in n}
    groups = [
        {
            "params": [p for n, p in model.named_parameters() if (n in matrices) == decays],
            "weight_decay": decay,
        }
        for decays, decay in ((True, args.weight_decay), (False, 0.0))
    ]
    optimiser = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.95))
    warm_up = max(1, args.steps // 25)

    def rate(step: int) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * max(0, step - warm_up) / max(1, args.steps - warm_up)))
        return min(1.0, (step + 1) / warm_up) * (0.1 + 0.9 * cosine)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    model.train()
    began, mean = time.monotonic(), math.nan
    for step, batch in zip(range(1, args.steps + 1), windows(stream, args), strict=False):
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bfloat16):
            loss = cross_entropy(model, batch, "mean")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
        mean = loss.item() if math.isnan(mean) else 0.98 * mean + 0.02 * loss.item()
        if step % 50 == 0:
            speed = step * args.batch * args.context / (time.monotonic() - began)
            log.info("step %d/%d  loss %.3f  %.0f tokens/s", step, args.steps, mean, speed)
        if args.save_every and step % args.save_every == 0 and step < args.steps:
            save()


def save_weights(model: PreTrainedModel, out: Path) -> None:
    """Save float16 weights; the configuration says float32, so `from_pretrained` loads float32."""
    weights = {name: value.half() for name, value in model.named_parameters()}  # the tied output once
    model.generation_config.pad_token_id = model.config.eos_token_id
    model.save_pretrained(out, state_dict=weights)
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"dtype": "float32"}, indent=2) + "\n")


def card(args: argparse.Namespace, texts: list[Text], scores: list[Score], parameters: int, seconds: float) -> str:
    """The model card, in Markdown."""
    total = Score(*(sum(getattr(s, part) for s in scores) for part in ("nats", "tokens", "size")))
    rows = [f"| {t.name} | {t.size:,} | {t.repeat} | {s} |" for t, s in zip(texts, scores, strict=True)]
    kind = "GPT-2 with ReLU" if args.arch == "gpt2" else "Mamba"
    return "\n".join([
        f"# {args.out.name}\n",
        f"A {kind} of {args.layers} layers × {args.hidden} hidden, {parameters:,} parameters,",
        "trained by `samples/train.py`.\n",
        f"- tokenizer: byte-level BPE, {args.vocabulary:,} tokens, trained on the same texts",
        f"- training: {args.steps:,} steps of {args.batch} × {args.context} tokens"
        f" ({args.steps * args.batch * args.context:,} tokens seen), AdamW, peak learning rate {args.lr:g},"
        f" weight decay {args.weight_decay:g}, cosine to a tenth, seed {args.seed}",
        f"- context in training: {args.context} tokens",
        f"- time: {seconds / 60:.0f} CPU minutes, {torch.get_num_threads()} of {os.cpu_count()} CPU cores",
        "- weights: float16 on disk, loaded as float32; trained in float32"
        + (", matrix products in bfloat16" if args.bfloat16 else ""),
        f"- held out: {args.held_out:.0%} of the documents of every file, never trained on\n",
        "Held-out loss is measured on the weights as saved.\n",
        "| text | bytes | repeat | held-out loss, nats per token | perplexity per token | bits per byte |",
        "|---|---:|---:|---:|---:|---:|",
        *rows,
        f"| all held-out text | | | {total} |\n",
    ])  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a small language model and its tokenizer from text files.")
    parser.add_argument("texts", nargs="+", metavar="TEXT[:REPEAT]")
    parser.add_argument("--arch", choices=("gpt2", "mamba"), required=True)
    parser.add_argument("--out", type=Path, required=True)
    sizes = {"layers": 4, "hidden": 192, "vocabulary": 4096, "context": 256, "batch": 4, "steps": 7000}
    others = {"seed": 0, "threads": 1, "save-every": 0}
    rates = {"lr": 2e-3, "weight-decay": 0.1, "held-out": 0.1}
    for name, default in (sizes | others | rates).items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help="default %(default)s")
    parser.add_argument("--bfloat16", action="store_true", help="matrix products in bfloat16: 1.6 times as fast")
    return parser.parse_args()


def main() -> None:
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    began = time.process_time()
    texts = [read(spec, args.held_out, args.seed) for spec in args.texts]
    tokenizer = train_tokenizer(texts, args.vocabulary, args.context)
    tokenizer.save_pretrained(args.out)
    stream = torch.cat([encode(tokenizer, t.train) for t in texts for _ in range(t.repeat)])
    model = build(args, len(tokenizer), tokenizer.eos_token_id)
    log.info("%d training tokens, %d parameters", len(stream), model.num_parameters())
    fit(model, stream, args, lambda: save_weights(model, args.out))
    save_weights(model, args.out)
    saved = AutoModelForCausalLM.from_pretrained(args.out)
    scores = [score(saved, tokenizer, text, args.context) for text in texts]
    seconds = time.process_time() - began
    (args.out / "README.md").write_text(card(args, texts, scores, saved.num_parameters(), seconds), encoding="utf-8")
    for text, result in zip(texts, scores, strict=True):
        log.info("%s: held-out %s", text.name, result)


if __name__ == "__main__":
    main()
