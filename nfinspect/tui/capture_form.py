"""The fields that a capture is asked for with: its command, and what a field can be completed to or chosen from."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nfinspect_store.errors import RequestError, StorageFull
from nfinspect_store.paths import expanded

MOST_OPTIONS = 500
"""Of a directory's entries that are offered."""


@dataclass(frozen=True)
class Field:
    """One line of the form. kind: model | files | typed | file | words | number | name; hint: what stands there while
    it is empty.
    """

    name: str
    option: str
    kind: str
    hint: str
    choices: tuple[str, ...] = ()


FIELDS = (
    Field("model", "", "model", "a directory or a hub name; ^o offers recent ones"),
    Field("prompts", "--prompts", "files", "files, each with its concept: [CONCEPT=]FILE …; Right completes"),
    Field("typed", "--prompts", "typed", "one prompt a line"),
    Field("corpus", "--text", "file", "a text file, or hf:NAME, cut into windows"),
    Field("sites", "--sites", "words", "mlp (mixer for Mamba)", ("mlp", "mixer", "attn", "resid", "mlp,resid")),
    Field("layers", "--layers", "words", "all; such as 0-3,11"),
    Field("new tokens", "--generate", "number", "0: the prompts are only read"),
    Field("keep", "--keep", "words", "all", ("all", "stats")),
    Field("precision", "--precision", "words", "float32", ("float32", "float16", "int8")),
    Field("run name", "--run", "name", "made of the model and the time"),
)

MODEL = FIELDS[0].name
TYPED = next(field.name for field in FIELDS if field.kind == "typed")


def prompts_file(typed: str, folder: Path) -> Path:
    """Where prompts that were typed are kept: by what they are, so that a capture can be resumed."""
    return folder / f"typed-{hashlib.sha256(_prompts(typed).encode()).hexdigest()[:12]}.txt"


def write_prompts(typed: str, folder: Path) -> None:
    """Raises StorageFull."""
    path = prompts_file(typed, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(_prompts(typed), encoding="utf-8")
    except OSError as error:
        raise StorageFull(f"cannot keep the prompts in {path}: {error.strerror or error}") from error


def _prompts(typed: str) -> str:
    return "".join(f"{line.strip()}\n" for line in typed.splitlines() if line.strip())


def command(values: Mapping[str, str], store: Path, folder: Path) -> tuple[str, ...]:
    """The arguments of `nfinspect` for what was typed. folder: of typed prompts. Raises RequestError for files that
    cannot be told apart.
    """
    made = ["capture", values.get(MODEL, "").strip() or "MODEL"]
    for field in FIELDS[1:]:
        typed = values.get(field.name, "")
        text = typed.strip()
        if not text:
            continue
        if field.kind == "typed":
            made += [field.option, f"typed={prompts_file(typed, folder)}"]
        elif field.kind == "files":
            made += [word for file in words_of(text) for word in (field.option, file)]
        else:
            made += [field.option, text]
    return (*made, "--store", str(store))


def words_of(text: str) -> list[str]:
    """Raises RequestError for an open quotation mark."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise RequestError(f"this cannot be read: {error}") from error


def lacks(arguments: Iterable[str]) -> str:
    """What a command still needs, in words; empty if nothing."""
    given = list(arguments)
    if given[:1] != ["capture"]:
        return "expected the command capture"
    if "MODEL" in given[1:2] or len(given) < 2:
        return "which model? a directory or a hub name; ^o offers recent ones"
    sources = ("--prompts", "--text")
    if not any(word.partition("=")[0] in sources for word in given):
        return "what is it to read? prompts from files, typed here, or a corpus"
    return ""


# completion


def completed(field: Field, text: str) -> str | None:
    """`text` with its last path completed as far as the first entry that begins so; None if there is none."""
    before, path = _last_path(field, text)
    if not path:
        return None
    return next((before + found for found in entries(path, field)), None)


def entries(path: str, field: Field) -> list[str]:
    """What a path can be completed to: folders end in a slash; for a model only folders and GGUF files."""
    folder, begun = os.path.split(path)
    found = []
    with contextlib.suppress(OSError, ValueError), os.scandir(expanded(folder or ".")) as there:
        for entry in there:
            if entry.name.startswith(begun) and (begun.startswith(".") or not entry.name.startswith(".")):
                is_folder = entry.is_dir()
                if is_folder or field.kind != "model" or entry.name.endswith(".gguf"):
                    found.append(os.path.join(folder, entry.name) + ("/" if is_folder else ""))
            if len(found) >= MOST_OPTIONS:
                break
    return sorted(found)


def _last_path(field: Field, text: str) -> tuple[str, str]:
    """What is before the path that is being typed, and that path."""
    if field.kind == "files":
        start = text.rfind(" ") + 1
        start += text[start:].find("=") + 1
        return text[:start], text[start:]
    return "", text


def options(field: Field, text: str, recent: Iterable[str]) -> list[str]:
    """What can be chosen for a field. recent: models of the store's runs and of its backends."""
    if field.choices:
        return list(field.choices)
    if field.kind == "model":
        return [*dict.fromkeys(model for model in recent if model and text in model), *entries(text, field)]
    if field.kind in ("files", "file"):
        return entries(_last_path(field, text)[1], field)
    return []


def chosen(field: Field, text: str, option: str) -> str:
    """The field's text after a choice."""
    return _last_path(field, text)[0] + option if field.kind == "files" else option


def is_open_folder(field: Field, option: str) -> bool:
    """Whether a choice only leads on to a folder's entries: a folder that is not a model."""
    return option.endswith("/") and not (field.kind == "model" and (expanded(option) / "config.json").exists())
