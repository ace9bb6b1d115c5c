"""What gpu_check.py checks and measures."""

import json
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch._dynamo.utils import counters
from transformers import CompileConfig, GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import nfinspect as nf
from nfinspect.capturing.batch import PromptRows
from nfinspect.capturing.statistics import LayerStatistics
from nfinspect_store import kernels
from nfinspect_store.types import Prompt
from tests.waits import LONG, SHORT, per_step

ROOT = Path(__file__).parents[2]
SAMPLES = ("gpt2-relu", "mamba")
TEXTS = ["The tulip growers walked", "A soldier in the war", "He"]

EXACT = 1e-4
"""How far a float32 value on the device may be from the CPU's, relative to the layer's largest."""

ROUNDED = 2**-6
"""The same for bfloat16, which has 8 bits: other kernels may round some operations of a few layers the other way."""

PARTS = ("values", "statistics", "half_precision", "compiled", "cost", "compiled_cost")
"""What is checked and measured, in this order; each is a function below."""

SECONDS = 330
"""After these nothing more is measured: it is told what was left out."""

PROMPT = 64
VALUES_A_SECOND = 3e8
"""What is reckoned with when it is decided whether there is time to store every value."""


class Findings:
    """What was found, told line by line."""

    def __init__(self, device: str, quick: bool) -> None:
        self.began = time.monotonic()
        name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"
        self.about = {
            "device": name,
            "quick": quick,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": sys.version.split()[0],
            "processors": os.cpu_count(),
            "loops": "compiled" if kernels.compiled() else "in numpy",
        }
        self.checks: list[dict[str, Any]] = []
        self.measures: list[dict[str, Any]] = []
        print(", ".join(f"{key} {value}" for key, value in self.about.items()), flush=True)
        if quick:
            print("sizes of --quick: no figure below is a measurement", flush=True)

    def check(self, name: str, right: bool, found: str) -> None:
        """Whether something is as it should be."""
        self.checks.append({"name": name, "right": bool(right), "found": found})
        print(f"{'right' if right else 'WRONG'}  {name}: {found}", flush=True)

    def measure(self, name: str, **figures: Any) -> None:
        self.measures.append({"name": name, **figures})
        print(f"       {name}: {', '.join(f'{key} {_short(value)}' for key, value in figures.items())}", flush=True)

    @property
    def left(self) -> float:
        """Seconds."""
        return SECONDS - (time.monotonic() - self.began)

    @property
    def right(self) -> bool:
        return all(one["right"] for one in self.checks)

    def to_json(self) -> dict[str, Any]:
        seconds = round(time.monotonic() - self.began, 1)
        return {**self.about, "seconds": seconds, "checks": self.checks, "measures": self.measures}


def _short(value: Any) -> str:
    return (
        f"{value:.3g}"
        if isinstance(value, float) and abs(value) < 1000
        else f"{value:,.0f}"
        if isinstance(value, float)
        else str(value)
    )


def check(device: str, *, quick: bool, store: Path | None, result: Path | None, only: Sequence[str] = ()) -> int:
    """All of it, or `only` some of PARTS; returns the exit status: 0 if everything is right. store: where runs are
    written.
    """
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    findings = Findings(device, quick)
    place = Path(tempfile.mkdtemp(prefix="nfinspect-", dir=store))
    try:
        for part in (globals()[name] for name in PARTS if not only or name in only):
            try:
                part(findings, device, place, quick)
            except Exception as error:  # the other parts are worth running all the same
                findings.check(part.__name__, False, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    finally:
        shutil.rmtree(place, ignore_errors=True)
    print(
        f"{'everything is right' if findings.right else 'SOMETHING IS WRONG'}, {findings.to_json()['seconds']} s",
        flush=True,
    )
    if result is not None:
        result.write_text(json.dumps(findings.to_json(), indent=1) + "\n", encoding="utf-8")
    return 0 if findings.right else 1


# Values


def values(findings: Findings, device: str, place: Path, quick: bool) -> None:
    """float32 on the device against the CPU, and live against replay."""
    for sample in SAMPLES:
        directory = ROOT / "samples" / sample
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
        found = {}
        for where in ("cpu", device):
            model = transformers.AutoModelForCausalLM.from_pretrained(directory).to(where).eval()
            for mode in ("live", "replay"):
                how: dict[str, Any] = {"generate": 8, "mode": mode, "store": place}
                with nf.capture(model, tokenizer, {"t": TEXTS}, run=f"{sample}{len(found)}{mode}", **how) as run:
                    found[where == "cpu" and device != "cpu", mode] = _contents(run)
        on_device = found[False, "live"], found[False, "replay"]
        _alike(findings, f"{sample}: live and replay", *on_device)
        if device != "cpu":
            _alike(findings, f"{sample}: {device} and the CPU", on_device[0], found[True, "live"])


def _contents(run: nf.Run) -> dict[str, Any]:
    return {
        "tokens": run.sql("SELECT prompt_idx, token_id FROM tokens ORDER BY token_idx").fetchall(),
        "values": [np.asarray(run.activations(x.site, x.layer)) for x in run.layers],
        "neurons": run.sql("SELECT mean, max, firing_rate, class FROM neurons ORDER BY site, layer, neuron").fetchall(),
    }


def _alike(findings: Findings, name: str, one: dict[str, Any], other: dict[str, Any]) -> None:
    findings.check(f"{name}: tokens", one["tokens"] == other["tokens"], f"{len(one['tokens'])} of them")
    if one["tokens"] != other["tokens"]:
        return
    pairs = list(zip(one["values"], other["values"], strict=True))
    off = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)
    findings.check(f"{name}: values", off <= EXACT, f"{off:.1e} of the largest apart, {EXACT:g} allowed")
    same = sum(a[3] == b[3] for a, b in zip(one["neurons"], other["neurons"], strict=True))
    share = same / len(one["neurons"])
    findings.check(f"{name}: classes", share >= 0.999, f"{same} of {len(one['neurons'])} neurons in the same class")


def statistics(findings: Findings, device: str, place: Path, quick: bool) -> None:
    """What is computed of the same values on the device and by the CPU's loops."""
    sizes, neurons = [40, 1, 300, 77], 96
    rng = np.random.default_rng(0)
    given = (rng.standard_normal((sum(sizes), neurons)) * np.geomspace(1e-3, 1e3, neurons)).astype(np.float32)
    fired = rng.random(given.shape) < 0.3
    starts = np.cumsum([0, *sizes[:-1]])
    prompts = [
        Prompt(i, "c", "", int(start), size, size) for i, (start, size) in enumerate(zip(starts, sizes, strict=True))
    ]
    rows = PromptRows.of(prompts, [True] * len(sizes), 0)
    here, there = (LayerStatistics(neurons, "gate") for _ in range(2))
    means = here.add(rows, given, fired)
    found = there.add(rows, torch.from_numpy(given).to(device), torch.from_numpy(fired).to(device))
    exact = all(
        np.array_equal(getattr(one, name), getattr(there.groups()[key], name))
        for key, one in here.groups().items()
        for name in ("n", "fired", "minimum", "maximum")
    )
    findings.check("statistics: counts and extremes", exact, "equal to the last bit" if exact else "they differ")
    counted = all(np.array_equal(counts, there.histograms()[key]) for key, counts in here.histograms().items())
    findings.check("statistics: histograms", counted, "equal" if counted else "they differ")
    off = max(
        float(np.abs(getattr(one, name) - getattr(there.groups()[key], name)).max() / np.abs(getattr(one, name)).max())
        for key, one in here.groups().items()
        for name in ("mean", "sum_abs", *(("m2", "m4") if one.n[0] > 4 else ()))
    )
    off = max(off, float(np.abs(found - means).max() / np.abs(means).max()))
    findings.check("statistics: moments and means", off <= 1e-6, f"{off:.1e} of the largest apart")
    assert here.extremes is not None and there.extremes is not None
    top = np.array_equal(here.extremes.token_idx, there.extremes.token_idx)
    findings.check("statistics: examples", top, "the same tokens" if top else "other tokens")
    _alone(findings, device)


def _alone(findings: Findings, device: str) -> None:
    """A prompt's statistics in a batch against those of the prompt alone: the same sums, in the same order."""
    sizes, neurons = [577, 41, 300, 33], 1408
    generator = torch.Generator().manual_seed(0)
    given = torch.randn(sum(sizes), neurons, generator=generator).to(device, torch.bfloat16)
    together, each = (LayerStatistics(neurons, "positive") for _ in range(2))
    starts = np.cumsum([0, *sizes[:-1]]).tolist()
    prompts = [Prompt(i, "c", "", a, n // 2, n) for i, (a, n) in enumerate(zip(starts, sizes, strict=True))]
    together.add(PromptRows.of(prompts, [True] * len(sizes), 0), given, None)
    for one in prompts:
        rows = given[one.first_token : one.first_token + one.tokens]
        each.add(PromptRows.of([one], [True], one.first_token), rows, None)
    pairs = [
        (getattr(together.groups()[key], name), getattr(each.groups()[key], name))
        for key in (False, True)
        for name in ("n", "fired", "mean", "m2", "m3", "m4", "minimum", "maximum", "sum_abs")
    ]
    same = all(np.array_equal(a, b) for a, b in pairs)
    off = max(float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-300)) for a, b in pairs)
    found = "equal to the last bit" if same else f"{off:.1e} of the largest apart"
    findings.check("statistics: of prompts alone and in a batch", off <= 1e-12, found)


def half_precision(findings: Findings, device: str, place: Path, quick: bool) -> None:
    """bfloat16 against plain hooks in an eager pass over the same batch."""
    model, tokenizer = llama(device, quick=True)
    ids = drawn(model, 3, 24)
    seen: dict[int, Tensor] = {}
    handles = [
        block.mlp.down_proj.register_forward_pre_hook(lambda m, args, i=i: seen.__setitem__(i, args[0].float().cpu()))
        for i, block in enumerate(model.model.layers)
    ]
    with torch.no_grad():
        model(torch.tensor(ids, device=device), use_cache=False)
    for handle in handles:
        handle.remove()
    with nf.capture(model, tokenizer, ids, batch_size=3, store=place, run="half") as run:
        found = {x.layer: np.asarray(run.activations("mlp", x.layer)) for x in run.layers}
    off = max(float(np.abs(found[i] - one.flatten(0, 1).numpy()).max() / one.abs().max()) for i, one in seen.items())
    findings.check("bfloat16 and plain hooks", off <= ROUNDED, f"{off:.1e} of the largest apart, {ROUNDED:.1e} allowed")


def compiled(findings: Findings, device: str, place: Path, quick: bool) -> None:
    """Decoding steps as one compiled graph, on a GPU a CUDA graph, against plain steps, in float32."""
    model, tokenizer = llama(device, quick=True)
    model.float()
    model.generation_config.compile_config = _how_compiled(device)
    prompts = [*drawn(model, 2, 9), *drawn(model, 1, 4), *drawn(model, 3, 9)]
    how: dict[str, Any] = {"generate": 8, "mode": "live", "batch_size": 3, "store": place}
    with nf.capture(model, tokenizer, {"t": prompts}, run="plain", **how) as run:
        expected = _contents(run)
    counters.clear()
    with nf.capture(model, tokenizer, {"t": prompts}, run="compiled", compiled=True, **how) as run:
        _alike(findings, "compiled steps and plain ones", _contents(run), expected)
    made = counters["stats"]["unique_graphs"]
    findings.check("compiled steps: one graph for all steps and batches", made == 1, f"{made} made")
    left_out = counters["inductor"]["cudagraph_skips"]
    findings.check("compiled steps: no CUDA graph was given up", left_out == 0, f"{left_out} given up")


def _how_compiled(device: str) -> CompileConfig:
    """transformers' default, which is for GPUs: machine code, replayed as a CUDA graph. On the CPU the graph alone."""
    return CompileConfig() if device.startswith("cuda") else CompileConfig(backend="aot_eager", mode="default")


# Cost


def llama(device: str, *, quick: bool) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A Llama of 8B, or a tiny one, with random weights in bfloat16, that never ends a text."""
    sizes: dict[str, int] = {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 128_256,
    }  # fmt: skip
    if quick:
        sizes = {
            "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": 500,
        }  # fmt: skip
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(LlamaConfig(**sizes, max_position_embeddings=2048, pad_token_id=0))
    finally:
        torch.set_default_dtype(torch.float32)
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(sizes["vocab_size"])}, unk_token="t0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return model.eval(), PreTrainedTokenizerFast(tokenizer_object=words, pad_token="t0")


def drawn(model: LlamaForCausalLM, count: int, tokens: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(2, model.config.vocab_size, (count, tokens), generator=generator).tolist()


def bare(model: LlamaForCausalLM, prompts: Sequence[Sequence[int]], **options: Any) -> Callable[[int], object]:
    """transformers' generation alone. options: of its config."""
    ids = torch.tensor(prompts, device=model.device)
    mask = torch.ones_like(ids)

    def write(new: int) -> object:
        config = GenerationConfig(max_new_tokens=new, do_sample=False, pad_token_id=0, eos_token_id=None, **options)
        with torch.inference_mode():
            return model.generate(ids, attention_mask=mask, generation_config=config)

    return write


def cost(findings: Findings, device: str, place: Path, quick: bool) -> None:
    """Generation with a capture against generation alone."""
    new, batches = (8, (1, 2)) if quick else (512, (1, 8, 32))
    disk = disk_rate(place, 16 if quick else 4096)
    findings.measure("one file written and synced", GB_a_second=disk)
    start = time.perf_counter()
    model, tokenizer = llama(device, quick=quick)
    _synced(device)
    findings.measure("the model made", seconds=time.perf_counter() - start)
    numbers = iter(range(10**6))

    def captured(prompts: Sequence[Sequence[int]], new: int, keep: Any, mode: Any) -> int:
        """Returns the bytes of the run's file."""
        name = f"run{next(numbers)}"
        how: dict[str, Any] = {"generate": new, "batch_size": len(prompts), "keep": keep, "mode": mode, "store": place}
        nf.capture(model, tokenizer, prompts, run=name, **how).close()
        file = place / f"{name}.duckdb"
        size = file.stat().st_size
        file.unlink()
        return size

    small = drawn(model, 2, 8)
    for mode in ("live", "replay"):  # what is found out about a model by running it is found out here
        captured(small, 2, "stats", mode)
    _waits(findings, device, bare(model, small), lambda new: captured(small, new, "stats", "live"))
    later = []
    for count in batches:
        prompts = drawn(model, count, PROMPT)
        write = bare(model, prompts)
        write(4)
        alone = _seconds(device, lambda write=write: write(new))
        findings.measure(f"{count} texts, bare", seconds=alone, tokens_a_second=count * new / alone)
        later += [(count, prompts, alone, keep, mode) for keep, mode in (("all", "live"),)]
        for keep, mode in (("stats", "live"), ("stats", "replay"), ("all", "replay")):
            _measured(findings, device, place, captured, (count, prompts, alone, keep, mode), new, disk, model)
    for one in later:
        _measured(findings, device, place, captured, one, new, disk, model)


def compiled_cost(findings: Findings, device: str, place: Path, quick: bool) -> None:
    """What a capture adds to compiled generation: of a second batch, as the first one waits for the compiler."""
    new, batches = (4, (2,)) if quick else (512, (1, 8))
    model, tokenizer = llama(device, quick=quick)
    how = model.generation_config.compile_config = _how_compiled(device)
    how._compile_all_devices = True
    for count in batches:
        name = f"{count} texts, compiled"
        if findings.left < (0 if quick else 150):
            findings.measure(name, left_out="no time left: --part compiled_cost measures it alone")
            continue
        prompts = drawn(model, 2 * count, PROMPT)
        write = bare(
            model, prompts[:count], cache_implementation="static", max_cache_len=PROMPT + new + 1, compile_config=how
        )
        write(4)
        alone = _seconds(device, lambda write=write: write(new))
        findings.measure(f"{name}, bare", seconds=alone, tokens_a_second=count * new / alone)

        def run(texts: int, mode: Any, count: int = count, prompts: Any = prompts) -> None:
            name = f"compiled{texts}{mode}"
            nf.capture(
                model, tokenizer, prompts[:texts], generate=new, batch_size=count, keep="stats", mode=mode,
                compiled=True, store=place, run=name,
            ).close()  # fmt: skip
            (place / f"{name}.duckdb").unlink()

        for mode in ("live", "replay"):
            # The very first fills the compiler's caches: else the second batch would seem to cost less than nothing.
            first, one, two = (
                _seconds(device, lambda texts=texts, mode=mode: run(texts, mode)) for texts in (count, count, 2 * count)
            )
            more = two - one
            findings.measure(f"{name}, keep stats, {mode}", seconds=more, times_bare=more / alone, first_batch=first)


def _measured(
    findings: Findings,
    device: str,
    place: Path,
    captured: Callable[..., int],
    one: Any,
    new: int,
    disk: float,
    model: Any,
) -> None:
    count, prompts, alone, keep, mode = one
    name = f"{count} texts, keep {keep}, {mode}"
    neurons = model.config.intermediate_size * model.config.num_hidden_layers
    number = neurons * count * (PROMPT + new)
    room = shutil.disk_usage(place).free
    if keep == "all" and room < 6 * number:
        findings.measure(name, left_out=f"{6 * number / 1e9:.0f} GB of disk wanted, {room / 1e9:.0f} free")
        return
    if findings.left < 1.5 * alone + (number / VALUES_A_SECOND if keep == "all" else 0):
        findings.measure(name, left_out="no time left")
        return
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    size = 0

    def run() -> None:
        nonlocal size
        size = captured(prompts, new, keep, mode)

    seconds = _seconds(device, run)
    figures: dict[str, Any] = {
        "seconds": seconds,
        "times_bare": seconds / alone,
        "tokens_a_second": count * new / seconds,
    }
    if keep == "all":
        rate = size / seconds / 1e9
        figures |= {"GB": size / 1e9, "GB_a_second": rate, "of_the_disk": rate / disk, "bytes_a_value": size / number}
    if device.startswith("cuda"):
        figures["peak_GB"] = torch.cuda.max_memory_allocated(device) / 1e9
    findings.measure(name, **figures)


def _waits(findings: Findings, device: str, write: Callable[[int], object], capture: Callable[[int], object]) -> None:
    """How often a step waits for the device, bare and captured."""
    if device.startswith("cuda"):
        alone, ours = _synchronisations(write), _synchronisations(capture)
    else:
        alone, ours = (sum(per_step(one).values()) for one in (write, capture))
    found = f"{ours:g} a step, {alone:g} of them transformers' own"
    findings.check("a captured step waits for the device no more often than a bare one", ours <= alone, found)


def _synchronisations(generate: Callable[[int], object]) -> float:
    """Of one step, as torch counts them: the difference between a long and a short generation."""
    counts = []
    for new in (SHORT, LONG):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                generate(new)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        counts.append(sum("synchroniz" in str(one.message) for one in told))
    return (counts[1] - counts[0]) / (LONG - SHORT)


def _seconds(device: str, work: Callable[[], object]) -> float:
    _synced(device)
    start = time.perf_counter()
    work()
    _synced(device)
    return time.perf_counter() - start


def _synced(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def disk_rate(place: Path, megabytes: int) -> float:
    """GB a second of one file, written in pieces of 16 MB and synced, as dd does it."""
    piece = np.random.default_rng(0).bytes(16 * 2**20)
    file = place / "disk"
    start = time.perf_counter()
    with file.open("wb", buffering=0) as opened:
        for _ in range(max(1, megabytes // 16)):
            opened.write(piece)
        os.fsync(opened.fileno())
    seconds = time.perf_counter() - start
    size = file.stat().st_size
    with suppress(OSError):
        file.unlink()
    return size / seconds / 1e9
