"""Fifty edits of a finished run's data, each made by plain DuckDB: `verify` notices every one.

Those of EDITS are noticed by what can be counted or derived again, too: whoever renews the digests is found out. What
stands once only, such as a text, has its digest alone.
"""

import shutil
from pathlib import Path

import duckdb
import numpy as np
import pytest
from numpy.typing import NDArray
from sampled import sampled

from nfinspect.capturing.arrays import ArrayPrompt, write_run
from nfinspect.capturing.classification import classify_tables
from nfinspect_store.digests import renew_digests
from nfinspect_store.types import Layer
from nfinspect_store.verify import Verification, verify_run

HERE = "layer_id = 0 AND neuron = 3"
NEURON = "site = 'mlp' AND layer = 0 AND neuron = 3"
LAYER = "site = 'mlp' AND layer = 0"

SWAPPED = '"values"[:16] || "values"[21:24] || "values"[17:20] || "values"[25:]'
"""The fifth value and the sixth."""

NUDGED = 'set_bit("values"::BIT, 287, 1 - get_bit("values"::BIT, 287))::BLOB'
"""The last bit of the ninth value."""

SHIFTED = 'set_bit("values"::BIT, 271, 1 - get_bit("values"::BIT, 271))::BLOB'
"""The ninth value by about 1 %."""

EDITS = [
    # What is derived
    f"UPDATE neurons SET mean = mean + 0.01 WHERE {NEURON}",
    f"UPDATE neurons SET std = std * 1.001 WHERE {NEURON}",
    f"UPDATE neurons SET max = max + 1 WHERE {NEURON}",
    f"UPDATE neurons SET n = n - 1 WHERE {NEURON}",
    f"UPDATE neurons SET firing_rate = 0.9 WHERE {NEURON}",
    f"UPDATE neurons SET dormancy = dormancy / 2 WHERE {NEURON}",
    f"UPDATE neurons SET excess_kurtosis = NULL WHERE {NEURON}",
    f"UPDATE neurons SET near_dead = NOT near_dead WHERE {NEURON}",
    f"UPDATE neurons SET approximate = NOT approximate WHERE {NEURON}",
    f"UPDATE neurons SET class = CASE neuron WHEN 3 THEN 'dead' ELSE 'normal' END WHERE {LAYER} AND neuron IN (0, 3)",
    f"UPDATE neurons SET neuron = 18 - neuron WHERE {LAYER} AND neuron IN (3, 15)",
    f"UPDATE layer_health SET score = 1.0 WHERE {LAYER}",
    f"UPDATE layer_health SET activation_rate = activation_rate * 0.99 WHERE {LAYER}",
    f"UPDATE layer_health SET pattern = 'dead' WHERE {LAYER}",
    f"UPDATE layer_health SET issues = ['none'] WHERE {LAYER}",
    f"UPDATE layer_health SET scale = 2 * scale WHERE {LAYER}",
    # What is counted from the values
    f"UPDATE statistics SET fired = n + 5 WHERE {HERE}",
    f"UPDATE statistics SET fired = fired - 1 WHERE {HERE} AND fired > 0",
    f"UPDATE statistics SET m2 = -m2 WHERE {HERE}",
    f"UPDATE statistics SET m2 = m2 * 1.001 WHERE {HERE}",
    f"UPDATE statistics SET m3 = 0 WHERE {HERE}",
    f"UPDATE statistics SET m4 = m4 * 2 WHERE {HERE}",
    f"UPDATE statistics SET sum_abs = sum_abs * 1.01 WHERE {HERE}",
    f"UPDATE statistics SET maximum = maximum + 1 WHERE {HERE}",
    "UPDATE histograms SET counts = set_bit(set_bit(counts::BIT, 2, get_bit(counts::BIT, 3)), 3, "
    "get_bit(counts::BIT, 2))::BLOB",
    "UPDATE histograms SET counts = set_bit(counts::BIT, 3, 1 - get_bit(counts::BIT, 3))::BLOB",
    f'UPDATE prompt_means SET "values" = {SHIFTED} WHERE prompt_idx = 4 AND layer_id = 0',
    "UPDATE prompt_means SET first_neuron = 8 WHERE prompt_idx = 4 AND layer_id = 0",
    'UPDATE prompt_means SET "values" = "values"[:-5] WHERE prompt_idx = 4 AND layer_id = 0',
    "DELETE FROM prompt_means WHERE prompt_idx = 4 AND layer_id = 0 AND selection = 'last'",
    "DELETE FROM prompt_means WHERE prompt_idx = 4",
    "UPDATE prompt_means SET n = n + 1 WHERE prompt_idx = 4",
    "UPDATE prompt_means SET prompt_idx = 9 - prompt_idx WHERE prompt_idx IN (4, 5) AND layer_id = 0",
    "INSERT INTO examples VALUES (0, 1, 'top', [5], [99.0])",
    # What is in order
    "UPDATE prompts SET prompt_tokens = prompt_tokens + 1 WHERE prompt_idx = 2",
    "INSERT INTO run SELECT * FROM run",
]

ONCE = [
    "DELETE FROM tokens WHERE token_idx = 239",
    # Two tokens of one prompt, whose sums stay; the last bits of a value
    f'UPDATE blocks SET "values" = {SWAPPED} WHERE {HERE} AND block = 0',
    f'UPDATE blocks SET "values" = {NUDGED} WHERE {HERE} AND block = 0',
    "UPDATE tokens SET token = 'other' WHERE token_idx = 7",
    "UPDATE tokens SET token_id = token_id + 1 WHERE token_idx = 7",
    "UPDATE prompts SET text = text || '.' WHERE prompt_idx = 3",
    "UPDATE prompts SET concept = 'lotus' WHERE prompt_idx = 3",
    "UPDATE run SET model = 'another'",
    "UPDATE run SET seed = seed + 1",
    "UPDATE run SET created_at = created_at + INTERVAL 1 DAY",
    "UPDATE run SET settings = json_merge_patch(settings, '{\"note\": 1}')",
    "UPDATE layers SET module = 'h.9' WHERE layer_id = 0",
    "UPDATE layers SET activation = 'gelu' WHERE layer_id = 0",
    "INSERT INTO concept_statistics VALUES (0, 'a', 1, 120, 60, 0.4, 3.0)",
    "DELETE FROM digests WHERE part = 'prompts'",
]


def verified(path: Path) -> Verification:
    return verify_run(path, lambda tables, exact: classify_tables(tables, exact=exact))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 240 tokens whose neuron 0 is dead."""
    layers = [
        Layer(0, "mlp", 0, "h.0.mlp.c_proj", 16, "relu", "positive"),
        Layer(1, "resid", 0, "h.0", 8, "", "scale"),
    ]
    prompts = [
        ArrayPrompt("ab"[i % 2], f"prompt {i}", list(range(40)), [f" w{j}" for j in range(40)], 32) for i in range(6)
    ]

    def values(prompt: int, layer: Layer) -> NDArray[np.float32]:
        noise = np.random.default_rng([prompt, layer.layer_id]).normal(size=(40, layer.neurons)).astype(np.float32)
        if layer.site == "mlp":
            noise = np.maximum(noise, 0)
            noise[:, 0] = 0
        return noise

    path = tmp_path_factory.mktemp("made") / "made.duckdb"
    write_run(path, layers=layers, prompts=prompts, values=values)
    return path


def edited(made: Path, tmp_path: Path, edit: str, *, renewed: bool) -> Verification:
    path = shutil.copy(made, tmp_path / "edited.duckdb")
    with duckdb.connect(str(path)) as connection:
        before = connection.execute("SELECT count(*) FROM run").fetchall()
        connection.execute(edit)
        if renewed:
            renew_digests(connection)
    assert before == [(1,)]
    return verified(Path(path))


def test_the_run_as_it_was_written_is_sound(made: Path) -> None:
    found = verified(made)
    assert found.problems == () and len(found.not_covered) == 2


def test_statistics_alone_are_sound_and_say_what_is_not_covered(store: Path) -> None:
    found = verified(store / "stats.duckdb")
    assert found.problems == () and any("keeps statistics only" in what for what in found.not_covered)


@pytest.mark.parametrize("edit", sampled(ONCE, 4))
def test_an_edit_of_what_stands_once_is_noticed(made: Path, tmp_path: Path, edit: str) -> None:
    found = edited(made, tmp_path, edit, renewed=False)
    assert not found.ok and all("\n" not in problem for problem in found.problems)


@pytest.mark.parametrize("edit", sampled(EDITS, 4))
def test_an_edit_of_what_can_be_made_again_is_noticed_even_with_new_digests(
    made: Path, tmp_path: Path, edit: str
) -> None:
    found = edited(made, tmp_path, edit, renewed=True)
    assert not found.ok and all("\n" not in problem for problem in found.problems)


def test_there_are_forty() -> None:
    assert len({*EDITS, *ONCE}) >= 40
