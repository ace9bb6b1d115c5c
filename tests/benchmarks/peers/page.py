"""The rows of all measurements as Markdown tables."""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from tests.benchmarks.peers import models
from tests.benchmarks.peers.measure import LENGTHS, NEW_TOKENS, PROMPT_TOKENS, PROMPTS, TOLERANCES, TOOLS
from tests.benchmarks.peers.stores import STORES

Row = dict[str, Any]

FIRST, *OTHERS = LENGTHS


def tables(rows: Sequence[Row], versions: dict[str, str]) -> str:
    """rows: those of `measure` with their tool and shape, and those of `stores`."""
    parts = []
    for shape, title in models.TITLES.items():
        of_shape = [row for row in rows if row.get("shape") == shape]
        if of_shape:
            parts += [f"### {title}\n", *corpus(of_shape, versions), ""]
    parts += ["### Generation\n", *generation(rows, versions), "", "### Reading\n", *reading(rows, versions)]
    refused = [row for row in rows if "refused" in row]
    if refused:
        parts += ["", *(f"- {_name(row, versions)}, {_asked(row)}: {row['refused']}" for row in refused)]
    return "\n".join(parts)


def corpus(rows: Sequence[Row], versions: dict[str, str]) -> Iterable[str]:
    found = {(row["tool"], row["length"]): row for row in rows if row["what"] == "corpus" and "tokens" in row}
    tokens = max((row["tokens"] for (_, length), row in found.items() if length == FIRST), default=0)
    other = max((row["tokens"] for (_, length), row in found.items() if length != FIRST), default=0)
    projection = statistics.median(
        row["whole"] / statistics.median(bare for bare, _ in row["rounds"]) for row in found.values() if "whole" in row
    )
    bare = statistics.median(bare for row in rows if row.get("length") == FIRST for bare, _ in row.get("rounds", ()))
    yield (
        f"{tokens:,} tokens in prompts of {FIRST}, {other:,} in those of other lengths. The bare passes read "
        f"{tokens / bare:,.0f} tokens/s; with the vocabulary projection they take {projection:.2f} times as long.\n"
    )
    lengths = " | ".join(f"x bare, prompts of {length:,}" for length in OTHERS)
    yield (
        f"| | tokens/s | x bare | x bare with projection | {lengths} | bytes/value | "
        f"peak MB, {tokens // 4:,} / {tokens:,} tokens | largest difference |"
    )
    yield "|---|" + "---:|" * (6 + len(OTHERS))
    for tool in (*TOOLS, *(f"nfinspect, {precision}" for precision in TOLERANCES)):
        row = found.get((tool, FIRST), {})
        if "nfinspect, " in tool and not row:
            continue
        ratio = _ratio(row)
        yield _line(
            _name({"tool": tool}, versions),
            f"{row['tokens'] / _ours(row):,.0f}" if ratio else "",
            _number(ratio),
            _number(ratio / projection if ratio else None),
            *(_number(_ratio(found.get((tool, length), {}))) for length in OTHERS),
            _number(row.get("bytes_per_value")),
            " / ".join(f"{megabytes:,.0f}" for name, megabytes in row.items() if name.startswith("peak_mb_")),
            _difference(row),
        )


def generation(rows: Sequence[Row], versions: dict[str, str]) -> Iterable[str]:
    found = {(row["tool"], row["shape"], row["new_tokens"]): row for row in rows if row.get("what") == "generation"}
    columns = [(shape, new) for shape in models.TITLES for new in NEW_TOKENS[shape]]
    yield f"{PROMPTS} prompts of {PROMPT_TOKENS} tokens, greedy.\n"
    heads = (f"{shape}, {new} new tokens: tokens/s | x bare | largest difference" for shape, new in columns)
    yield "| | " + " | ".join(heads) + " |"
    yield "|---|" + "---:|" * (3 * len(columns))
    for tool in TOOLS:
        cells = []
        for column in columns:
            row = found.get((tool, *column), {})
            ratio = _number(_ratio(row))
            if "one_by_one" in row:
                ratio += f" ({_ours(row) / row['one_by_one']:.2f} x one prompt at a time)"
            cells += [f"{row['tokens'] / _ours(row):,.0f}" if ratio else "", ratio, _difference(row)]
        yield _line(_name({"tool": tool}, versions), *cells)


def reading(rows: Sequence[Row], versions: dict[str, str]) -> Iterable[str]:
    found = {row["store"]: row for row in rows if "store" in row}
    if not found:
        return
    yield f"{next(iter(found.values()))['values'] / 1e6:.0f} M values of the gated shape; milliseconds.\n"
    yield "| | one neuron | one token | concept mean | top examples | opening + one neuron | bytes/value | written |"
    yield "|---|" + "---:|" * 7
    for store in STORES:
        row = found.get(store, {})
        times = ("neuron_ms", "token_ms", "concept_ms", "examples_ms", "opened_ms")
        yield _line(
            _name({"tool": store}, versions),
            *(_milliseconds(row.get(name)) for name in times),
            _number(row.get("bytes_per_value")),
            f"{row['values_per_second'] / 1e6:.0f} M/s" if row.get("values_per_second") else "",
        )


def _asked(row: Row) -> str:
    """What a tool refused."""
    if "store" in row:
        return "reading"
    lengths = f", prompts of {row['length']:,}" if row.get("length") else ""
    new = f", {row['new_tokens']} new tokens" if row.get("new_tokens") else ""
    return f"{row['shape']}, {row['what']}{lengths}{new}"


def _line(*cells: str) -> str:
    return "| " + " | ".join(cell or "–" for cell in cells) + " |"


def _name(row: Row, versions: dict[str, str]) -> str:
    tool = row.get("tool") or row.get("store") or ""
    version = versions.get(tool)
    return f"{tool} {version}" if version else tool


def _ours(row: Row) -> float:
    return statistics.median(seconds for _, seconds in row["rounds"])


def _ratio(row: Row) -> float | None:
    """The median of the rounds' ratios."""
    return statistics.median(tool / bare for bare, tool in row["rounds"]) if row.get("rounds") else None


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def _difference(row: Row) -> str:
    if "difference" not in row:
        return ""
    found = row["difference"]
    return "0" if found == 0 else f"{found:.0e}" if math.isfinite(found) else "not equal"
