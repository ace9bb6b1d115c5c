"""A merge opens a part twice, to know it and to read it, however many tables it has; of many parts, some at a time."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from whole_and_parts import assert_same, captured, parts_of, sound

from nfinspect.capturing import merging as capturing_merging
from nfinspect.capturing.merging import merge_runs
from nfinspect.capturing.request import CaptureRequest
from nfinspect.models import LoadedModel
from nfinspect_store import connect, open_parts
from nfinspect_store import merging as store_merging
from nfinspect_store.errors import NotARun
from nfinspect_store.reader import RunFile

Request = Callable[..., CaptureRequest]
Loaded = Callable[[str], LoadedModel]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file is attached."""
    found: Counter[str] = Counter()
    add = connect.add

    def counted(connection: duckdb.DuckDBPyConnection, path: Path, name: str, options: str = "READ_ONLY") -> None:
        found[path.name] += 1
        add(connection, path, name, options)

    monkeypatch.setattr(connect, "add", counted)
    return found


@pytest.mark.parametrize("attach", [False, True])
def test_each_part_is_opened_twice(
    attach: bool, opened: Counter[str], request_: Request, loaded: Loaded, tmp_path: Path
) -> None:
    parts = parts_of(request_(), loaded("gpt2"), 3)
    opened.clear()
    merge_runs(tmp_path / "out.duckdb", parts, attach=attach)
    assert [opened[part.name] for part in parts] == [2, 2, 2]
    with RunFile.open(tmp_path / "out.duckdb") as run:
        opened.clear()
        run.neuron(0, 1)
    assert [opened[part.name] for part in parts] == ([1, 1, 1] if attach else [0, 0, 0])


def test_many_parts_are_open_some_at_a_time(
    request_: Request, loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_(batch_size=1)
    whole = captured(replace(request, run="whole"), loaded("gpt2"))
    parts = parts_of(request, loaded("gpt2"), 5)
    together: list[int] = []
    locked = connect.locked

    def counted(files: list[Path], **options: object) -> duckdb.DuckDBPyConnection:
        together.append(len(list(files)))
        return locked(files, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(open_parts, "locked", counted)
    monkeypatch.setattr(store_merging, "OPEN_TOGETHER", 2)
    out = tmp_path / "out.duckdb"
    merge_runs(out, parts)
    assert together[0] == 5 and set(together[1:]) == {1, 2}
    assert_same(whole, out)
    sound(out)


def test_a_part_that_is_replaced_during_the_merge_is_noticed(
    request_: Request, loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After it was read as a part, another capture's takes its name."""
    parts = parts_of(request_(), loaded("gpt2"), 2)
    others = parts_of(request_(run="other"), loaded("gpt2"), 2)
    check = capturing_merging.check_together

    def replaced(found: list[store_merging.Part]) -> None:
        check(found)
        os.replace(others[1], parts[1])

    monkeypatch.setattr(capturing_merging, "check_together", replaced)
    with pytest.raises(NotARun, match=rf"{parts[1].name} was replaced by another run while it was merged"):
        merge_runs(tmp_path / "out" / "m.duckdb", parts)
    assert not (tmp_path / "out" / "m.duckdb").exists()
