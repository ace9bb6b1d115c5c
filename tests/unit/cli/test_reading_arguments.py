from pathlib import Path

import pytest

from nfinspect.cli.capture import byte_count, layer_list, progress_text, prompt_file, site_list
from nfinspect.present.tables import Column, table
from nfinspect.text import model_name
from nfinspect_store.errors import RequestError
from nfinspect_store.types import Progress


@pytest.mark.parametrize(
    ("text", "expected"), [("0", (0,)), ("0-3,11", (0, 1, 2, 3, 11)), ("5, 1-2 ,1", (1, 2, 5)), (None, None)]
)
def test_layers(text: str | None, expected: tuple[int, ...] | None) -> None:
    assert layer_list(text) == expected


@pytest.mark.parametrize("text", ["", "a", "3-1", "1-", "-1", "1,,2", "0x1", "999999"])
def test_wrong_layers(text: str) -> None:
    with pytest.raises(RequestError):
        layer_list(text)


def test_sites() -> None:
    assert site_list("resid, mlp,resid") == ("resid", "mlp")
    assert site_list(None) is None
    for wrong in ("", "mpl", "mlp,heads"):
        with pytest.raises(RequestError):
            site_list(wrong)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("20G", 20 * 10**9), ("512MiB", 512 * 2**20), ("1.5k", 1500), ("7", 7), ("2 TB", 2 * 10**12)],
)
def test_sizes(text: str, expected: int) -> None:
    assert byte_count(text) == expected


@pytest.mark.parametrize("text", ["", "0", "-1", "G", "1X", "1e9"])
def test_wrong_sizes(text: str) -> None:
    with pytest.raises(RequestError):
        byte_count(text)


def test_prompt_files(tmp_path: Path) -> None:
    assert prompt_file("tulip=a.txt").concept == "tulip"
    assert prompt_file("a.txt").concept is None
    odd = tmp_path / "a=b.txt"
    odd.write_text("x")
    assert prompt_file(str(odd)).path == odd
    for wrong in ("=a.txt", "tulip="):
        with pytest.raises(RequestError):
            prompt_file(wrong)


def test_progress_in_one_line() -> None:
    progress = Progress(1, "h", 0.0, 1.0, 50, 200, 10.0, 5_000_000, "reading", True)
    assert progress_text(progress) == "reading  50/200 tokens (25%)  10/s  5.0 MB  15 s left"


def test_tables_fit_wide_characters_and_all() -> None:
    columns = [Column("name", text=True), Column("n"), Column("spare", spare=1)]
    rows = [("日本語のとても長い名前", 1, 2.5), ("b\x1b", 22, None)]
    assert table(columns, rows, 40)[1:] == [
        "日本語のとても長い名前   1  2.500",
        "b␛                      22      -",
    ]
    narrow = table(columns, rows, 16)
    assert all("2.5" not in line for line in narrow)
    assert narrow[1].startswith("日本語") and "…" in narrow[1]


def test_a_whole_text_is_not_shortened() -> None:
    columns = [Column("run", text=True), Column("status", text=True, whole=True), Column("model", text=True, spare=1)]
    shown = table(columns, [("a" * 30, "capturing 43%, 12 min 03 s left", "m" * 40)], width=60)
    assert "capturing 43%, 12 min 03 s left" in shown[1]
    assert all(len(line) <= 60 for line in shown)


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ("openai-community/gpt2", "openai-community/gpt2"),
        ("/data/models/mine", "mine"),
        ("./mine/", "mine"),
        ("gpt2", "gpt2"),
        ("/", "/"),
    ],
)
def test_a_local_model_is_called_by_its_directory(model: str, shown: str) -> None:
    assert model_name(model) == shown
