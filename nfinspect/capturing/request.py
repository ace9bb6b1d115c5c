"""What a capture is to do: one field for each option of `nfinspect capture`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nfinspect.capturing.shard import Shard
from nfinspect.capturing.where import Where
from nfinspect.edits import Asked
from nfinspect_store.errors import RequestError
from nfinspect_store.precision import check_precision
from nfinspect_store.processors import Writers, writer_threads
from nfinspect_store.types import Keep, Precision

if TYPE_CHECKING:  # a command's options are parsed before torch is imported
    from nfinspect.models.tokenizing import Bos

Mode = Literal["auto", "replay", "live"]

DEFAULT_CONTEXT = 256
"""Tokens in a corpus window if --context is not given and the model allows as many."""


@dataclass(frozen=True)
class PromptFile:
    """A prompts file; concept None: each row's own, or the file's stem."""

    path: Path
    concept: str | None = None


@dataclass(frozen=True)
class CaptureRequest:
    """Everything that decides what a run holds and how it is captured."""

    model: str
    store: Path
    revision: str | None = None  # of a hub model
    prompts: tuple[PromptFile, ...] = ()
    text_column: str | None = None  # of prompts files with columns; None: the usual names
    concept_column: str | None = None
    text: tuple[Path, ...] = ()
    bos: "Bos" = "auto"
    chat: bool = False  # a plain text is one turn of a user
    generate: int = 0
    sites: tuple[str, ...] | None = None  # None: mlp, or mixer for Mamba; resid if neither can be read
    layers: tuple[int, ...] | None = None
    keep: Keep = "all"
    precision: Precision = "float32"  # in which values are stored
    where: Where | None = None  # None: every token is recorded
    run: str | None = None
    batch_size: int | None = None  # prompts in a forward pass; None: what fits into BATCH_BYTES of values
    context: int | None = None
    max_tokens: int | None = None
    dtype: str = "auto"
    device: str = "auto"
    seed: int = 0
    temperature: float = 0.0
    mode: Mode = "auto"
    compiled: bool = False  # new tokens are decoded by compiled steps over a static cache
    edits: tuple[Asked, ...] = ()  # of the model, in force while it reads and writes
    edits_from: int = 0  # the first position of each prompt that they change
    padding_side: Literal["left", "right"] = "right"
    resume: bool = False
    truncate: bool = False
    limit_bytes: int | None = None
    allow_pickle: bool = False
    writers: Writers = "auto"  # threads that record and write
    shard: Shard | None = None  # None: the whole
    command: tuple[str, ...] = ()  # what was typed, kept in the run: with --resume it goes on

    def __post_init__(self) -> None:
        if self.where is not None and self.where.beyond is not None:
            if self.precision != "float32":
                raise RequestError(
                    f"values that --where {self.where} chooses are stored as float32: expected no other --precision, "
                    f"found {self.precision}"
                )
            if self.shard is not None:
                raise RequestError(
                    f"--where {self.where} keeps the values beyond a percentile of all tokens before, which a part of "
                    "a capture does not know: expected no --shard, --ray or --workers with it"
                )
            object.__setattr__(self, "keep", "stats")  # and these values, in a table of their own
        if self.edits_from < 0 or (self.edits_from and not self.edits):
            raise RequestError(
                f"expected edits, and --from of 0 or more, where they begin; found {len(self.edits)} edits and --from "
                f"{self.edits_from}"
            )
        if self.compiled and (self.edits or not self.generate):
            raise RequestError(
                f"expected new tokens and no edits with --compiled, found --generate {self.generate} and "
                f"{len(self.edits)} edits: steps are compiled, and edits act in Python"
            )
        check_precision(self.keep, self.precision)
        writer_threads(self.writers)
