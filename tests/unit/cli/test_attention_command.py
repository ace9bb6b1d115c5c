"""`attention` on both sample models."""

import json
from pathlib import Path
from typing import Any

import nfinspect_samples
import pytest
from command_line import Run

from nfinspect_store.results import list_results, model_results

GPT2, MAMBA = (str(nfinspect_samples.path(name)) for name in sorted(nfinspect_samples.MODELS))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "tulip.txt"
    file.write_text("The tulips in the garden\nShe bought a bunch of tulips at the market\n")
    return file


def document(run: Run, *arguments: str) -> Any:
    done = run("attention", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("method", ["attention_weighted", "rollout", "gradient_guided"])
@pytest.mark.parametrize(("model", "site"), [(GPT2, "mlp"), (MAMBA, "mixer")], ids=["gpt2", "mamba"])
def test_every_method_on_both_models(model: str, site: str, method: str, nfinspect: Run, prompts: Path) -> None:
    found = document(nfinspect, model, "--prompts", str(prompts), "--method", method, "--top", "3", "--layers", "1-2")
    assert (found["method"], found["site"], found["samples"]) == (method, site, 2)
    assert [layer["layer"] for layer in found["layers"]] == [1, 2]
    assert [neuron["rank"] for neuron in found["neurons"]] == [1, 2, 3]
    sizes = [abs(neuron["score"]) for neuron in found["neurons"]]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 0
    sinks = [layer["sink"] for layer in found["layers"]]
    assert sinks == [None, None] if method == "gradient_guided" else all(0 < sink < 1 for sink in sinks)


def test_the_result_is_kept_and_made_anew_when_the_prompts_change(nfinspect: Run, store: Path, prompts: Path) -> None:
    line = (GPT2, "--prompts", f"tulip={prompts}")
    first = document(nfinspect, *line)
    again = nfinspect("attention", *line, "--json", "--top", "2")
    assert "kept from" in again.stderr
    assert json.loads(again.stdout)["neurons"] == first["neurons"][:2]
    (kept,) = list_results(model_results(store, GPT2))
    assert kept.table("scores").num_rows == sum(layer["neurons"] for layer in first["layers"])
    assert kept.table("map_tokens").column("token").to_pylist()[-1] == " market"
    prompts.write_text("Something else was there\n")
    assert "kept from" not in nfinspect("attention", *line).stderr
    assert document(nfinspect, *line)["samples"] == 1


def test_text_for_people_fits_and_says_the_neurons(nfinspect: Run, prompts: Path) -> None:
    done = nfinspect("attention", GPT2, "--prompts", str(prompts), "--method", "gradient_guided", COLUMNS="80")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("L" in line and "/N" in line for line in lines) == 20


def test_corpora_and_long_prompts_are_cut_to_the_length(nfinspect: Run, tmp_path: Path) -> None:
    long = tmp_path / "long.txt"
    long.write_text("The tulips in the garden stood in rows. " * 60)
    done = nfinspect("attention", GPT2, "--prompts", str(long))
    assert done.returncode == 2 and "--max-length 256" in done.stderr.splitlines()[-1]
    assert document(nfinspect, GPT2, "--prompts", str(long), "--max-length", "20")["tokens"] == 20
    found = document(nfinspect, GPT2, "--text", str(long), "--max-length", "20", "--max-tokens", "50")
    assert (found["samples"], found["tokens"]) == (3, 50)


@pytest.mark.parametrize(
    ("arguments", "said", "status"),
    [
        ((GPT2,), "--prompts", 2),
        ((GPT2, "--prompts", "nowhere.txt"), "nowhere.txt", 1),
        ((GPT2, "--prompts", "{}", "--layers", "99"), "99", 2),
        ((MAMBA, "--prompts", "{}", "--site", "mlp"), "mlp", 2),
        (("no/such-directory/model", "--prompts", "{}"), "model", 1),
        # What has no effect on a run's own prompts is refused, not ignored.
        *(
            ((GPT2, "--from", "planted", *option), "the run's own prompts as they were captured", 2)
            for option in (
                ("--prompts", "{}"),
                ("--text", "{}"),
                ("--max-length", "9"),
                ("--chat",),
                ("--bos", "none"),
                ("--text-column", "t"),
                ("--concept-column", "c"),
            )
        ),
    ],
)
def test_wrong_lines_end_in_one_and_keep_nothing(
    arguments: tuple[str, ...], said: str, status: int, nfinspect: Run, store: Path, prompts: Path
) -> None:
    done = nfinspect("attention", *(str(prompts) if a == "{}" else a for a in arguments))
    assert done.returncode == status and said in done.stderr.splitlines()[-1]
    assert done.stdout == "" and not list(store.glob("*.results"))


def test_heads_one_by_one_have_the_means_of_their_layer(nfinspect: Run, prompts: Path) -> None:
    line = (GPT2, "--prompts", str(prompts))
    found = document(nfinspect, *line, "--heads")
    for layer in found["layers"]:
        heads = [head for head in found["heads"] if head["layer"] == layer["layer"]]
        assert [head["head"] for head in heads] == list(range(layer["heads"]))
        assert sum(head["sink"] for head in heads) / len(heads) == pytest.approx(layer["sink"], abs=1e-6)
        assert sum(head["entropy"] for head in heads) / len(heads) == pytest.approx(layer["entropy"], abs=1e-6)
    assert "heads" not in document(nfinspect, *line)
    shown = nfinspect("attention", *line, "--heads").stdout.splitlines()
    assert sum(words[:1] == ["L0"] for words in map(str.split, shown[-len(found["heads"]) :])) == len(heads)
    none = nfinspect("attention", *line, "--method", "gradient_guided", "--heads")
    assert "gradient_guided reads no attention" in none.stderr
