"""Names that nothing can have, wherever a path or a name may be given: one line, and no defect."""

from pathlib import Path

import pytest
from command_line import Run

from nfinspect.tui.output import write_json
from nfinspect_store.errors import NfinspectError
from nfinspect_store.paths import expanded

ODD = {
    "no such user": "~no-such-user/x",
    "a long name": "a" * 300,
    "a long path": "/" + "a" * 300,
    "a long name@R": "a" * 300 + "@main",
}
LINES = (
    "ODD",
    "ODD health planted",
    "info ODD",
    "delete ODD",
    "watch ODD",
    "verify ODD",
    "sql ODD SELECT",
    "runs --store ODD",
    "health planted --store ODD",
    "capture ODD --text words.txt",
    "capture ODD --text words.txt --estimate",
    "capture ODD --text words.txt --revision main",
    "capture nowhere --prompts ODD",
    "capture nowhere --prompts tulip=ODD",
    "capture nowhere --text ODD",
    "attention ODD --text words.txt",
    "attention ODD --from planted",
    "ablate ODD --text words.txt",
    "ablate nowhere --text ODD",
    "ablate nowhere --text words.txt --neurons ODD",
    "logits ODD L0/N0",
    "text words --model ODD",
    "delta planted --substitute --model ODD",
    "export planted --out ODD",
)


def test_as_a_shell_has_it() -> None:
    assert expanded("~/x") == Path.home() / "x" and expanded("a/~") == Path("a/~")
    assert expanded("~no-such-user/x") == Path("~no-such-user/x")


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_name_is_a_line(odd: str, nfinspect: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "words.txt").write_text("words\n")
    wrong = {}
    for line in LINES:
        done = nfinspect(*(word.replace("ODD", ODD[odd]) for word in line.split()))
        said = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""
        empty = done.returncode == 0 and line.startswith(("runs", "export"))  # they may make it
        if not empty and (done.returncode not in (1, 2) or "defect" in said or not said.startswith("nfinspect: ")):
            wrong[line] = (done.returncode, said[-160:])
    assert not wrong


@pytest.mark.parametrize("odd", ["a long name", "a long path"])
def test_an_export_of_the_app_to_an_odd_name_is_a_line(odd: str) -> None:
    with pytest.raises(NfinspectError, match="File name too long"):
        write_json(ODD[odd], {})
