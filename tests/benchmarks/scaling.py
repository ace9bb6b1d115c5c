"""A calculation on paper: what captures of large models over many tokens would take. It measures nothing.

    python -m tests.benchmarks.scaling --page docs/scaling.md

Rates are those of docs/benchmarks.md. Bytes and memory are what `--estimate` reckons; a test compares the bytes with
real files.
"""

import argparse
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nfinspect.capturing.sizes import most_beyond, run_bytes, state_bytes
from nfinspect.capturing.where import parse_where
from nfinspect_store.types import Keep, Layer, Precision
from tests.benchmarks.report import figure, put, table

ROOT = Path(__file__).parents[2]
PROMPT = 1024
"""Tokens of a prompt: each has its means, two of them."""

TOKENS = {"1 M": 10**6, "1 B": 10**9, "10 B": 10**10}
WEEK = 7 * 24
MEANS = 2
"""Of a prompt that is read and not generated, for each neuron."""

CONCEPTS = (1, 100)
NODE = 33_000
"""Tokens a second that Activault publishes for one node with H100 GPUs: 10 B tokens of Llama-3.3-70B in 3.5 days."""

ANSWERS = 0.1
"""Share of the tokens that `--where` records in the table: an example."""


@dataclass(frozen=True)
class Shape:
    name: str
    layers: int
    width: int  # neurons of a layer's MLP

    @property
    def neurons(self) -> int:
        return self.layers * self.width


SHAPES = (
    Shape("8B (Llama-3.1-8B)", 32, 14_336),
    Shape("70B (Llama-3.3-70B)", 80, 28_672),
    Shape("400B (Llama-3.1-405B)", 126, 53_248),
)


@dataclass(frozen=True)
class Kept:
    """What of a run is kept. share: of the tokens; rate: which of the rates its recording takes."""

    name: str
    keep: Keep
    precision: Precision
    rate: str
    share: float = 1.0
    beyond: str = ""


KEPT = (
    Kept("all, float32", "all", "float32", "float32"),
    Kept("all, int8", "all", "int8", "int8"),
    Kept("int8, --where answers, a tenth", "all", "int8", "int8", share=ANSWERS),
    Kept("--where beyond=p99.9, at most", "stats", "float32", "stats", beyond="beyond=p99.9"),
    Kept("--keep stats", "stats", "float32", "stats"),
)


MERGES: Mapping[str, tuple[str, str]] = {
    "merge": ("a value", "one file: ns per value"),
    "merge mean": ("statistics alone, a mean", "statistics: ns of the processor for one mean more"),
    "merge token": ("statistics alone, a token", "statistics: ns of the processor for one token more"),
    "merge neuron": (
        "statistics alone, a neuron of a part",
        "statistics: ns of the processor for one neuron of a part more",
    ),
}
"""What a merge takes time for: as the page names it, and the row of docs/benchmarks.md that says how long."""


def rates(benchmarks: str) -> dict[str, float]:
    """Nanoseconds that pass on two processors, from the text of docs/benchmarks.md: of a whole run for a value, and of
    a merge for what is in MERGES. Those of a merge of statistics are of the processor: it keeps one busy.
    """
    runs = re.search(r"^\| whole runs, M values/s \| [^|]+ \| ([\d.,]+) \|", benchmarks, re.MULTILINE)
    stats = re.search(r"tokens/s, ([\d.,]+) ns per value", benchmarks)
    gated = benchmarks.partition("**Gated, ")[2].partition("**GPT-2-small")[0]
    heads = [cell.strip() for cell in next(x for x in gated.splitlines() if x.startswith("| prompts of")).split("|")]
    passed = heads.index("whole run, passed")

    def stage(kept: str) -> float:
        row = next(x for x in gated.splitlines() if x.startswith(f"| 1,024, {kept} |"))
        return _number(row.split("|")[passed])

    assert runs is not None and stats is not None
    float32 = 1e3 / _number(runs[1])
    found = {"float32": float32, "int8": float32 * stage("int8") / stage("float32"), "stats": _number(stats[1])}
    merging = benchmarks.partition("<!-- bench-merge: begin -->")[2].partition("<!-- bench-merge: end -->")[0]
    return _as_told(found | {name: _of_largest(row, merging) for name, (_, row) in MERGES.items()})


def _of_largest(row: str, page: str) -> float:
    """The last figure of the first row of that name, that of the largest; where brackets tell what passed, that."""
    line = next(x for x in page.splitlines() if x.startswith(f"| {row} |"))
    largest = [cell.strip() for cell in line.split("|") if re.search(r"\d", cell)][-1]
    return _number(largest.partition("(")[2].rstrip(")") or largest)


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def _as_told(rates: Mapping[str, float]) -> dict[str, float]:
    """As the page says them."""
    return {name: round(value, 1) for name, value in rates.items()}


def layers_of(shape: Shape) -> list[Layer]:
    return [Layer(i, "mlp", i, "", shape.width, "silu", "gate") for i in range(shape.layers)]


def stored_bytes(shape: Shape, kept: Kept, tokens: int) -> int:
    """Of a run of one concept in prompts of PROMPT tokens, read and not generated."""
    recorded = int(tokens * kept.share)
    where = parse_where(kept.beyond) if kept.beyond else None
    return run_bytes(
        layers_of(shape),
        kept.keep,
        kept.precision,
        tokens=recorded,
        prompts=math.ceil(tokens / PROMPT),
        concepts=1,
        generates=False,
        beyond=0 if where is None else most_beyond(where.beyond, recorded * shape.neurons),
    )


def hours(shape: Shape, kept: Kept, tokens: int, told: Mapping[str, float]) -> float:
    """Of recording alone, on one machine like the measured one."""
    return tokens * kept.share * shape.neurons * told[kept.rate] / 1e9 / 3600


def of_parts(kept: Kept) -> Kept:
    """As parts keep it until they are merged: values as float32."""
    return replace(kept, precision="float32", rate="float32") if kept.keep == "all" else kept


def machines(shape: Shape, kept: Kept, tokens: int, told: Mapping[str, float]) -> int:
    """How many of them record it in a week, each a part. They do not merge it in that time."""
    return max(1, math.ceil(hours(shape, of_parts(kept), tokens, told) / WEEK))


def parts_bytes(shape: Shape, kept: Kept, tokens: int, parts: int) -> int:
    """Of so many parts: each has statistics of its own."""
    return parts * stored_bytes(shape, of_parts(kept), tokens // parts)


def merge_hours(shape: Shape, kept: Kept, tokens: int, parts: int, told: Mapping[str, float]) -> float:
    """Of one machine like the measured one. Statistics alone have no values to copy, but the means of prompts."""
    if kept.keep == "all":
        return tokens * kept.share * shape.neurons * told["merge"] / 1e9 / 3600
    means = MEANS * math.ceil(tokens / PROMPT) * shape.neurons * told["merge mean"]
    return (means + tokens * told["merge token"] + parts * shape.neurons * told["merge neuron"]) / 1e9 / 3600


def rates_table(told: Mapping[str, float]) -> str:
    kept = [(name, f"{ns:,.1f}", f"{1e3 / ns:.1f}") for name, ns in told.items() if name not in MERGES]
    merging = [(what, f"{told[name]:,.1f}") for name, (what, _) in MERGES.items()]
    return table(["kept as", "ns per value", "M values/s"], kept) + "\n\n" + table(["merging", "ns"], merging)


def main_table(told: Mapping[str, float]) -> str:
    rows: list[Sequence[object]] = []
    for shape in SHAPES:
        rows.append([f"**{shape.name}**, {shape.layers} x {shape.width:,} = {shape.neurons:,} neurons", *[""] * 6])
        for kept in KEPT:
            every = TOKENS.values()
            rows.append(
                [
                    kept.name,
                    *(amount(stored_bytes(shape, kept, tokens)) for tokens in every),
                    *(figure(hours(shape, kept, tokens, told)) for tokens in every),
                ]
            )
    heads = [*(f"bytes, {name}" for name in TOKENS), *(f"machine-hours, {name}" for name in TOKENS)]
    return table(["kept", *heads], rows)


def parts_table(told: Mapping[str, float]) -> str:
    """10 B tokens, captured in parts within a week and then merged."""
    rows: list[Sequence[object]] = []
    tokens = TOKENS["10 B"]
    for shape in SHAPES:
        rows.append([f"**{shape.name}**", *[""] * 5])
        for kept in KEPT:
            if kept.beyond:  # it has no parts
                continue
            many = machines(shape, kept, tokens, told)
            apart = parts_bytes(shape, kept, tokens, many)
            merging = merge_hours(shape, kept, tokens, many, told)
            room = amount(apart), amount(apart + stored_bytes(shape, kept, tokens))
            rows.append([kept.name, f"{many:,}", *room, figure(merging), figure(merging / WEEK)])
    heads = ["machines for a week", "room of the parts", "with the merged run", "merge, machine-hours"]
    return table(["kept", *heads, "merge, weeks of one machine"], rows)


def node_table(told: Mapping[str, float]) -> str:
    """Beside one node that passes NODE tokens a second through Llama-3.3-70B."""
    shape = SHAPES[1]
    six = Shape("six layers", 6, shape.width)
    rows = []
    for name, part in (("all 80 layers", shape), ("six layers", six)):
        values = NODE * part.neurons
        for kept in (KEPT[0], KEPT[1], KEPT[4]):
            tokens = TOKENS["10 B"]
            a_second = (stored_bytes(part, kept, tokens) - stored_bytes(part, kept, 0)) / tokens * NODE
            rows.append(
                [
                    f"{name}, {kept.name}",
                    f"{values / 1e9:.1f}",
                    f"{values * told[kept.rate] / 1e9:,.0f}",
                    amount(a_second),
                    figure(tokens / NODE / 3600),
                ]
            )
    heads = ["G values/s", "measured machines to keep up", "bytes/s", "hours of passes for 10 B tokens"]
    return table(["MLP neurons of", *heads], rows)


def memory_table() -> str:
    rows = [(shape.name, *(amount(state_bytes(shape.neurons, concepts)) for concepts in CONCEPTS)) for shape in SHAPES]
    return table(["shape", *(f"{concepts} concept{'s' * (concepts > 1)}" for concepts in CONCEPTS)], rows)


def amount(count: float) -> str:
    """Bytes in decimal units."""
    for unit, size in (("EB", 1e18), ("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{figure(count / size)} {unit}"
    return f"{count:.0f} B"


def parts(told: Mapping[str, float]) -> dict[str, str]:
    """What stands between the page's marks."""
    return {
        "rates": rates_table(told),
        "captures": main_table(told),
        "parts": parts_table(told),
        "node": node_table(told),
        "memory": memory_table(),
    }


def measured() -> dict[str, float]:
    return rates((ROOT / "docs/benchmarks.md").read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the tables of this page, too")
    page = parser.parse_args().page
    for name, text in parts(measured()).items():
        print(text, end="\n\n")
        if page is not None:
            put(page, name, text)


if __name__ == "__main__":
    main()
