"""Colours: a theme of our own, or the terminal's sixteen colours if it has no more or NO_COLOR is set."""

import os

from textual.theme import Theme

NAME = "nfinspect"

OWN = Theme(
    name=NAME,
    primary="#7aa2c8",
    secondary="#4f6d8a",
    accent="#e0b15a",
    warning="#d9a441",
    error="#d9655f",
    success="#7fb77e",
    foreground="#d6d9dc",
    background="#14171a",
    surface="#14171a",
    panel="#1d2226",
    dark=True,
    variables={
        "bar": "#20262b",
        "row": "#242b31",
        "row-focus": "#2d4356",
        "heat1": "#8f9aa3",
        "heat2": "#b9a878",
        "heat3": "#e0b15a",
        "heat4": "#ff9d5c",
        "text-muted": "#8a939b",
    },
)

SIXTEEN = {
    "bar": "ansi_default",
    "row": "ansi_bright_black",
    "row-focus": "ansi_blue",
    "heat1": "ansi_default",
    "heat2": "ansi_cyan",
    "heat3": "ansi_yellow",
    "heat4": "ansi_bright_red",
}
"""Our colour names under Textual's theme of the terminal's own colours."""


def few_colours(environ: "os._Environ[str] | dict[str, str]") -> bool:
    """Whether to keep to the terminal's own sixteen colours."""
    if "NO_COLOR" in environ:
        return True
    if environ.get("COLORTERM", "").lower() in ("truecolor", "24bit"):
        return False
    term = environ.get("TERM", "")
    return not ("256" in term or "direct" in term or "kitty" in term or "alacritty" in term)
