"""A model that was changed in memory: its runs are not answered with the weights of the directory it came from."""

import json
from pathlib import Path
from typing import Any

import nfinspect_samples
import numpy as np
import pytest
import torch
from command_line import Run
from transformers import AutoModelForCausalLM, AutoTokenizer

import nfinspect as nf
from nfinspect.analyses import formats
from nfinspect.analyses.ablate import SPEC
from nfinspect.analyses.neuron_kinds import kept_over_all_layers
from nfinspect.capturing.errors import CannotResume, CaptureInterrupted
from nfinspect.results import kept_line
from nfinspect_store.reader import RunFile
from nfinspect_store.results import list_results, run_results

GPT2 = nfinspect_samples.path("gpt2-relu")
TEXT = str(nfinspect_samples.path("corpus", "tulip.txt"))
PROMPTS = ["The river runs through the old town.", "He cut the tulips at dawn, and sold them."] * 4


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the runs `tuned` and `few` (statistics only) of a changed sample model, which lies in `saved`."""
    store = tmp_path_factory.mktemp("tuned")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(GPT2), AutoTokenizer.from_pretrained(GPT2)
    torch.manual_seed(0)
    with torch.no_grad():
        for block in model.transformer.h:
            block.mlp.c_fc.weight.add_(torch.randn_like(block.mlp.c_fc.weight) * block.mlp.c_fc.weight.std())
    nf.capture(model, tokenizer, PROMPTS, store=store, run="tuned").close()
    nf.capture(model, tokenizer, PROMPTS, store=store, run="few", keep="stats").close()
    model.save_pretrained(store / "saved")
    tokenizer.save_pretrained(store / "saved")
    return store


OF_THE_RUN = {
    "delta --substitute": ("delta", "RUN", "--substitute", "--draws", "20"),
    "attention": ("attention", str(GPT2), "--from", "RUN"),
    "logits": ("logits", str(GPT2), "L1/N3", "--from", "RUN"),
    "lens": ("logits", str(GPT2), "--lens", "The river", "--from", "RUN"),
    "ablate": ("ablate", str(GPT2), "--from", "RUN", "--class", "dead", "--text", TEXT, "--max-tokens", "40"),
    "report": ("report", "RUN", "--with-model", "--out", "report"),
}


@pytest.mark.parametrize("command", sorted(OF_THE_RUN))
@pytest.mark.parametrize("run", ["tuned", "few"])
def test_the_directory_it_came_from_is_refused(nfinspect: Run, tuned: Path, command: str, run: str) -> None:
    if run == "few" and command in ("delta --substitute", "report"):
        pytest.skip("needs the values")
    line = [run if word == "RUN" else word for word in OF_THE_RUN[command]]
    done = nfinspect(*line, "--store", str(tuned))
    assert done.returncode == 1 and done.stdout == ""
    said = done.stderr.strip().splitlines()[-1]
    assert f"expected the weights that {run} was captured from, found others in {GPT2}" in said, said
    assert "from layer 0 on" in said and "% of their spread" in said and "save the run's model" in said


def test_suppression_is_left_out(nfinspect: Run, tuned: Path) -> None:
    done = nfinspect("ngrams", "tuned", "--store", str(tuned), "--json")
    found = json.loads(done.stdout)
    if found["detectors"]:
        assert "suppression is left out: expected the weights that tuned was captured from" in done.stderr
    assert all(detector["suppression"] is None for detector in found["detectors"])


def test_the_saved_model_is_taken_and_gives_the_runs_own_figures(nfinspect: Run, tuned: Path) -> None:
    """A token in place of another moves a neuron of the first layer by about its own spread."""
    line = ("delta", "tuned", "--substitute", "--draws", "64", "--store", str(tuned), "--json", "--layers", "0")
    done = nfinspect(*line, "--model", str(tuned / "saved"))
    assert done.returncode == 0, done.stderr
    moved = [row["substitution_sensitivity"] for row in json.loads(done.stdout)["neurons"]]
    assert np.nanmean([row[0] for row in moved if row[0] is not None]) > 0.5
    done = nfinspect("attention", str(tuned / "saved"), "--from", "few", "--store", str(tuned), "--json")
    assert done.returncode == 0, done.stderr


def test_another_model_that_is_named_is_cut_with_a_loud_note(nfinspect: Run, tuned: Path, tmp_path: Path) -> None:
    """`ablate` names its model: one that is not the run's may be meant, and the document says how far off it is."""
    other = tmp_path / "other"
    other.symlink_to(GPT2)
    model = AutoModelForCausalLM.from_pretrained(GPT2)
    model.save_pretrained(tmp_path / "copy")
    AutoTokenizer.from_pretrained(GPT2).save_pretrained(tmp_path / "copy")
    sets = ("--from", "tuned", "--class", "dead", "--text", TEXT, "--max-tokens", "40", "--store", str(tuned), "--json")
    done = nfinspect("ablate", str(tmp_path / "copy"), *sets)
    assert done.returncode == 0, done.stderr
    (note,) = [text for text in json.loads(done.stdout)["notes"] if "the run is of" in text]
    assert "its neurons are taken for those of the model" in note and "% of their spread" in note
    assert "the run is of" in done.stderr
    # It is no figure of the run's report, which has its own model cut instead; wherever that lies it is the run's.
    assert json.loads(done.stdout)["model_of_run"] is False
    with RunFile.open(tuned / "tuned.duckdb") as run:
        assert kept_over_all_layers(run, SPEC, "mlp") == ()
        done = nfinspect("ablate", str(tuned / "saved"), *sets)
        assert done.returncode == 0 and json.loads(done.stdout)["model_of_run"] is True, done.stderr
        assert [one.document["model"] for one in kept_over_all_layers(run, SPEC, "mlp")] == [str(tuned / "saved")]
    told = [
        kept_line(result)
        for result in list_results(run_results(tuned / "tuned.duckdb"), kind="ablation", formats=formats())
    ]
    assert sorted("of another model than the run's, copy;" in line for line in told) == [False, True]
    assert nfinspect("ablate", str(other), *sets).returncode == 1, "a link to the run's own directory is that directory"


def test_what_is_kept_of_a_run_is_of_the_model_that_is_named(nfinspect: Run, tuned: Path) -> None:
    """And in the precision that is asked for: it is not handed out under another model's name, or nobody's."""
    for command, *rest in (("attention",), ("logits", "--lens", "The river")):

        def made(model: str, *more: str, line: tuple[str, ...] = (command, *rest)) -> tuple[int, str]:
            done = nfinspect(line[0], model, *line[1:], "--from", "few", "--store", str(tuned), *more)
            return done.returncode, done.stderr

        saved = str(tuned / "saved")
        assert made(saved)[0] == 0
        status, said = made(saved)
        assert status == 0 and "kept from" in said
        status, said = made(str(GPT2))
        assert status == 1 and "found others in" in said, command
        assert made("no/such")[0] == 1
        status, said = made(saved, "--dtype", "float16")
        assert status == 0 and "kept from" not in said, said


def test_a_resumed_capture_has_the_weights_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(GPT2), AutoTokenizer.from_pretrained(GPT2)
    prompts = ["The river runs."] * 6
    options: Any = {"store": tmp_path, "run": "r", "batch_size": 2}
    monkeypatch.setattr("nfinspect.capturing.session.run_bytes", lambda *_, prompts, **__: prompts)
    with pytest.raises(CaptureInterrupted):
        nf.capture(model, tokenizer, prompts, limit_bytes=4, **options)
    with torch.no_grad():
        model.transformer.h[2].mlp.c_proj.weight.mul_(1.2)
    with pytest.raises(CannotResume, match="expected the weights that r was captured from.* layer 2 on"):
        nf.capture(model, tokenizer, prompts, resume=True, **options)


def test_a_recorded_model_is_known_as_well(nfinspect: Run, tmp_path: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(GPT2), AutoTokenizer.from_pretrained(GPT2)
    with torch.no_grad():
        model.transformer.ln_f.weight.mul_(-1)
    with nf.record(model, tokenizer, store=tmp_path, run="r"), torch.no_grad():
        model(**tokenizer("The river runs through the old town.", return_tensors="pt"))
    done = nfinspect("delta", "r", "--substitute", "--store", str(tmp_path))
    assert done.returncode == 1 and "found others in" in done.stderr and "from the logits alone" in done.stderr


def test_a_typed_path_does_not_matter(nfinspect: Run, tuned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One model by a whole and a relative path, and through a link: one kept result."""
    where = ("--store", str(tuned), "--json")
    monkeypatch.chdir(tuned)
    (tuned / "link").symlink_to(tuned / "saved")
    prompts = tuned / "p.txt"
    prompts.write_text("The tulips\nShe bought a bunch\n")
    lines = {
        "attention": ("--prompts", str(prompts)),
        "logits": ("--lens", "The river"),
        "ablate": ("--text", str(prompts)),
    }
    for command, rest in lines.items():
        first = nfinspect(command, str(tuned / "saved"), *rest, *where)
        assert first.returncode == 0 and "kept from" not in first.stderr, first.stderr
        for name in ("saved", "./saved/", "link"):
            assert "kept from" in nfinspect(command, name, *rest, *where).stderr, (command, name)


def test_a_result_of_the_directory_is_not_one_of_the_changed_model(nfinspect: Run, tuned: Path) -> None:
    """The store keeps results of the model by its name, and the run is of other weights under that name."""
    prompts = tuned / "q.txt"
    prompts.write_text("The tulips\n")
    assert nfinspect("attention", str(GPT2), "--prompts", str(prompts), "--store", str(tuned)).returncode == 0
    for kept in list_results(run_results(tuned / "few.duckdb"), kind="attention"):
        kept.path.unlink()
    done = nfinspect("overlap", "few", "--kinds", "dead,attention", "--store", str(tuned))
    assert done.returncode != 0 and "no saved result" in done.stderr
