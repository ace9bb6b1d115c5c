"""From prompts and corpora to token ids: what a capture reads, in order."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nfinspect.capturing.errors import BadPrompts
from nfinspect.capturing.prompt_files import PromptText
from nfinspect.models import CannotTokenize, Message, Texts, TokenizedText, is_text


@dataclass(frozen=True)
class PromptIds:
    """A prompt as the model reads it. roles: of its tokens if it is a chat. begins: as in TokenizedText."""

    concept: str
    text: str
    token_ids: tuple[int, ...]
    origin: str
    roles: tuple[str, ...] | None = None
    begins: bool = False


def prompt_ids(prompts: Sequence[PromptText], texts: Texts, *, answer: bool = False) -> list[PromptIds]:
    """Tokenise prompts, with special tokens by the rule of `texts`. answer: chats end with what begins the answer.

    Raises BadPrompts.
    """
    found = []
    for prompt in prompts:
        check_concept(prompt.concept, f" of {prompt.origin}")
        read = _tokenized(prompt, texts, answer)
        if not read.token_ids:
            raise BadPrompts(f"expected text in {prompt.origin}, found an empty prompt (no token)")
        found.append(PromptIds(prompt.concept, read.text, read.token_ids, prompt.origin, read.roles, read.begins))
    return found


def check_concept(concept: object, of: str = "") -> None:
    """Raises BadPrompts for a concept that no run can hold. of: whose concept it is, for the message."""
    if not isinstance(concept, str) or not is_text(concept):
        raise BadPrompts(f"expected a concept{of} that is a str without half surrogates, found {repr(concept)[:60]}")


def corpus_windows(
    path: Path, content: str, texts: Texts, context: int, max_tokens: int | None = None
) -> list[PromptIds]:
    """The content of a corpus file, tokenised once and cut into disjoint windows of `context` tokens.

    The shorter last one is kept. Every window begins with `texts.begin`, and has that many fewer tokens of the text.
    The concept is the file's stem. max_tokens: the most tokens taken from the text. Raises BadPrompts.
    """
    ids, _, begins = texts.corpus(content)
    ids = ids[:max_tokens]
    if not ids:
        raise BadPrompts(f"expected text in {path}, found none: the file is empty")
    room = context - len(texts.begin)
    if room < 1:
        raise BadPrompts(
            f"expected --context of {len(texts.begin) + 1} or more, found {context}: every window begins with "
            f"{texts.begin_text!r} (--bos none leaves it out)"
        )
    windows = []
    for start in range(0, len(ids), room):
        part = tuple(ids[start : start + room])
        text = texts.decoded(part)
        windows.append(
            PromptIds(path.stem, text, (*texts.begin, *part), f"{path} token {start}", begins=begins and not start)
        )
    return windows


def _tokenized(prompt: PromptText, texts: Texts, answer: bool) -> TokenizedText:
    content = prompt.content
    try:
        if isinstance(content, str):
            return texts.text(content, answer=answer)
        if content and isinstance(content[0], Message):
            return texts.messages([m for m in content if isinstance(m, Message)], answer=answer)
    except CannotTokenize as error:
        raise BadPrompts(f"{prompt.origin}: {error}") from error
    ids = tuple(i for i in content if not isinstance(i, Message))
    return TokenizedText(texts.decoded(ids), ids)
