"""Draw every screen of the app, at 80×24 and 120×40, from real runs of the sample model: `make screens`.

    python docs/make_screens.py docs/screens [NAME …]

Runs and results are made in a folder that is deleted afterwards. The app runs headless; what is written between < and >
is a key as Textual names it. The page of the pictures, README.md, is written beside them. Five minutes in all.
"""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nfinspect.tui.app import NfinspectApp

SIZES = ((80, 24), (120, 40))
STORE = "nfinspect-store"

RUN = ":runs demo<enter>"
QUERY = "SELECT layer, count(*), avg(max) FROM neurons GROUP BY layer"

SCREENS = {
    "runs": ("The runs of a store", ""),
    "layers": ("A run's layers: how healthy each is, and why", RUN),
    "neurons": ("A list of neurons", RUN + "n"),
    "neuron": ("One neuron: its figures, its histogram, the text that sets it off", RUN + "n<enter>"),
    "neuron-quantiles": ("The same neuron, examples at quantiles of its values", RUN + "n<enter>v"),
    "walk": ("Token walk: a text token by token, beside it the strongest neurons", RUN + "wllllllll"),
    "walk-layer": ("Token walk, coloured by how unusual a layer is at each token", RUN + "wllllc"),
    "trace": ("Which neurons a concept changes", RUN + ":trace tulip<enter>"),
    "overlap": ("What the traces of concepts share", RUN + "o"),
    "marked": ("Marked neurons, with their ranks in every trace", RUN + ":trace tulip<enter><space><space><space>O"),
    "analyses": ("The analyses of a run", RUN + "a"),
    "ngrams": ("Neurons that detect tokens", RUN + ":ngrams<enter>"),
    "positions": ("Neurons that follow the position", RUN + ":positions<enter>"),
    "delta": ("Neurons that follow the change", RUN + ":delta<enter>"),
    "sinks": ("Massive activations", RUN + ":sinks<enter>"),
    "kinds": ("What kinds of neurons share", RUN + ":kinds<enter>"),
    "logits": ("The tokens that a neuron promotes", RUN + ":logits L1/N4<enter>r"),
    "lens": ("The logit lens", RUN + ":lens<enter>"),
    "sql": ("SQL over the run", f"{RUN}:sql {QUERY}<enter>"),
    "tables": ("The tables that SQL can read", RUN + "Q<ctrl+o>jjjjjj"),
    "record": ("A row of a result, whole", RUN + ":sql SELECT * FROM prompts<enter>vjj"),
    "lab": ("Lab: what the model writes without two neurons", f"{RUN}:trace tulip<enter><space><space>:lab<enter>r"),
    "compare": ("Runs next to each other, over the depth of their networks", ":compare demo,trained<enter>"),
    "diff": ("Two runs, neuron by neuron", ":diff demo trained<enter>"),
    "live": ("A capture under way in a backend, with what the model writes", ":live night<enter>"),
    "capture": ("A new capture, with its command and its estimate", ":capture<enter>"),
    "frequencies": ("How often each value of a column occurs", RUN + "nFclass<enter>"),
    "columns": ("The figures of every column of a table", RUN + "nD"),
    "log": ("What the app has done: commands and SQL", RUN + "n:trace tulip<enter>@"),
    "help": ("The keys of a place", RUN + "n?"),
    "palette": ("The palette", RUN + "<ctrl+p>"),
}  # fmt: skip
"""Each screen's title, and what is typed from the list of runs."""

UNTIL = {"lab": "ΔNLL", "logits": "+0.", "live": "strongest at"}
"""What a screen waits for that no worker of the app brings."""

PATIENCE = 1500
"""How often a screen is looked at for that, five times a second."""

REST = 0.3
"""Seconds of rest after the last key: what is shown of the row under the cursor is asked for a moment later."""

MADE = (
    ("capture", "MODEL", "PROMPTS", "--generate", "16", "--sites", "mlp,resid", "--run", "demo"),
    ("capture", "MODEL", "--text", "CORPUS", "--max-tokens", "4000", "--run", "trained"),
    *(("ngrams", run) for run in ("demo", "trained")),
    ("positions", "trained"),
    ("positions", "demo", "--allow-few"),
    ("delta", "demo"),
    ("delta", "trained"),
    ("sinks", "demo"),
    ("walk", "demo"),
    ("logits", "MODEL", "--lens", "The capital of", "--positions", "--from", "demo"),
)
"""The commands that make what is shown."""


def made(folder: Path) -> None:
    """Runs and results, in a store in `folder`."""
    import nfinspect_samples

    model = folder / "models" / "gpt2-relu"
    shutil.copytree(nfinspect_samples.path("gpt2-relu"), model)
    corpus = next(iter(sorted(Path(str(nfinspect_samples.path("corpus"))).glob("*.txt"))))
    prompts: list[str] = []
    for concept in nfinspect_samples.CONCEPTS:
        prompts += ["--prompts", f"{concept}={nfinspect_samples.path('prompts', f'{concept}.json')}"]
    meant = {"MODEL": [str(model)], "CORPUS": [str(corpus)], "PROMPTS": prompts}
    for words in MADE:
        arguments = [one for word in words for one in meant.get(word, [word])]
        command(*arguments)


def begin_capture() -> None:
    """Have a backend make the run `night`, which takes longer than its pictures do."""
    import nfinspect_samples

    from nfinspect.tui.captures import Captures

    prompts: list[str] = []
    for night in range(20):
        for concept in nfinspect_samples.CONCEPTS:
            prompts += ["--prompts", f"{concept}{night}={nfinspect_samples.path('prompts', f'{concept}.json')}"]
    line = ("capture", str(Path("models") / "gpt2-relu"), *prompts, "--generate", "64", "--run", "night")
    captures = Captures(Path(STORE))
    captures.begin((*line, "--store", STORE), Path.cwd())
    for _ in range(PATIENCE):
        if captures.of_run("night") is not None:  # it writes
            return
        time.sleep(0.2)


def end_backends() -> None:
    for backend in json.loads(command("backends", "--json").stdout or "[]"):
        command("backends", "--stop", backend["id"])


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a command on the store in the working directory."""
    words = [sys.executable, "-m", "nfinspect", *arguments, "--store", STORE]
    return subprocess.run(words, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)


def keys(typed: str) -> list[str]:
    """What is typed, key by key."""
    return [key[1:-1] if len(key) > 1 else key for key in re.findall(r"<[^<>]+>|.", typed)]


async def drawn(size: tuple[int, int], typed: str, until: str) -> str:
    """What is on the screen after these keys, as SVG."""
    from textual.keys import _character_to_key

    from nfinspect.tui.app import NfinspectApp
    from nfinspect.tui.engine import Engine

    (Path(STORE) / "marks.jsonl").unlink(missing_ok=True)
    engine = Engine(Path(STORE))
    app = NfinspectApp(engine, None)
    try:
        async with app.run_test(size=size) as pilot:
            await _settled(app)
            for key in keys(typed):
                await pilot.press(_character_to_key(key) if len(key) == 1 else key)
                await _settled(app)
            for _ in range(PATIENCE):
                if until in shown(app):
                    break
                await asyncio.sleep(0.2)
            await asyncio.sleep(REST)
            await _settled(app)
            return app.export_screenshot(title="nfinspect")
    finally:
        engine.close()


def shown(app: "NfinspectApp") -> str:
    """The text on the screen."""
    return "\n".join(strip.text for strip in app.screen._compositor.render_strips())


async def _settled(app: "NfinspectApp") -> None:
    """Until no worker is busy and what the last one brought has been drawn."""
    quiet = 0
    while quiet < 4:
        await asyncio.sleep(0.03)
        pending = [worker for worker in app.workers if not worker.is_finished]
        quiet = 0 if pending else quiet + 1


def page() -> str:
    """README.md beside the pictures."""
    lines = [
        "# Screens",
        "",
        "Every screen of the app at 80×24 and 120×40, of runs of the sample model. `make screens` draws them.",
    ]
    for name, (title, typed) in SCREENS.items():
        lines += ["", f"## {title}", "", f"Typed from the list of runs: `{typed or '(nothing)'}`", ""]
        lines += [f"![{title}, {w} × {h}]({name}-{w}x{h}.svg)" for w, h in SIZES]
    return "\n".join(lines) + "\n"


def main() -> int:
    out, *names = sys.argv[1:]
    folder = Path(out).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.update(TERM="xterm-256color", COLORTERM="truecolor")  # the same picture from every terminal
    os.environ.pop("NO_COLOR", None)
    work = Path(tempfile.gettempdir()) / "nfinspect-screens"  # it stands in the pictures
    work.mkdir()
    os.environ.update(XDG_CONFIG_HOME=str(work / "config"), XDG_STATE_HOME=str(work / "state"))
    try:
        os.chdir(work)  # paths on screen are short, and nobody's own
        made(work)
        for name in names or SCREENS:
            if name == "live":
                begin_capture()
            for size in SIZES:
                svg = asyncio.run(drawn(size, SCREENS[name][1], UNTIL.get(name, "")))
                (folder / f"{name}-{size[0]}x{size[1]}.svg").write_text(svg, encoding="utf-8")
            if name == "live":
                end_backends()
        (folder / "README.md").write_text(page(), encoding="utf-8")
    finally:
        end_backends()
        os.chdir(folder)
        shutil.rmtree(work, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
