"""What of what a model reads is recorded: the conditions of `--where` (docs/decisions/0012).

Every token passes through the model; those that meet all conditions on tokens are recorded: with every value, or, with
the one condition on values, with those that meet it (beyond.py).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nfinspect.capturing.errors import BadPrompts
from nfinspect_store.errors import RequestError

if TYPE_CHECKING:  # a command's options are parsed before torch is imported
    from nfinspect.capturing.prompts import PromptIds

ASSISTANT = "assistant"
"""The role of what a model writes."""

FORMS = (
    "answers, role=R or role=R,S, tokens=A-B or tokens=A-, beyond=pX such as beyond=p99.9, several joined by ' and '"
)


@dataclass(frozen=True)
class Where:
    """Conditions of which all must hold.

    answers: the token was generated, or without --generate is of the role assistant. roles: it has one of these. first,
    last: its position in the prompt is at least and at most this; None: to the prompt's end. beyond: of the values on
    these tokens, those beyond the neuron's running percentile are kept and no others; None: what --keep says.
    """

    answers: bool = False
    roles: tuple[str, ...] = ()
    first: int = 0
    last: int | None = None
    beyond: Decimal | None = None

    def __str__(self) -> str:
        parts = ["answers"] if self.answers else []
        if self.roles:
            parts.append(f"role={','.join(self.roles)}")
        if self.first or self.last is not None:
            parts.append(f"tokens={self.first}-{'' if self.last is None else self.last}")
        if self.beyond is not None:  # last: the store looks for it there
            parts.append(f"beyond=p{self.beyond:f}")
        return " and ".join(parts)

    @property
    def of_tokens(self) -> bool:
        """Whether there is a condition on tokens."""
        return self.answers or bool(self.roles) or self.first > 0 or self.last is not None

    def chosen(self, roles: Sequence[str] | None, read: int, generate: int) -> NDArray[np.bool_]:
        """Which tokens of a prompt are recorded: bool[read + generate]. roles: of the `read` tokens of the prompt if it
        is a chat; up to `generate` tokens follow.
        """
        place = np.arange(read + generate)
        found: NDArray[np.bool_] = place >= self.first
        if self.last is not None:
            found &= place <= self.last
        every = np.array([*(roles or [""] * read), *([ASSISTANT if roles else ""] * generate)], dtype=np.str_)
        if self.answers:
            found &= place >= read if generate else every == ASSISTANT
        if self.roles:
            found &= np.isin(every, self.roles)
        return found


def parse_where(text: str) -> Where:
    """The conditions of an expression such as `role=user,assistant and tokens=1-`. Raises RequestError."""
    found: dict[str, object] = {}
    for part in re.split(r"\s+and\s+", text.strip()):
        name, _, value = part.partition("=")
        told = _condition(name.strip(), value.strip() if "=" in part else None)
        if told is None:
            raise RequestError(f"expected --where {FORMS}; found {part[:60]!r}")
        if told.keys() & found.keys():
            raise RequestError(
                f"expected each condition of --where once, found {name.strip()!r} twice in {text[:60]!r}"
            )
        found |= told
    return Where(**found)  # type: ignore[arg-type]


def _condition(name: str, value: str | None) -> dict[str, object] | None:
    """The fields of one condition; None if it has none of the forms."""
    if name == "answers" and value is None:
        return {"answers": True}
    if name == "role" and value:
        roles = sorted({role.strip() for role in value.split(",")})
        return {"roles": tuple(roles)} if all(roles) else None
    if name == "tokens" and value and (match := re.fullmatch(r"(\d{1,9})\s*-\s*(\d{1,9})?", value)):
        first, last = int(match[1]), None if match[2] is None else int(match[2])
        return {"first": first, "last": last} if last is None or first <= last else None
    if name == "beyond" and value and (match := re.fullmatch(r"p(\d{1,2}(?:\.\d{1,9})?)", value)):
        percentile = Decimal(match[1]).normalize()
        return {"beyond": percentile} if percentile else None
    return None


def chosen_tokens(where: Where | None, prompts: "Sequence[PromptIds]", generate: int) -> list[NDArray[np.bool_]] | None:
    """Which tokens of each prompt are recorded, with as many generated ones as there may be; None: all of them.

    Raises BadPrompts if there are none, or none of a role that is asked for.
    """
    if where is None or not where.of_tokens:
        return None
    there = {role for prompt in prompts for role in prompt.roles or ()}
    if generate and there:
        there.add(ASSISTANT)
    wanted = (*where.roles, *((ASSISTANT,) if where.answers and not generate else ()))
    for role in wanted:
        if role not in there:
            found = ", ".join(sorted(there)) or "none, as no prompt is a chat (messages, or --chat)"
            raise BadPrompts(f"expected tokens of the role {role} for --where {where}, found these roles: {found}")
    chosen = [where.chosen(prompt.roles, len(prompt.token_ids), generate) for prompt in prompts]
    if not any(one.any() for one in chosen):
        raise BadPrompts(nothing_recorded(where))
    return chosen


def nothing_recorded(where: Where | None) -> str:
    """The message about a capture of no token."""
    return f"expected tokens that meet --where {where}, found none in any prompt"
