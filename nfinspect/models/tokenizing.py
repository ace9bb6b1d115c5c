"""From texts to token ids: the one place where special tokens are added.

The tokenizer decides what a text begins with: BOS for most models, nothing for GPT-2. The same rule holds for a prompt
and for each window of a corpus:

- `auto`: every text and window begins with what the tokenizer puts there, once: a text that already begins with it
  (such as one from a chat template) gets no second one, and that is reported. A model trained with BOS has never seen a
  text without, and predicts one badly.
- `each`: every text and window begins with BOS, whether or not the tokenizer would add it. `none`: nothing is added.
- The end-of-sequence token that some tokenizers append is never added. After it a model begins another text, so a
  prompt's last token would be read after its end. Special tokens written by a text or a template itself stay.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .errors import CannotTokenize
from .hub import one_line

Bos = Literal["auto", "each", "none"]

PROBES = 64
"""The most words of the vocabulary that are tried, until one gives a token [own]."""


@dataclass(frozen=True)
class Message:
    """One turn of a chat."""

    role: str
    content: str


@dataclass(frozen=True)
class TokenizedText:
    """A text as the model reads it.

    begins: whether a text (not a chat) already began with what would have been added. roles: of each token, from the
    message that it is in; None if there are none, or if the tokenizer does not report where its tokens are.
    """

    text: str
    token_ids: tuple[int, ...]
    begins: bool = False
    roles: tuple[str, ...] | None = None


class Texts:
    """Tokenises with one tokenizer under one rule. begin: the ids that every text begins with, () for none."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, bos: Bos = "auto", *, chat: bool = False) -> None:
        """chat: a plain text is one turn of a user. Raises CannotTokenize if the tokenizer lacks BOS or a template."""
        if bos not in get_args(Bos):
            raise CannotTokenize(f"expected bos auto, each or none, found {bos!r}")
        self._tokenizer = tokenizer
        self._chat = chat
        if chat:
            self._check_template()
        self.begin = () if bos == "none" else put_before(tokenizer)
        if bos == "each" and not self.begin:
            if not isinstance(tokenizer.bos_token_id, int):
                raise CannotTokenize(
                    "expected a tokenizer with a beginning-of-sequence token for --bos each, found one without: "
                    "leave --bos out"
                )
            self.begin = (tokenizer.bos_token_id,)

    @property
    def begin_text(self) -> str:
        """`begin` as text, for messages."""
        return self.decoded(self.begin)

    def decoded(self, token_ids: Sequence[int]) -> str:
        """Token ids as one text; ids that the tokenizer does not have are left out."""
        return str(self._tokenizer.decode([i for i in token_ids if 0 <= i < len(self._tokenizer)]))

    def text(self, text: str, *, answer: bool = False) -> TokenizedText:
        """A text, or under `chat` a chat of this one user message; answer: as in `messages`."""
        if self._chat:
            return self.messages([Message("user", text)], answer=answer)
        return self._begun(text, self._encoded(text)[0])

    def messages(self, messages: Sequence[Message], *, answer: bool) -> TokenizedText:
        """A chat rendered by the tokenizer's own template. answer: with what begins the assistant's answer.

        Raises CannotTokenize if there is no template, it refuses these messages, or they are not text.
        """
        self._check_template()
        whole = self._rendered(messages, answer)
        ids, places = self._encoded(whole)
        starts = None if places is None else [start for start, _ in places]
        roles = None if starts is None else self._roles(messages, whole, starts)
        # A template begins a chat as the model has learnt it: nothing to report.
        return replace(self._begun(whole, ids, roles), begins=False)

    def corpus(self, text: str) -> tuple[list[int], list[int] | None, bool]:
        """A long text's tokens without what every window begins with: (ids, ends, begins).

        ends: where each token ends in the text, None if the tokenizer does not report it. begins: as in TokenizedText.
        """
        ids, places = self._encoded(text)
        ends = None if places is None else [end for _, end in places]
        size = len(self.begin) if self._begins(ids) else 0
        return ids[size:], None if ends is None else ends[size:], size > 0

    def _encoded(self, text: str) -> tuple[list[int], list[tuple[int, int]] | None]:
        """The text's own token ids, and where each is in it (start, stop); None if the tokenizer does not report it."""
        if not is_text(text):
            raise CannotTokenize("expected text, found half a surrogate pair, which is not a character")
        exact = bool(self._tokenizer.is_fast)
        # verbose=False: no warning that a corpus is longer than the context.
        encoded: Any = self._tokenizer(text, verbose=False, add_special_tokens=False, return_offsets_mapping=exact)
        return list(encoded["input_ids"]), list(encoded["offset_mapping"]) if exact else None

    def _begins(self, ids: Sequence[int]) -> bool:
        return bool(self.begin) and tuple(ids[: len(self.begin)]) == self.begin

    def _begun(self, text: str, ids: Sequence[int], roles: Sequence[str] | None = None) -> TokenizedText:
        if not ids:
            return TokenizedText(text, ())
        begins = self._begins(ids)
        put = () if begins else self.begin
        spoken = None if roles is None else (*list(roles[:1]) * len(put), *roles)
        return TokenizedText(text, (*put, *ids), begins, spoken)

    def _check_template(self) -> None:
        if not getattr(self._tokenizer, "chat_template", None):
            raise CannotTokenize(
                "expected a tokenizer with a chat template, found one without: this is not a chat model, or its "
                "chat_template.jinja was not copied; give texts instead"
            )

    def _rendered(self, messages: Sequence[Message], answer: bool) -> str:
        said = [vars(message) for message in messages]
        try:
            return str(self._tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=answer))
        except Exception as error:  # a template is a program, and may raise anything
            found = one_line(error)
            raise CannotTokenize(f"expected messages that the model's chat template accepts, found {found}") from error

    def _roles(self, messages: Sequence[Message], whole: str, starts: Sequence[int]) -> list[str] | None:
        """The role of each token: of the message in whose part of the chat it starts; the rest is the assistant's.

        A message's part ends where the chat up to it, rendered alone, ends; if the template refuses that, the part is
        shared with the next message. None if the template renders the beginning of a longer chat differently.
        """
        ends: list[tuple[int, str]] = []
        for count, message in enumerate(messages, start=1):
            try:
                until = self._rendered(messages[:count], answer=False)
            except CannotTokenize:
                if count < len(messages):
                    continue
                raise
            if not whole.startswith(until):
                return None
            ends.append((len(until), message.role))
        ends.append((len(whole) + 1, "assistant"))
        return [next(role for end, role in ends if start < end) for start in starts]


def is_text(text: str) -> bool:
    """Whether every code point is a character: half a surrogate pair cannot be tokenised or stored."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def put_before(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The token ids that a tokenizer adds before a text by default: usually BOS, or nothing."""
    for word in _words(tokenizer):
        plain = list(tokenizer(word, verbose=False, add_special_tokens=False)["input_ids"])
        if not plain:
            continue
        full = list(tokenizer(word, verbose=False)["input_ids"])
        for start in range(len(full) - len(plain) + 1):
            if full[start : start + len(plain)] == plain:
                return tuple(full[:start])
    return ()


def end_ids(model: PreTrainedModel) -> frozenset[int]:
    """The token ids that end a sequence: from the model's generation config, else from its config."""
    ends = model.generation_config.eos_token_id if model.generation_config is not None else None
    if ends is None:
        ends = getattr(model.config.get_text_config(), "eos_token_id", None)  # a multimodal config keeps it inside
    if ends is None:
        return frozenset()
    return frozenset([ends] if isinstance(ends, int) else ends)


def _words(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    special = set(tokenizer.all_special_ids)
    ids = [i for i in range(min(len(tokenizer), PROBES + len(special))) if i not in special]
    return ["a", *(str(tokenizer.decode([i])) for i in ids)]


def already_begun(begin: str, origins: Sequence[str], of: int) -> str:
    """The note about texts that began with `begin` themselves; it names the first of `origins`."""
    return f"{len(origins)} of {of} texts begin with {begin!r} already, such as {origins[0]}: no second one is put"
