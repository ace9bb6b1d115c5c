"""The options that edit a model while it reads and writes, the same in every command that has them."""

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any

import click

from nfinspect.edits import DIRECTION, asked_edits

NAMES = ("zero", "scale", "clamp", "add", "direction")

OPTIONS = (
    click.option("--zero", metavar="ADDRS", multiple=True,
                 help="Set neurons to 0: L3/N17, resid:L1/N4 or @SET, several joined by commas. Repeatable."),
    click.option("--scale", metavar="ADDRS=FACTOR", multiple=True, help="Multiply neurons' values. Repeatable."),
    click.option("--clamp", metavar="ADDRS=VALUE", multiple=True, help="Hold neurons at a value. Repeatable."),
    click.option("--add", metavar="ADDRS=VALUE", multiple=True, help="Add to neurons' values. Repeatable."),
    click.option("--direction", metavar=DIRECTION, multiple=True,
                 help="Add FACTOR times the difference of two concepts' means in a run. Repeatable."),
    click.option("--from", "start", metavar="TOKEN", type=click.IntRange(min=0), default=0, show_default=True,
                 help="First position that edits change; 0 is a prompt's first token."),
)  # fmt: skip


def edit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--zero, --scale, --clamp, --add, --direction and --from; the command gets them as `edits`, a tuple of Asked, and
    `start`. Raises RequestError for one that is mistyped, before the command begins.
    """

    @wraps(command)
    def with_edits(**options: Any) -> Any:
        given: Mapping[str, Iterable[str]] = {name: options.pop(name) for name in NAMES}
        return command(edits=tuple(asked_edits(*(tuple(texts) for texts in given.values()))), **options)

    decorated: Callable[..., Any] = with_edits
    for option in reversed(OPTIONS):
        decorated = option(decorated)
    return decorated
