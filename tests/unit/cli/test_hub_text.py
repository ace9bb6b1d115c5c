"""`--text hf:…`: folders of data files, without any network, as texts that commands read."""

import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import nfinspect_samples
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import Run

from nfinspect.cli.hub_text import DatasetUnavailable, text_path
from nfinspect.models import HubUnreachable
from nfinspect_store.errors import NotInstalled, RequestError

GPT2 = str(nfinspect_samples.path("gpt2-relu"))


@pytest.fixture(autouse=True)
def _caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept outside the test's folder, and no hub is asked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def rows(folder: Path, name: str, *texts: str | None, column: str = "text", **others: str) -> Path:
    """A JSONL file with a row for each text."""
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text("".join(json.dumps({column: text, **others}) + "\n" for text in texts))
    return folder


def test_rows_are_joined_as_published_perplexities_join_them(tmp_path: Path) -> None:
    """transformers' documentation: "\\n\\n".join(test["text"]), for rows with and without line ends of their own."""
    wiki = ["", " = Tulip = \n", "", " A flower . \n", None, "Two\nlines"]
    rows(tmp_path / "wiki", "test.jsonl", *wiki)
    found = text_path("hf:./wiki")
    assert found.read_bytes().decode() == "\n\n".join(row for row in wiki if row is not None)
    assert found.stem == "wiki-test"  # the concept
    assert found.is_relative_to(tmp_path / "cache" / "nfinspect" / "texts")


def test_a_text_file_is_itself_again(tmp_path: Path) -> None:
    (tmp_path / "poems").mkdir()
    (tmp_path / "poems" / "train.txt").write_text("one\ntwo\n\n\nthrée")
    assert text_path("hf:poems").read_bytes() == "one\ntwo\n\n\nthrée".encode()


def test_the_split_is_the_one_named_else_test_else_the_first(tmp_path: Path) -> None:
    folder = rows(tmp_path / "split", "train.jsonl", "of train")
    assert text_path("hf:./split").read_text() == "of train"
    rows(folder, "test.jsonl", "of test")
    assert text_path("hf:./split").read_text() == "of test"
    assert text_path("hf:./split::train").read_text() == "of train"
    assert text_path("hf:./split:default:train").stem == "split-train"
    with pytest.raises(RequestError, match="expected a split of ./split: train, test, found 'dev'"):
        text_path("hf:./split::dev")
    with pytest.raises(RequestError, match="'poetry' not found. Available: \\['default'\\]"):
        text_path("hf:./split:poetry")


def test_a_configuration_names_its_text(tmp_path: Path) -> None:
    folder = rows(tmp_path / "wikitext", "a.jsonl", "of two")
    rows(folder, "b.jsonl", "of three")
    (folder / "README.md").write_text(
        "---\nconfigs:\n"
        "- {config_name: wikitext-2, data_files: a.jsonl}\n"
        "- {config_name: three, data_files: b.jsonl}\n---\n"
    )
    found = text_path("hf:./wikitext:wikitext-2")
    assert (found.stem, found.read_text()) == ("wikitext-2-train", "of two")
    assert text_path("hf:./wikitext:three").stem == "wikitext-three-train"
    with pytest.raises(RequestError, match="Config name is missing.*wikitext-2.*three"):
        text_path("hf:./wikitext")


def test_the_column_is_text_else_the_only_one_of_strings(tmp_path: Path) -> None:
    def parquet(name: str, **columns: list[object]) -> str:
        (tmp_path / name).mkdir()
        pq.write_table(pa.table(columns), tmp_path / name / "train.parquet")
        return f"hf:./{name}"

    assert text_path(parquet("both", title=["no"], text=["yes"])).read_text() == "yes"
    assert text_path(parquet("only", id=[1, 2], body=["one", "two"])).read_text() == "one\n\ntwo"
    with pytest.raises(RequestError, match=r"found the columns question \(string\), answer \(string\), n \(int64\)"):
        text_path(parquet("several", question=["a"], answer=["b"], n=[1]))
    with pytest.raises(RequestError, match="expected text in the column 'text' of .*, split train, found none"):
        text_path(parquet("blank", text=["", " \n"]))


def test_a_text_is_written_once_and_another_state_is_another_file(tmp_path: Path) -> None:
    rows(tmp_path / "data", "train.jsonl", "one")
    first = text_path("hf:./data")
    before = first.stat()
    assert text_path("hf:./data") == first
    assert (first.stat().st_mtime_ns, first.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    rows(tmp_path / "data", "train.jsonl", "one", "and more")
    second = text_path("hf:./data")
    assert (first.read_text(), second.read_text()) == ("one", "one\n\nand more")
    assert first.name == second.name and first.parent.parent == second.parent.parent
    assert [p.name for p in second.parent.iterdir()] == ["data-train.txt"]


def test_a_file_of_that_name_is_meant_if_it_is_there(tmp_path: Path) -> None:
    (tmp_path / "hf:odd").write_text("odd")
    assert text_path("hf:odd") == Path("hf:odd")
    assert text_path("corpus.txt") == Path("corpus.txt")


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ("hf:", RequestError, "expected --text FILE or hf:NAME"),
        ("hf:a:b:c:d", RequestError, "expected --text FILE or hf:NAME"),
        ("hf:./nowhere", DatasetUnavailable, "expected a folder of data files at nowhere, found nothing there"),
        ("hf:./file.jsonl", DatasetUnavailable, "name the folder that it is in"),
        ("hf:./empty", DatasetUnavailable, "found no 'empty'"),
        ("hf:./broken", DatasetUnavailable, "cannot read the data set 'broken'"),
        ("hf:no-such/thing", HubUnreachable, "'no-such/thing' in the local cache.*HF_HUB_OFFLINE is set"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_line(
    tmp_path: Path, value: str, error: type[Exception], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "train.jsonl").write_text('{"text": "a"}\n{"text": ')
    (tmp_path / "file.jsonl").write_text("{}")
    with pytest.raises(error, match=message) as refused:
        text_path(value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "cache").exists()


def test_a_hub_that_does_not_answer_leaves_what_the_cache_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        rows(tmp_path / "poems", "train.jsonl", "a rose")
        there = text_path("hf:./poems")
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert text_path("hf:poems") == there
        with pytest.raises(HubUnreachable, match=r"found neither \(http://127.0.0.1:\d+: .*hf:./folder"):
            text_path("hf:no-such/thing")
        assert datasets.config.HF_HUB_OFFLINE is False


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(NotInstalled, match=r"pip install 'nfinspect\[datasets\]'"):
        text_path("hf:wikitext")


@pytest.fixture
def poems(tmp_path: Path) -> tuple[str, str]:
    """A data set, and a file of the same text and name."""
    texts = ["The tulips in the garden were the first to open.", "She planted them in the autumn rain."]
    rows(tmp_path / "poems", "test.jsonl", *texts)
    (tmp_path / "poems-test.txt").write_text("\n\n".join(texts))
    return "hf:./poems", "poems-test.txt"


def _ablated(nfinspect: Run, text: str) -> dict[str, object]:
    done = nfinspect("ablate", GPT2, "--text", text, "--context", "8", "--recompute", "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def _attended(nfinspect: Run, text: str) -> dict[str, object]:
    done = nfinspect("attention", GPT2, "--text", text, "--max-length", "8", "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("command", [_ablated, _attended])
def test_a_data_set_gives_what_its_text_gives(
    nfinspect: Run, poems: tuple[str, str], command: Callable[[Run, str], dict[str, object]]
) -> None:
    dataset, file = poems
    assert command(nfinspect, dataset) == command(nfinspect, file)


def test_a_capture_of_a_data_set_is_resumed_by_the_same_line(nfinspect: Run, tmp_path: Path) -> None:
    rows(tmp_path / "poems", "test.jsonl", *["The tulips in the garden were the first to open."] * 60)
    line = ("capture", GPT2, "--text", "hf:./poems", "--context", "8", "--batch-size", "8", "--run", "poems")
    cut = nfinspect(*line, "--limit-bytes", "7M")
    assert cut.returncode == 1 and "is saved as" in cut.stderr and "kept in poems" in cut.stderr, cut.stderr
    done = nfinspect(*line, "--resume")
    assert done.returncode == 0 and "is saved as" not in done.stderr, done.stderr
    query = "SELECT DISTINCT concept FROM prompts"
    assert json.loads(nfinspect("sql", "poems", query, "--format", "json").stdout) == [{"concept": "poems-test"}]
