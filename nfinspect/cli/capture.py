"""Capture a model into a run."""

import math
import os
import re
import shlex
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from nfinspect import output
from nfinspect.backend.hosting import hosted
from nfinspect.cli.edits import edit_options
from nfinspect.cli.hub_text import text_path
from nfinspect.cli.options import (
    Command,
    bos_option,
    chat_option,
    json_option,
    layers_option,
    model_options,
    store_option,
)
from nfinspect.cli.through_backend import Options, backend_option, usual_model
from nfinspect.experiments.run_model import quiet_transformers
from nfinspect.present.numbers import duration, number, percent, size
from nfinspect_store.catalog import store_path
from nfinspect_store.errors import RequestError
from nfinspect_store.types import PRECISIONS, SITES

if TYPE_CHECKING:
    from nfinspect.capturing.request import CaptureRequest, PromptFile
    from nfinspect.capturing.session import EditsIn
    from nfinspect_store.types import Progress

UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}


def _model_there(options: Options) -> str:
    """The model that a backend is to hold. Raises RequestError for a capture that is made elsewhere."""
    if options["address"] is not None:
        raise RequestError("expected --ray or --backend, found both: a backend is one process")
    return usual_model(options)


class WriterCount(click.ParamType[Any]):
    """A number of threads, or `auto`."""

    name = "writers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return "auto" if value == "auto" else click.IntRange(min=1).convert(value, param, ctx)


def prompt_column_options(command: Command) -> Command:
    """--text-column, --concept-column: where rows of --prompts have their text and their concept."""
    for name, usual in (("concept", "concept or label"), ("text", "messages, text or prompt")):
        told = f"Column of --prompts with the {name}; {usual} if not given."
        command = click.option(f"--{name}-column", metavar="NAME", help=told)(command)
    return command


@click.command()
@click.argument("model", metavar="MODEL")
@click.option(
    "--prompts",
    metavar="[CONCEPT=]FILE",
    multiple=True,
    help='{"prompts": […]} JSON, JSONL of {"text", "concept"}, CSV, Parquet, or text, one prompt per line. Repeatable.',
)
@prompt_column_options
@click.option(
    "--text",
    metavar="FILE",
    multiple=True,
    help="A corpus, or hf:NAME[:CONFIG[:SPLIT]], cut into windows of --context tokens.",
)
@bos_option
@chat_option
@click.option("--generate", metavar="N", type=click.IntRange(min=0), default=0, show_default=True,
              help="New tokens for each prompt; 0 only reads the prompts.")  # fmt: skip
@click.option(
    "--sites", metavar="LIST", help="Any of mlp, shared, mixer, attn, resid; mlp (mixer for Mamba) if not given."
)
@layers_option
@click.option("--keep", type=click.Choice(["all", "stats"]), default="all", show_default=True,
              help="Keep every value, or only statistics and examples.")  # fmt: skip
@click.option("--precision", type=click.Choice(PRECISIONS), default="float32", show_default=True,
              help="Store values in 4, 2 or 1 bytes each; statistics are of the values as computed.")  # fmt: skip
@click.option("--where", metavar="EXPR",
              help="Record only answers, role=R,S or tokens=A-B (from 0, inclusive; A- to the end), or several, joined "
              "by ' and '. answers: generated tokens, without --generate those of the role assistant. beyond=pX: keep "
              "only values beyond the neuron's running Xth percentile, and statistics of all.")  # fmt: skip
@click.option("--run", "name", metavar="NAME", help="The run's name; made of model and time if not given.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Prompts in a forward pass; as many as fit by default.")
@click.option("--context", metavar="N", type=click.IntRange(min=1), help="Tokens in a window of --text.")
@click.option("--max-tokens", metavar="N", type=click.IntRange(min=1), help="At most N tokens of --text.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True, help="0 is greedy.")
@click.option("--mode", type=click.Choice(["auto", "replay", "live"]), default="auto", show_default=True,
              help="Read values in one pass after generating (replay), or while generating (live).")  # fmt: skip
@click.option("--compiled", is_flag=True, help="Decode new tokens with compiled steps over a static cache.")
@edit_options
@click.option("--resume", is_flag=True, help="Continue an interrupted run: repeat its command with --resume.")
@click.option("--truncate", is_flag=True, help="Cut prompts that do not fit the model's context.")
@click.option("--writers", metavar="N", type=WriterCount(), default="auto", show_default=True,
              help="Threads that record and write; auto: one fewer than processors.")  # fmt: skip
@click.option("--shard", metavar="I/N",
              help="Capture part I of N, from 1, into a run of its own, for nfinspect merge.")  # fmt: skip
@click.option("--ray", "address", metavar="[ADDRESS]", is_flag=False, flag_value="",
              help="Capture in --workers parts on the Ray cluster at ADDRESS, or on this machine.")  # fmt: skip
@click.option("--workers", metavar="N", type=click.IntRange(1, 10_000), help="Parts of --ray, a process each.")
@click.option("--limit-bytes", metavar="SIZE", help="Stop before the run exceeds SIZE, such as 20G.")
@click.option("--estimate", "only_estimate", is_flag=True, help="Print bytes, memory and time; capture nothing.")
@model_options
@store_option
@json_option
@backend_option(_model_there)
def capture(
    model: str,
    prompts: tuple[str, ...],
    text: tuple[str, ...],
    sites: str | None,
    layers: str | None,
    name: str | None,
    limit_bytes: str | None,
    where: str | None,
    start: int,
    shard: str | None,
    address: str | None,
    workers: int | None,
    only_estimate: bool,
    store: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Run MODEL and record the value of every neuron on every token.

    MODEL is a hub name or a local directory. With edits (--zero and its like) the run is of the edited model.
    """
    from nfinspect.capturing.request import CaptureRequest
    from nfinspect.capturing.shard import parse_shard
    from nfinspect.capturing.where import parse_where

    if not math.isfinite(options["temperature"]):  # click lets NaN pass as "at least 0"
        raise RequestError(f"expected a --temperature of 0 or more, found {options['temperature']}")
    if not prompts and not text:
        raise RequestError("expected prompts or a text: give --prompts FILE or --text FILE")
    if (address is None) != (workers is None) or (address is not None and shard is not None):
        raise RequestError("expected --ray and --workers N together, and without --shard")
    request = CaptureRequest(
        model=model,
        store=store_path(store),
        prompts=tuple(prompt_file(value) for value in prompts),
        text=tuple(text_path(value) for value in text),
        sites=site_list(sites),
        layers=layer_list(layers),
        run=name,
        limit_bytes=None if limit_bytes is None else byte_count(limit_bytes),
        where=None if where is None else parse_where(where),
        edits_from=start,
        shard=None if shard is None else parse_shard(shard),
        command=typed(click.get_current_context()),
        **options,
    )
    if only_estimate:
        _estimate(request, as_json)
    else:
        path = captured(request) if workers is None else _by_workers(request, workers, address or "")
        if as_json:
            output.document({"run": path.stem, "path": str(path), "bytes": path.stat().st_size})
        else:
            of_store = f" --store {shlex.quote(store)}" if store else ""
            there = f"nfinspect health {shlex.quote(path.stem)}{of_store}"
            output.note(f"captured {path.stem} ({size(path.stat().st_size)}): {there}")


NOT_REPEATED = ("name", "store", "resume", "only_estimate", "as_json", "in_backend")
"""Parameters of a capture that a command which goes on with it has of its own, or not at all."""


def typed(context: click.Context) -> tuple[str, ...]:
    """The command that was typed, as words; without its run and its store, which may be moved."""
    words = [str(context.command.name)]
    for parameter in context.command.params:
        name = str(parameter.name)
        if name in NOT_REPEATED or context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        value = context.params[name]
        if not isinstance(parameter, click.Option):
            words.append(str(value))
        elif parameter.is_flag:
            words += [parameter.opts[0]] if value else []
        else:
            for one in value if parameter.multiple else (value,):
                words += [parameter.opts[0], str(one)]
    return tuple(words)


def captured(request: "CaptureRequest") -> Path:
    """Make the run, with its progress on stderr."""
    from nfinspect.capturing.session import Listener, capture_run
    from nfinspect_store import kernels

    quiet_transformers()
    line = output.ProgressLine()

    def message(text: str) -> None:
        line.end()
        output.note(text)

    if (job := hosted()) is not None:
        listener = Listener(
            job.progress, message, job.sharing, lambda: job.token if job.followed else None, lambda: job.watched
        )
    else:
        listener = Listener(lambda p: line.show(progress_text(p), time.monotonic()), message)
    try:
        path = capture_run(request, listener, _edits_in(request))
    finally:
        line.end()
    if not kernels.compiled():
        output.note(kernels.MISSING)
    return path


def _edits_in(request: "CaptureRequest") -> "EditsIn":
    from nfinspect.experiments.resolved_edits import resolved_edits

    return partial(resolved_edits, asked=request.edits, store=request.store)


def _by_workers(request: "CaptureRequest", workers: int, address: str) -> Path:
    """Make the run on a Ray cluster; what becomes of its parts is told on stderr."""
    from nfinspect.capturing.ray_workers import capture_with_ray
    from nfinspect.capturing.session import Listener

    quiet_transformers()
    return capture_with_ray(request, workers, address, Listener(message=output.note), _edits_in(request))


def progress_text(progress: "Progress") -> str:
    """How far a capture is, in one line."""
    done, total, rate = progress.tokens_done, progress.tokens_total, progress.tokens_per_second
    text = f"{progress.phase}  {done:,} tokens"
    if total:
        text = f"{progress.phase}  {done:,}/{total:,} tokens ({percent(done / total, places=0)})"
    text += f"  {rate:,.0f}/s  {size(progress.bytes)}"
    if total and rate > 0 and done < total:
        text += f"  {duration((total - done) / rate)} left"
    return text


def _estimate(request: "CaptureRequest", as_json: bool) -> None:
    from nfinspect.capturing.estimation import estimate

    quiet_transformers()
    found = vars(estimate(request, _edits_in(request)))
    if as_json:
        output.document(found)
        return
    if not found["fits"]:
        needed = min(found["bytes"], request.limit_bytes or found["bytes"])
        output.line(f"NOTE    needs {size(needed)}, {size(found['free_bytes'])} are free in {request.store}")
    output.line(f"tokens  {number(found['tokens'])}")
    output.line(f"values  {number(found['values'])}")
    output.line(f"disk    {size(found['bytes'])}")
    output.line(f"memory  {size(found['memory_bytes'])}")
    output.line(f"time    {duration(found['seconds'])}")


def prompt_file(value: str) -> "PromptFile":
    """[CONCEPT=]FILE. A file whose name contains an equals sign is taken as a whole if it exists."""
    from nfinspect.capturing.request import PromptFile

    concept, equals, path = value.partition("=")
    if not equals or os.path.exists(value):
        return PromptFile(Path(value))
    if not concept or not path:
        raise RequestError(f"expected --prompts FILE or CONCEPT=FILE, found {value!r}")
    return PromptFile(Path(path), concept)


def site_list(text: str | None) -> tuple[str, ...] | None:
    """`mlp,resid`. Raises RequestError, which lists the sites."""
    if text is None:
        return None
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in SITES]
    if unknown or not names:
        raise RequestError(f"expected --sites from {', '.join(SITES)}, found {unknown[0] if unknown else text!r}")
    return names


def layer_list(text: str | None) -> tuple[int, ...] | None:
    """`0-3,11`. Raises RequestError."""
    if text is None:
        return None
    layers: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,5})\s*(?:-\s*(\d{1,5})\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise RequestError(f"expected --layers such as 0-3,11, found {text!r}")
        layers.update(range(first, last + 1))
    return tuple(sorted(layers))


def byte_count(text: str) -> int:
    """`20G`, `512MiB`, `1000000`. Raises RequestError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?", text.strip().lower())
    count = round(float(match[1]) * UNITS[match[2] or ""]) if match else 0
    if count <= 0:
        raise RequestError(f"expected a size such as 20G or 512MiB, found {text!r}")
    return count
