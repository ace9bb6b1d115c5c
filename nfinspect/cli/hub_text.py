"""`--text hf:NAME[:CONFIG[:SPLIT]]`: a data set of the Hugging Face hub, or a folder of data files, as a text file.

    name ─► datasets.load_dataset ─► one split, one column ─► rows joined ─► $XDG_CACHE_HOME/nfinspect/texts/…/LABEL.txt

From there on it is a file like any other: what a run was captured from, the hash of a saved result and the concept (the
file's stem) need no special case. The folder's name has the data set, the configuration, the split and a digest of the
text, so that another state of the data set is another file.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nfinspect import output
from nfinspect.present.numbers import size
from nfinspect_store.errors import NfinspectError, NotInstalled, RequestError, StorageFull
from nfinspect_store.paths import expanded

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

PREFIX = "hf:"
FORM = "hf:NAME[:CONFIG[:SPLIT]]"
BETWEEN_ROWS = "\n\n"
"""As the transformers documentation joins WikiText-2 for its perplexities ("Perplexity of fixed-length models"), and as
quantisation papers do. WikiText's rows already end in line breaks and its blank lines are rows: so joined it has more
blank lines than its authors' files, and the tokens that published figures rest on. Any number of blank lines is one
border between documents."""
BETWEEN_LINES = "\n"
"""For text files, whose rows are their lines without line ends: this restores the files."""
SECONDS = 5.0
"""Time that the hub has for its first answer: imports included, a refusal comes within 15."""
ROWS = 1000
"""Rows read at a time."""


class DatasetUnavailable(NfinspectError):
    """The data set does not exist, or cannot be read."""


def text_path(value: str) -> Path:
    """The file that a value of --text means; a data set's text is written first if it is not there yet.

    An existing file whose name looks like a data set's is that file. Raises RequestError for a configuration, split or
    column that does not exist, NotInstalled, HubUnreachable, DatasetUnavailable, StorageFull.
    """
    if not value.startswith(PREFIX) or os.path.exists(value):
        return Path(value)
    name, config, split = _parts(value)
    folder = expanded(name)
    is_local = os.path.isdir(folder)
    if not is_local and name.startswith((".", "/", "~")):
        found = "a file: name the folder that it is in" if os.path.exists(folder) else "nothing there"
        raise DatasetUnavailable(f"expected a folder of data files at {folder}, found {found}")
    loaded = _offline_or_not(str(folder) if is_local else name, config, is_local=is_local)
    if split is not None and split not in loaded:
        raise RequestError(f"expected a split of {name}: {', '.join(loaded)}, found {split!r}")
    split = split or ("test" if "test" in loaded else next(iter(loaded)))
    called = folder.resolve().name if is_local else name
    return _written(value, called, loaded[split], split)


def _parts(value: str) -> tuple[str, str | None, str | None]:
    """Name, configuration and split. An existing folder whose name contains colons is taken as a whole."""
    whole = value.removeprefix(PREFIX)
    if whole and os.path.isdir(expanded(whole)):
        return whole, None, None
    name, *rest = whole.split(":")
    if not name or len(rest) > 2:
        raise RequestError(f"expected --text FILE or {FORM}, such as hf:wikitext:wikitext-2-raw-v1, found {value!r}")
    config, split = (*rest, "", "")[:2]
    return name, config or None, split or None


def _offline_or_not(name: str, config: str | None, *, is_local: bool) -> "DatasetDict":
    """Every split. A hub that does not answer costs seconds, not the minute of the library's own attempts."""
    datasets = _library()
    if is_local:
        return _loaded(name, config)
    from nfinspect.models import HubUnreachable
    from nfinspect.models.hub import probe

    endpoint = datasets.config.HF_ENDPOINT
    offline = datasets.config.HF_HUB_OFFLINE
    trouble = "HF_HUB_OFFLINE is set" if offline else probe(f"{endpoint}/api/datasets/{name}", SECONDS)
    if trouble is None:
        return _loaded(name, config)
    try:
        with _from_cache():
            return _loaded(name, config)
    except DatasetUnavailable as error:
        raise HubUnreachable(
            f"expected the data set '{name}' in the local cache or a hub that answers, found neither ({endpoint}: "
            f"{trouble}): download its files elsewhere, copy their folder here and pass that (hf:./folder)"
        ) from error


@contextmanager
def _from_cache() -> Iterator[None]:
    """The library reads only its cache."""
    from datasets import config

    before = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before


def _library() -> Any:
    """The package, without progress bars and advice of its own. Raises NotInstalled."""
    try:
        import datasets
    except ImportError as error:
        raise NotInstalled(
            f"--text {FORM} needs datasets, which cannot be imported ({error}): pip install 'nfinspect[datasets]'"
        ) from error
    from huggingface_hub.utils import logging
    from huggingface_hub.utils.tqdm import disable_progress_bars

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    disable_progress_bars()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    return datasets


def _loaded(name: str, config: str | None) -> "DatasetDict":
    from datasets import load_dataset

    from nfinspect.models.hub import one_line

    try:
        loaded = load_dataset(name, config)
    except ValueError as error:  # it says which configurations there are
        said = " ".join(str(error).split())[:300]
        raise RequestError(f"expected a configuration that the data set {name} has: {said}") from error
    except FileNotFoundError as error:
        raise DatasetUnavailable(
            f"expected a data set on the hub or a folder of data files, found no '{name}' ({one_line(error)}): check "
            "the spelling; private and gated data sets need hf auth login"
        ) from error
    except Exception as error:
        # Whatever else a parser, the HTTP client or a proxy raises; the chain has the details.
        raise DatasetUnavailable(
            f"cannot read the data set '{name}': {one_line(error.__cause__ or error)}; its files may be damaged or in "
            "a format that datasets does not read"
        ) from error
    return loaded


def _written(value: str, name: str, dataset: "Dataset", split: str) -> Path:
    """The text of a split in its file."""
    column = _column(name, dataset)
    digest, bytes_read, blank = hashlib.sha256(), 0, True
    for piece in _pieces(dataset, column):
        digest.update(piece)
        bytes_read += len(piece)
        blank = blank and not piece.strip()
    if blank:
        raise RequestError(f"expected text in the column {column!r} of {name}, split {split}, found none")
    config = str(dataset.config_name or "default")
    parts = [name.replace("/", "--"), config, split, digest.hexdigest()[:12]]
    path = texts_folder() / "--".join(_plain(part) for part in parts) / f"{_label(name, config, split)}.txt"
    if path.is_file() and path.stat().st_size == bytes_read:
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageFull(f"cannot write {path}: {error.strerror or error}") from error
    from nfinspect_store.atomic import replaced

    with replaced(path) as temporary, temporary.open("wb") as file:
        for piece in _pieces(dataset, column):
            file.write(piece)
    output.note(f"{value} (split {split}, {len(dataset):,} rows) is saved as {path} ({size(bytes_read)})")
    return path


def texts_folder() -> Path:
    """Where the texts of data sets are saved: $XDG_CACHE_HOME/nfinspect/texts, else ~/.cache/nfinspect/texts."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nfinspect" / "texts"


def _column(name: str, dataset: "Dataset") -> str:
    """`text`, or the only column of strings. Raises RequestError naming the columns."""
    kinds: dict[str, str] = {
        column: str(getattr(kind, "dtype", type(kind).__name__)) for column, kind in dataset.features.items()
    }
    strings = [column for column, kind in kinds.items() if kind in ("string", "large_string", "string_view")]
    if "text" in strings:
        return "text"
    if len(strings) == 1:
        return strings[0]
    there = ", ".join(f"{column} ({kind})" for column, kind in kinds.items()) or "none"
    raise RequestError(f"expected a column called text, or one column of strings, in {name}, found the columns {there}")


def _pieces(dataset: "Dataset", column: str) -> Iterator[bytes]:
    """The text as UTF-8, piece by piece. Rows without a value are skipped."""
    between = BETWEEN_LINES if dataset.info.builder_name == "text" else BETWEEN_ROWS
    before = b""
    for batch in dataset.select_columns([column]).iter(ROWS):
        for row in batch[column]:
            if row is not None:
                yield before + row.encode()
                before = between.encode()


def _label(name: str, config: str, split: str) -> str:
    """A readable short name: `wikitext-2-raw-v1-test`, `TinyStories-train`."""
    last = name.rpartition("/")[2]
    parts = [last] if config.startswith("default") else [config] if config.startswith(last) else [last, config]
    return _plain("-".join([*parts, split]))


def _plain(text: str) -> str:
    """A part of a file's name."""
    return re.sub(r"[^\w.\-]+", "-", text)[:80]
