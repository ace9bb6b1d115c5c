"""Draw the picture of the README from a real run, that of `nfinspect demo`.

    python docs/make_screenshot.py STORE RUN OUT.svg [KEY …]
    python docs/make_screenshot.py nfinspect-store demo docs/app.svg t G enter

The same run gives the same bytes. The app runs headless at 120×36; KEYs are pressed one after the other, as Textual
names them (`n`, `enter`).
"""

import asyncio
import os
import sys
from pathlib import Path

from nfinspect.tui.app import NfinspectApp
from nfinspect.tui.engine import Engine

SIZE = (120, 36)


async def picture(store: Path, run: str, keys: list[str]) -> str:
    """Open the run, press the keys, and return what is on the screen then, as SVG."""
    engine = Engine(store)
    app = NfinspectApp(engine, run)
    try:
        async with app.run_test(size=SIZE) as pilot:
            await _settle(app)
            for key in keys:
                await pilot.press(key)
                await _settle(app)
            return app.export_screenshot(title=f"nfinspect {run}")
    finally:
        engine.close()


async def _settle(app: NfinspectApp) -> None:
    """Until no worker is busy and what the last one brought has been drawn."""
    quiet = 0
    while quiet < 4:
        await asyncio.sleep(0.05)
        pending = [worker for worker in app.workers if not worker.is_finished]
        quiet = 0 if pending else quiet + 1


if __name__ == "__main__":
    store, run, out, *keys = sys.argv[1:]
    os.environ.update(TERM="xterm-256color", COLORTERM="truecolor")  # the same picture from every terminal
    os.environ.pop("NO_COLOR", None)
    Path(out).write_text(asyncio.run(picture(Path(store), run, keys)), encoding="utf-8")
