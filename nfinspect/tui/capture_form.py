"""The fields that a capture is asked for with: its command, and what a field can be completed to or chosen from."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from nfinspect.tui.captures import options_of, run_of
from nfinspect_store.errors import RequestError, StorageFull
from nfinspect_store.paths import expanded, file_state

MOST_MATCHED = 1000
"""Files of a pattern that are taken."""

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
    Field(
        "sites", "--sites", "words", "mlp (mixer for Mamba)", ("mlp", "shared", "mixer", "attn", "resid", "mlp,resid")
    ),
    Field("layers", "--layers", "words", "all; such as 0-3,11"),
    Field("new tokens", "--generate", "number", "0: the prompts are only read"),
    Field("keep", "--keep", "words", "all", ("all", "stats")),
    Field("precision", "--precision", "words", "float32", ("float32", "float16", "int8")),
    Field("run name", "--run", "name", "made of the model and the time"),
)

SOURCES = ("--prompts", "--text")
"""Options that say what is read."""

MODEL = FIELDS[0].name
TYPED = next(field.name for field in FIELDS if field.kind == "typed")


def prompts_file(typed: str, folder: Path) -> Path:
    """Where prompts that were typed are kept: by what they are, so that a capture can be resumed."""
    return folder / f"typed-{hashlib.sha256(_prompts(typed).encode()).hexdigest()[:12]}.txt"


def write_prompts(typed: str, folder: Path) -> None:
    """Raises StorageFull."""
    keep_prompts(prompts_file(typed, folder), _prompts(typed))


def keep_prompts(path: Path, content: str) -> None:
    """A file that has this content already is left as it is. Raises StorageFull."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_bytes() != content.encode():
            path.write_text(content, encoding="utf-8")
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
            made += [word for typed in words_of(text) for file in matched(typed) for word in (field.option, file)]
        else:
            made += [field.option, text]
    return (*made, "--store", str(store))


def fields_of(line: str) -> dict[str, str]:
    """The fields that are typed in a line, as `MODEL --prompts a.json --layers 0-3`. Raises RequestError that names
    the words that are of no field.
    """
    found: dict[str, str] = {}
    odd = []
    words = iter(words_of(line))
    for word in words:
        option, equals, value = word.partition("=")
        field = next((one for one in FIELDS[1:] if one.option == option), None)
        if field is None and not word.startswith("-") and MODEL not in found:
            found[MODEL] = word
        elif field is None or (field.name in found and field.kind != "files"):
            odd.append(word)
        elif not equals and not (value := next(words, "")):
            raise RequestError(f"{option} needs a value")
        elif field.kind == "files":
            found[field.name] = f"{found.get(field.name, '')} {shlex.quote(value)}".strip()
        else:
            found[field.name] = value
    if odd:
        there = ", ".join(dict.fromkeys(field.option for field in FIELDS[1:]))
        raise RequestError(f"a new capture has no field for {shlex.join(odd)}: it has MODEL, {there}")
    return found


def words_of(text: str) -> list[str]:
    """Raises RequestError for an open quotation mark."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise RequestError(f"this cannot be read: {error}") from error


def matched(word: str) -> list[str]:
    """The files of a pattern such as prompts/*.json, with the CONCEPT= that stands before it; another word as it is."""
    concept, sign, path = word.partition("=")
    if not sign or os.path.exists(expanded(word)):
        concept, sign, path = "", "", word
    if not glob.has_magic(path) or os.path.exists(expanded(path)):
        return [word]
    found = sorted(islice(glob.iglob(str(expanded(path))), MOST_MATCHED))
    return [f"{concept}{sign}{one}" for one in found] or [word]


def read_files(arguments: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The files that a capture is to read, and numbers that change when they do."""
    found = {}
    for option, given in options_of(arguments):
        if option in SOURCES:
            _, sign, path = given.partition("=")
            file = path if sign and not os.path.exists(expanded(given)) else given
            found[file] = file_state(expanded(file))
    return found


def lacks(arguments: Iterable[str]) -> str:
    """What a command still needs, in words; empty if nothing."""
    given = list(arguments)
    if given[:1] != ["capture"]:
        return "expected the command capture"
    if "MODEL" in given[1:2] or len(given) < 2:
        return "which model? a directory or a hub name; ^o offers recent ones"
    if not any(word.partition("=")[0] in SOURCES for word in given):
        return "what is it to read? prompts from files, typed here, or a corpus"
    return ""


def is_taken(arguments: Sequence[str], runs: Collection[str]) -> str:
    """That there is a run of the name that a capture is to make, in words; empty if there is none, or it is resumed."""
    name = run_of(arguments)
    if name not in runs or "--resume" in arguments:
        return ""
    return f"there is a run {name} already: give another run name"


# completion


def completed(field: Field, text: str) -> str | None:
    """`text` with its last path completed as far as the first entry that begins so; None if there is none."""
    _, _, path, mark = _last_path(field, text)
    found = next(iter(entries(path, field)), None) if path and mark != "\\" else None
    if found is None or not found.startswith(path):
        return None
    rest = found[len(path) :]
    return text + (_written(rest, mark) if field.kind == "files" else rest)


def _written(rest: str, mark: str) -> str:
    """The rest of a word as it is typed where the quotation mark `mark` is open."""
    if mark == "'":
        return rest.replace("'", "'\\''") + mark
    special = '"\\' if mark else " \t\r\n'\"\\"
    return "".join(f"\\{char}" if char in special else char for char in rest) + mark


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


def _last_path(field: Field, text: str) -> tuple[str, str, str, str]:
    """What is before the word that is being typed, its CONCEPT= and its path without their quotation marks, and the
    mark that is still open.
    """
    if field.kind != "files":
        return "", "", text, ""
    start, word, mark = _last_word(text)
    concept, sign, path = word.partition("=")
    return text[:start], concept + sign if sign else "", path if sign else word, mark


def _last_word(text: str) -> tuple[int, str, str]:
    """Where the word that is being typed begins, as `shlex.split` reads it, the word, and the mark that is open in
    it: a quotation mark, or a backslash that quotes the next character.
    """
    start, word, mark, escaped = 0, "", "", False
    for place, char in enumerate(text):
        if escaped:
            word += char if mark != '"' or char in '"\\' else f"\\{char}"
            escaped = False
        elif char == "\\" and mark != "'":
            escaped = True
        elif char == mark:
            mark = ""
        elif mark:
            word += char
        elif char in "'\"":
            mark = char
        elif char in " \t\r\n":
            start, word = place + 1, ""
        else:
            word += char
    return start, word, "\\" if escaped else mark


def options(field: Field, text: str, recent: Iterable[str]) -> list[str]:
    """What can be chosen for a field. recent: models of the store's runs and of its backends."""
    if field.choices:
        return list(field.choices)
    if field.kind == "model":
        return [*dict.fromkeys(model for model in recent if model and text in model), *entries(text, field)]
    if field.kind in ("files", "file"):
        return entries(_last_path(field, text)[2], field)
    return []


def chosen(field: Field, text: str, option: str) -> str:
    """The field's text after a choice."""
    if field.kind != "files":
        return option
    before, concept, _, _ = _last_path(field, text)
    return before + shlex.quote(concept + option)


def is_open_folder(field: Field, option: str) -> bool:
    """Whether a choice only leads on to a folder's entries: a folder that is not a model."""
    return option.endswith("/") and not (field.kind == "model" and (expanded(option) / "config.json").exists())
