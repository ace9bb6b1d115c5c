"""From prompts files and corpora to token ids: what a capture reads, in order."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from nfinspect.capturing.errors import BadPrompts


@dataclass(frozen=True)
class PromptText:
    """A prompt as it was given. `origin` says where, for messages."""

    concept: str
    text: str
    origin: str


@dataclass(frozen=True)
class PromptIds:
    """A prompt as the model reads it."""

    concept: str
    text: str
    token_ids: tuple[int, ...]
    origin: str


def read_prompts(path: Path, concept: str | None = None) -> list[PromptText]:
    """`{"prompts": […]}` JSON, JSONL of {"text", "concept"}, or text with one prompt a line.

    Without `concept` a JSONL line's own concept, else the file's stem, is the concept. Raises BadPrompts.
    """
    content = _read(path)
    label = concept or path.stem
    if path.suffix == ".jsonl":
        prompts = list(_from_lines(path, content, concept))
    elif path.suffix == ".json":
        texts = _from_json(path, content)
        prompts = [PromptText(label, text, f"{path} prompt {i + 1}") for i, text in enumerate(texts)]
    else:
        lines = _lines(content)
        prompts = [PromptText(label, line, f"{path}:{i + 1}") for i, line in enumerate(lines) if line.strip()]
    if not prompts:
        raise BadPrompts(f"expected prompts in {path}, found none: the file is empty")
    return prompts


def prompt_ids(prompts: Sequence[PromptText], tokenizer: PreTrainedTokenizerBase) -> list[PromptIds]:
    """Tokenise prompts with the special tokens that the tokenizer puts around a text."""
    found = []
    for prompt in prompts:
        if not _is_text(prompt.text) or not _is_text(prompt.concept):
            raise BadPrompts(f"expected text in {prompt.origin}, found half a surrogate pair, which no file can hold")
        ids = tokenizer(prompt.text)["input_ids"]
        if not ids:
            raise BadPrompts(f"expected text in {prompt.origin}, found an empty prompt (no token)")
        found.append(PromptIds(prompt.concept, prompt.text, tuple(ids), prompt.origin))
    return found


def corpus_windows(
    path: Path, tokenizer: PreTrainedTokenizerBase, context: int, max_tokens: int | None = None
) -> list[PromptIds]:
    """A corpus tokenised once and cut into disjoint windows of `context` tokens, the shorter last one kept.

    The concept is the file's stem. max_tokens bounds the whole. Raises BadPrompts.
    """
    content = _read(path)
    # A corpus is longer than any context on purpose: no warning about that.
    ids = tokenizer(content, verbose=False)["input_ids"][:max_tokens]
    if not ids:
        raise BadPrompts(f"expected text in {path}, found none: the file is empty")
    windows = []
    for start in range(0, len(ids), context):
        window = tuple(ids[start : start + context])
        text = str(tokenizer.decode(list(window)))
        windows.append(PromptIds(path.stem, text, window, f"{path} token {start}"))
    return windows


def check_readable(path: Path) -> None:
    """Raises BadPrompts where a corpus cannot be opened."""
    try:
        path.open("rb").close()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> BadPrompts:
    return BadPrompts(f"cannot read prompts from {path}: {error.strerror or error}")


def _lines(content: str) -> list[str]:
    """Split at line feeds alone: str.splitlines also cuts at U+2028 and form feeds, which JSON and text may hold."""
    return content.split("\n")


def _is_text(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadPrompts(f"expected UTF-8 text in {path}, found other bytes at position {error.start}") from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _from_json(path: Path, content: str) -> list[str]:
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadPrompts(f"expected JSON in {path}, found an error: {error}") from error
    texts = data.get("prompts") if isinstance(data, dict) else data
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise BadPrompts(f'expected {{"prompts": ["…", …]}} in {path}, found something else')
    return texts


def _from_lines(path: Path, content: str, concept: str | None) -> Iterator[PromptText]:
    for number, line in enumerate(_lines(content), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadPrompts(f"expected one JSON object in {path}:{number}, found an error: {error}") from error
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise BadPrompts(f'expected {{"text": "…", "concept": "…"}} in {path}:{number}, found {line[:60]!r}')
        yield PromptText(concept or str(row.get("concept") or path.stem), row["text"], f"{path}:{number}")
