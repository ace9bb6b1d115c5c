"""Every decoder family of the installed transformers, read by nfinspect and beside it by plain hooks.

    python tests/sweep/sweep.py            what is not done yet, then docs/models.md
    python tests/sweep/sweep.py llama bert these, and nothing is written
    python tests/sweep/sweep.py --rows llama  these, and their rows of docs/models.md

A family is done when its result lies in build/models: a sweep that was stopped goes on. Exit status 1 if anything is
wrong.
"""

import json
import re
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path[:0] = [
    str(Path(__file__).parent),
    *(str(Path(__file__).parents[1] / "unit" / f) for f in ("models", "capture")),
]

import reference as ref  # noqa: E402
import tiny  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from words import word_tokenizer  # noqa: E402

from nfinspect.capturing.generation import generate  # noqa: E402
from nfinspect.capturing.reading import BatchReader  # noqa: E402
from nfinspect.capturing.writing import writing  # noqa: E402
from nfinspect.models import (  # noqa: E402
    Batch,
    Dependence,
    LayerSite,
    Routing,
    SiteReader,
    UnknownSite,
    body,
    default_site,
    dependence,
    find_sites,
    forward_batch,
    in_memory,
    why_no_mlp,
)
from nfinspect_store.errors import NfinspectError  # noqa: E402
from nfinspect_store.types import MLP_SITES, SITES  # noqa: E402

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "build" / "models"
PAGE = ROOT / "docs" / "models.md"

PROMPTS = [[5, 9, 11, 23, 40, 8, 77], [50, 13, 17], [7, 8, 9, 10, 61]]
NEW_TOKENS = 2

REASONS = {
    "mixture of experts": "experts",
    "experts": "experts",
    " share: it runs": "shared between layers",
    "several streams": "several streams",
    "next to each other": "no single blocks",
    "runs over token ids alone": "needs more than token ids",
    "expected a list of": "blocks not found",
    "runs only with other inputs": "layers for other inputs",
    "another shape than begin": "tokens of its own",
    "not the output projection": "no output projection",
    "not known which part of": "gate not known",
    "head by head": "gates head by head",
    "pass its attention mask on": "its mask gets lost in generation: one prompt at a time",
}
"""Words of a refusal, and how the table says it."""


@dataclass
class Result:
    """What the sweep found of one family: a line of the table. `wrong` is what must be empty."""

    family: str
    sites: dict[str, str] = field(default_factory=dict)
    default: str = ""
    reads: str = ""
    note: str = ""
    not_tried: str = ""
    wrong: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        if self.wrong:
            return "WRONG"
        if self.not_tried:
            return "not tried"
        if self.default not in SITES or self.sites[self.default].startswith("refused"):
            return "refused"
        return "exact, no MLP" if self.note else "exact"


class Family:
    """One family's model, run plainly and read by nfinspect."""

    def __init__(self, family: str) -> None:
        self.result = Result(family)
        self.model: Any = tiny.tiny_model(family)
        self.traces = [self.traced(ids) for ids in PROMPTS]
        self.blocks = ref.block_names(self.model, self.traces[0])
        self._experts: dict[tuple[str | int, ...], ref.Experts | None] = {}
        self.neurons = {n.module: n for block in self.blocks for n in ref.mlps(self.model, self.traces[0], block)}

    def traced(self, ids: list[int]) -> ref.Trace:
        with ref.traced(self.model) as trace, torch.no_grad():
            self.model(input_ids=torch.tensor([ids]))
        return trace

    def run(self) -> None:
        with torch.no_grad():
            self.model(input_ids=torch.tensor([PROMPTS[0]]))

    def wrong(self, text: str) -> None:
        self.result.wrong.append(text)

    def sweep(self) -> Result:
        reads = self.asked(lambda: dependence(self.model))
        if isinstance(reads, str):
            self.result.reads = reads
            return self.result
        self.say_how_it_reads(reads)
        default = self.asked(lambda: default_site(self.model, experts=True))
        self.result.default = default
        self.result.note = self.asked(lambda: why_no_mlp(self.model))
        exact: list[LayerSite] = []
        for site in SITES:
            found = self.asked(lambda site=site: find_sites(self.model, [site], experts=True), site)
            if isinstance(found, str):
                self.result.sites[site] = found
                if site == "mlp" and found.startswith("refused"):
                    self.result.sites[site] += self.layers_apart()
                continue
            read = self.asked(lambda found=found: self.read(found))
            if isinstance(read, str):
                self.result.sites[site] = read
                continue
            modules = dict.fromkeys((s.module.removeprefix(self.block_of(s) + "."), s.experts > 0) for s in found)
            names = [f"`{name}` (experts)" if mixed else f"`{name}`" for name, mixed in modules]
            self.result.sites[site] = "yes" if site == "resid" else ", ".join(names)
            self.check_site(found, read)
            exact += found
        if exact:
            self.check_dependence(reads)
            self.check_padding(exact, reads)
            if reads.causal:
                self.check_generation(exact, reads)
        return self.result

    def asked(self, question: Callable[[], Any], site: str = "") -> Any:
        """The answer, or the refusal in words. An exception of another kind is wrong."""
        try:
            return question()
        except UnknownSite as error:
            if site and "has none" in str(error):
                return "none"
            return f"refused: {error}"
        except NfinspectError as error:
            words = str(error)
            return "refused: " + next((short for known, short in REASONS.items() if known in words), words)
        except Exception as error:
            self.wrong(f"{type(error).__name__}: {error} | {traceback.format_exc()[-400:]}")
            return "refused: a defect"

    def block_of(self, site: LayerSite) -> str:
        return self.blocks[site.layer]

    def check_dependence(self, reads: Dependence) -> None:
        """Against plain passes: does an earlier position move with the last token?"""
        other = [*PROMPTS[0][:-1], 90]
        with torch.no_grad():
            one, two = (self.model(input_ids=torch.tensor([ids])).logits[:, :-1] for ids in (PROMPTS[0], other))
        if reads.causal != ref.close(one, two):
            self.wrong(f"{reads}, but plain passes differ by {float((one - two).abs().max())}")

    def say_how_it_reads(self, reads: Dependence) -> None:
        sides = [side for side in ("left", "right") if getattr(reads, side)]
        self.result.reads = " and ".join(sides) or "equal lengths"
        if not reads.causal:
            self.result.reads = "sees ahead: " + self.result.reads

    def layers_apart(self) -> str:
        """Of a model whose MLPs cannot be read in some layers: the layers where they can."""
        read = []
        for layer in range(len(self.blocks)):
            found = self.asked(lambda layer=layer: find_sites(self.model, ["mlp"], [layer], experts=True), "mlp")
            if not isinstance(found, str):
                values = self.asked(lambda found=found: self.read(found))
                if not isinstance(values, str):
                    self.check_site(found, values)
                    read.append(str(layer))
        missing = [n for n in self.neurons if any(n.startswith(f"{self.blocks[int(i)]}.") for i in read)]
        return f", but in layer {', '.join(read)}" if read and missing else ""

    def read(self, sites: list[LayerSite]) -> dict[LayerSite, tuple[Tensor, Tensor | None]]:
        """By SiteReader, one prompt alone, with its own check of the first pass."""
        return self.read_batch(sites, forward_batch(self.model, PROMPTS[:1], pad_id=0))

    def read_batch(self, sites: list[LayerSite], batch: Batch) -> dict[LayerSite, tuple[Tensor, Tensor | None]]:
        """[batch, tokens, neurons] of each site; NaN in values of experts that were not chosen, and 0 in what fired."""
        values: dict[LayerSite, tuple[Tensor, Tensor | None]] = {}
        chosen: dict[LayerSite, Routing] = {}

        def take(site: LayerSite, found: Tensor, fired: Tensor | None) -> None:
            if site.experts:
                found = spread(site, found, chosen[site].experts)
                fired = None if fired is None else spread(site, fired, chosen[site].experts) > 0
            values[site] = found.clone(), None if fired is None else fired.clone()

        with SiteReader(self.model, sites, take, routing=chosen.__setitem__) as reader, torch.no_grad():
            reader.begin(*batch.input_ids.shape, batch.valid)
            body(self.model)(**batch.inputs())
            reader.end()
        return values

    def value(self, site: LayerSite, trace: ref.Trace, ids: list[int]) -> Tensor | None:
        """What plain hooks say of a site, [tokens, neurons]. ids: the tokens of the trace."""
        if site.experts:
            experts = self.experts(site.module, ids)
            return None if experts is None else experts.values
        calls = trace.of(site.module)
        if len(calls) != 1:
            self.wrong(f"{site.module} ran {len(calls)} times")
            return None
        value = calls[0].gave if site.site == "resid" else calls[0].given
        return None if value is None else value.reshape(-1, value.shape[-1])

    def experts(self, module: str, ids: list[int]) -> ref.Experts | None:
        key = (module, *ids)
        if key not in self._experts:
            self._experts[key] = ref.experts(self.model, module, ids)
            if self._experts[key] is None:
                self.wrong(f"{module}: its output is not made of act(…) of its first projection")
        return self._experts[key]

    def check_site(self, sites: list[LayerSite], read: dict[LayerSite, tuple[Tensor, Tensor | None]]) -> None:
        for site in sites:
            values, fired = read[site]
            wanted = self.value(site, self.traces[0], PROMPTS[0])
            if wanted is None or not same(values, wanted):
                self.wrong(f"{site.site} of layer {site.layer}: other values at {site.module}")
            if site.experts:
                self.check_experts(site, fired)
            elif site.site in MLP_SITES:
                self.check_mlp(site, fired)
            elif site.site == "resid":
                if site.module != self.block_of(site):
                    self.wrong(f"resid of layer {site.layer} is {site.module}, not {self.block_of(site)}")
            else:
                self.check_returned(site)
            if site.gate is not None:
                self.check_gate(site)
        layers = {site.layer for site in sites}
        for layer, block in enumerate(self.blocks):
            there = {
                "mlp": self.neurons_in(block),
                "shared": self.neurons_in(block) if self.has_experts(block) else [],
                "attn": ref.attentions(self.model, self.traces[0], block),
                "mixer": ref.mixers(self.model, block),
            }.get(sites[0].site, [])
            if layer not in layers and there and len(sites) > 1:
                self.wrong(f"{sites[0].site} of layer {layer} was not found, but there is {there}")

    def neurons_in(self, block: str) -> list[str]:
        return [name for name in self.neurons if name.startswith(block + ".")]

    def has_experts(self, block: str) -> bool:
        return any(name.startswith(f"{block}.") and name.endswith(".experts") for name, _ in self.model.named_modules())

    def check_mlp(self, site: LayerSite, fired: Tensor | None) -> None:
        """The value is act(g) or act(g) x u; it fires by g; and what is made of it moves the block's output."""
        neurons = self.neurons.get(site.module)
        if neurons is None:
            self.wrong(f"{site.site} of layer {site.layer}: {site.module} is given no act(…)")
            return
        if (neurons.gate is not None) != (fired is not None):
            self.wrong(f"{site.site} of layer {site.layer} fires by {site.fires}, but it is {neurons.how}")
        if fired is not None and neurons.gate is not None:
            clear = neurons.gate.abs() > 1e-5
            if not torch.equal(fired.reshape(neurons.gate.shape)[clear], neurons.gate[clear] > 0):
                self.wrong(f"{site.site} of layer {site.layer} fires by {site.gate}, but it is {neurons.how}")
        own = neurons.how.startswith(("act", "clamped")) or "norm(" in neurons.how
        if fired is None and site.activation.split("_")[0] not in neurons.how and not own:
            self.wrong(f"{site.site} of layer {site.layer}: activation {site.activation}, but it is {neurons.how}")
        moved, _ = ref.reaches(self.model, site.module, self.block_of(site), self.run)
        if not moved:
            self.wrong(f"{site.site} of layer {site.layer}: the block does not go on with {site.module}")

    def check_experts(self, site: LayerSite, fired: Tensor | None) -> None:
        """It fires by its gate, and what is made of it moves the block's output."""
        experts = self.experts(site.module, PROMPTS[0])
        if experts is None:
            return
        if (experts.gate is not None) != (fired is not None):
            self.wrong(f"{site.site} of layer {site.layer} fires by {site.fires}, but it is {experts.how}")
        elif experts.gate is not None and fired is not None:
            clear = experts.gate.abs() > 1e-5
            if not torch.equal(fired.reshape(clear.shape)[clear], experts.gate[clear] > 0):
                self.wrong(f"{site.site} of layer {site.layer} fires otherwise than the gate in {experts.how}")
        moved, _ = ref.reaches(self.model, site.module, self.block_of(site), self.run)
        if not moved:
            self.wrong(f"{site.site} of layer {site.layer}: the block does not go on with {site.module}")

    def check_returned(self, site: LayerSite) -> None:
        """The projection gives what its attention, or its mixer, returns."""
        block, trace = self.block_of(site), self.traces[0]
        owners = ref.attentions(self.model, trace, block) if site.site == "attn" else ref.mixers(self.model, block)
        owners = [f"{block}.{owner}" for owner in owners if site.module.startswith(f"{block}.{owner}.")]
        out = trace.of(site.module)[0].gave
        if not owners or out is None:
            self.wrong(f"{site.site} of layer {site.layer}: {site.module} is in no {site.site}")
        elif not any(ref.returns(trace, owner, block, out) for owner in owners):
            self.wrong(f"{site.site} of layer {site.layer}: not what {owners} returns")

    def check_gate(self, site: LayerSite) -> None:
        """With a gate of 0 the value is 0: silu, gelu and relu of 0 are, whatever is multiplied with them."""
        part = slice(*site.gate_slice) if site.gate_slice else slice(None)
        seen: list[Tensor] = []

        def zero(_: nn.Module, args: object, output: Tensor) -> Tensor:
            changed = output.clone()
            changed[..., part] = 0
            return changed

        assert site.gate is not None
        handles = [
            self.model.get_submodule(site.gate).register_forward_hook(zero),
            self.model.get_submodule(site.module).register_forward_pre_hook(
                lambda m, args: seen.append(args[0].clone())
            ),
        ]
        self.run()
        for handle in handles:
            handle.remove()
        if float(seen[0].abs().max()) != 0:
            self.wrong(
                f"{site.site} of layer {site.layer} does not go to 0 with its gate {site.gate} {site.gate_slice}"
            )

    def check_padding(self, sites: list[LayerSite], reads: Dependence) -> None:
        """Every prompt's values in a padded batch are those of the prompt alone."""
        if not (reads.left or reads.right):
            return
        for side in ("right", "left"):
            batch = forward_batch(self.model, PROMPTS, pad_id=0, padding_side=side)
            values = self.read_batch(sites, batch)
            for site in sites:
                for row, trace in enumerate(self.traces):
                    wanted = self.value(site, trace, PROMPTS[row])
                    if wanted is not None and not same(values[site][0][row, batch.columns(row)], wanted):
                        self.wrong(
                            f"{site.site} of layer {site.layer}, prompt {row}: padded on the {side} it is another"
                        )

    def check_generation(self, sites: list[LayerSite], reads: Dependence) -> None:
        """What a capture that generates reads, live and replayed, is what plain passes over its tokens give."""
        reader = BatchReader(in_memory(self.model, word_tokenizer()), sites)
        writes = self.asked(lambda: writing(self.model))
        if isinstance(writes, str):
            self.result.reads += f"; no generation: {writes.removeprefix('refused: ')}"
            return
        if not writes.together and reads.left:
            self.result.reads += "; writes equal lengths"
        if not writes.stepwise:
            self.result.reads += "; replay"
        for prompts in [PROMPTS] if writes.together else [[prompt] for prompt in PROMPTS]:
            written = self.asked(lambda prompts=prompts: self.generated(reader, prompts, writes.stepwise))
            if isinstance(written, str):
                self.result.reads += f"; no generation: {written.removeprefix('refused: ')}"
                return
            sequences, live = written
            traces = [(self.traced(sequence), sequence) for sequence in sequences]
            for way, values in (("live", live), ("replayed", reader.replay(sequences))):
                if values is None:
                    continue
                for layer_id, site in enumerate(sites):
                    wanted = [w for trace, ids in traces if (w := self.value(site, trace, ids)) is not None]
                    got = torch.as_tensor(values[layer_id].values)
                    if site.experts:
                        got = spread(site, got, torch.as_tensor(values[layer_id].experts))
                    if not same(got, torch.cat(wanted)):
                        self.wrong(f"{site.site} of layer {site.layer}, generating, {way}: other values")

    def generated(self, reader: BatchReader, prompts: list[list[int]], live: bool) -> tuple[list[list[int]], Any]:
        return reader.live(lambda: self.written(prompts), prompts) if live else (self.written(prompts), None)

    def written(self, prompts: list[list[int]]) -> list[list[int]]:
        how = {"new_tokens": NEW_TOKENS, "prompt_indices": range(len(prompts)), "seed": 0, "temperature": 0.0}
        return generate(self.model, prompts, pad_id=0, read_last=True, **how)


def same(a: Tensor, b: Tensor) -> bool:
    """Equal values, at the same places."""
    a, b = a.reshape(-1), b.reshape(-1)
    return torch.equal(a.isnan(), b.isnan()) and ref.close(a.nan_to_num(), b.nan_to_num())


def spread(site: LayerSite, found: Tensor, experts: Tensor) -> Tensor:
    """[…, chosen * width] as [… , neurons], NaN where an expert was not chosen."""
    width = site.neurons // site.experts
    whole = torch.full((*experts.shape[:-1], site.experts + 1, width), float("nan"))
    rows = found.float().reshape(*experts.shape, width)
    # The last place takes what no expert was chosen for.
    places = experts.where(experts >= 0, site.experts).unsqueeze(-1).expand_as(rows)
    return whole.scatter(-2, places, rows)[..., :-1, :].flatten(-2)


def swept(family: str) -> Result:
    """One family's result; a model that cannot be made or run on its own is not tried, and says why."""
    try:
        one = Family(family)
    except Exception as error:
        words = " ".join(str(error).split())[:90]
        return Result(family, not_tried=f"{type(error).__name__}: {words}")
    return one.sweep()


def line(result: Result) -> str:
    """The family's line of the table."""
    sites = [result.sites.get(site, "") for site in SITES]
    remark = result.not_tried or "; ".join(result.wrong)
    cells = [f"`{result.family}`", result.verdict, *("" if s == "none" else s for s in sites), result.reads, remark]
    return "| " + " | ".join(re.sub(r"\s+", " ", cell.replace("|", "/")) for cell in cells) + " |"


HEAD = """# Model families

Every model type of `AutoModelForCausalLM` in transformers {version}, as a tiny random model: each site's values
compared with those of plain hooks: one prompt alone, in padded batches, and while generating, live and replayed.
`make test-models` writes this page; a test checks some of its lines.

{counts}.

- A module's name: the values there are exact, and an MLP's are act(g) or act(g) × u of projections in the same block.
- *exact, no MLP*: what is read is exact, but the MLPs' neurons are not read (*experts* or another reason).
- *refused*: the site is there and cannot be read, for the reason given. Empty: the family has no such site.
- *(experts)*: the neurons of a mixture of experts ([methods](methods.md#1-neurons-and-firing)), which captures
  read. They are compared with the one way to make neurons of the first projection with which down projection and router
  give what the module gives. *refused: experts*: these are not read. *shared*: the MLP that every token
  passes beside them.
- *several streams*: the blocks pass on more than one hidden state for each token.
- padding: the sides on which a batch may be padded without changing a value; the other is never used. *writes equal
  lengths*: left padding changes what is generated, so only prompts of one length generate together. *replay*: decoding
  steps differ from a single pass, so what was generated is read again in one. *sees ahead*: a token's values depend on
  the tokens after it. Such models are read in batches of one length, with a note in the run; generation, perplexity,
  the logit lens, the analysis of a text and attention scores are refused.

| family | verdict | mlp | shared | mixer | attn | resid | padding | remark |
|---|---|---|---|---|---|---|---|---|
"""


def counts(verdicts: list[str]) -> str:
    kinds = ("exact", "exact, no MLP", "refused", "not tried", "WRONG")
    return f"{len(verdicts)} families: " + "; ".join(f"{kind.lower()}: {verdicts.count(kind)}" for kind in kinds)


def page(results: list[Result]) -> str:
    head = HEAD.format(version=transformers.__version__, counts=counts([result.verdict for result in results]))
    return head + "".join(f"{line(result)}\n" for result in results)


def load(path: Path) -> Result:
    return Result(**json.loads(path.read_text(encoding="utf-8")))


def with_rows(text: str, results: list[Result]) -> str:
    """The page with these families' rows, and the counts of all its rows."""
    for result in results:
        text = re.sub(rf"^\| `{re.escape(result.family)}` \|.*$", lambda _, r=result: line(r), text, flags=re.MULTILINE)
    verdicts = re.findall(r"^\| `[^`]+` \| ([^|]+) \|", text, re.MULTILINE)
    head, rows = HEAD.format(version=transformers.__version__, counts=counts(verdicts)), text.partition("|---|\n")[2]
    return head + rows


def main(names: list[str]) -> int:
    rows, names = "--rows" in names, [name for name in names if name != "--rows"]
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    RESULTS.mkdir(parents=True, exist_ok=True)
    for family in names or tiny.families():
        path = RESULTS / f"{family}.json"
        if path.exists() and not names:
            continue
        start = time.monotonic()
        result = swept(family)
        path.write_text(json.dumps(asdict(result)), encoding="utf-8")
        print(f"{time.monotonic() - start:5.1f} s  {line(result)}", flush=True)
    results = [load(RESULTS / f"{family}.json") for family in names or tiny.families()]
    if rows:
        PAGE.write_text(with_rows(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")
    elif not names:
        PAGE.write_text(page(results), encoding="utf-8")
    return int(any(result.wrong for result in results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
