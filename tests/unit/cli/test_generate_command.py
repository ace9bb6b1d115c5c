"""`nfinspect generate`: texts, edits as they are written, and refusals in one line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import nfinspect_samples
import numpy as np
import pytest
from command_line import Run
from families import tiny_llama
from hostile import UNSAFE, spoken
from tokenizers_of_kinds import byte_fallback

from nfinspect.capturing.following import BEHIND
from nfinspect.edits import asked_edits
from nfinspect.experiments import resolved_edits
from nfinspect.experiments.generation_lab import continuation
from nfinspect.models import load_model
from nfinspect_store.errors import RequestError
from nfinspect_store.reader import RunFile

GPT2 = str(nfinspect_samples.path("gpt2-relu"))
MAMBA = str(nfinspect_samples.path("mamba"))
FEW = ("--new-tokens", "8", "--controls", "0")


@pytest.fixture
def captured(nfinspect: Run, tmp_path: Path) -> str:
    """A run of the sample model over concepts whose names have dashes."""
    for concept, lines in (("red-tulip", "Tulips are red.\nTulips grow."), ("base-line", "The chair stood.\nHe sat.")):
        (tmp_path / f"{concept}.txt").write_text(lines)
    prompts = ("--prompts", "red-tulip.txt", "--prompts", "base-line.txt")
    done = nfinspect("capture", GPT2, *prompts, "--sites", "mlp,resid", "--run", "gpt2")
    assert done.returncode == 0, done.stderr
    return "gpt2"


@pytest.mark.parametrize("model", [GPT2, MAMBA])
def test_a_text_alone(nfinspect: Run, model: str, tmp_path: Path) -> None:
    done = nfinspect("generate", model, "Tulips are", *FEW, "--json")
    assert done.returncode == 0 and done.stderr == ""
    found = json.loads(done.stdout)
    assert found["edited"] is None and found["comparison"] is None and found["edits"] == []
    tokens = found["original"]["tokens"]
    assert "".join(token["token"] for token in tokens) == "Tulips are" + found["original"]["text"]
    assert sum(token["generated"] for token in tokens) == 8 and len(found["next"]) == 10
    assert found["next"][0]["token_id"] == tokens[found["prompt_tokens"]]["token_id"]
    (tmp_path / "prompt.txt").write_text("Tulips are\n")
    assert nfinspect("generate", model, "--prompt-file", "prompt.txt", *FEW, "--json").stdout == done.stdout
    shown = nfinspect("generate", model, "Tulips are", *FEW).stdout
    assert shown.startswith("Tulips are" + found["original"]["text"] + "\n\n") and "without edits" not in shown


def test_edits_of_neurons_are_told_with_both_texts(nfinspect: Run) -> None:
    edits = ("--zero", "L0/N3, L1/N5", "--scale", "resid:L1/N4=-2.5", "--clamp", "L3/N1=4e1", "--add", "L3/N2=9")
    done = nfinspect("generate", GPT2, "Tulips are", "--new-tokens", "8", *edits, "--from", "1", "--json")
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert [(e["kind"], e["site"], e["layer"], e["neurons"], e["amount"]) for e in found["edits"]] == [
        ("zero", "mlp", 0, [3], None),
        ("zero", "mlp", 1, [5], None),
        ("scale", "resid", 1, [4], -2.5),
        ("clamp", "mlp", 3, [1], 40.0),
        ("add", "mlp", 3, [2], 9.0),
    ]
    comparison = found["comparison"]
    assert found["from"] == 1 and comparison["control"]["count"] == 20
    assert comparison["delta_nll"] == pytest.approx(found["edited"]["nll"] - found["original"]["nll"])
    place = comparison["first_difference"]
    ids = [[token["token_id"] for token in found[side]["tokens"]] for side in ("original", "edited")]
    assert ids[0][:place] == ids[1][:place] and ids[0][place] != ids[1][place]
    shown = nfinspect("generate", GPT2, "Tulips are", "--new-tokens", "8", *edits, "--from", "1", COLUMNS="80").stdout
    for text in (found["original"]["text"], found["edited"]["text"], f"differ from token {place} on", "20 random"):
        assert text in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_a_direction_is_the_difference_of_two_concepts_means(nfinspect: Run, store: Path, captured: str) -> None:
    line = ("generate", GPT2, "Tulips are", *FEW, "--json", "--direction", "gpt2:red-tulip-base-line@resid:L2=6")
    done = nfinspect(*line)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    (edit,) = found["edits"]
    assert (edit["kind"], edit["layer"], edit["amount"], edit["neurons"]) == ("direction", 2, 6.0, [])
    with RunFile.open(store / "gpt2.duckdb") as run:
        means = []
        for concept in ("red-tulip", "base-line"):
            rows = run.sql(
                "SELECT neuron, avg(m) AS m FROM (SELECT prompt_idx, neuron, avg(value) AS m FROM activations "
                "JOIN tokens USING (token_idx) JOIN prompts USING (prompt_idx) WHERE site = 'resid' AND layer = 2 "
                f"AND position > 0 AND concept = '{concept}' GROUP BY ALL) GROUP BY neuron ORDER BY neuron"
            )
            means.append(rows.fetchnumpy()["m"])
    assert edit["norm"] == pytest.approx(np.linalg.norm(means[0] - means[1]), rel=1e-5)
    assert found["comparison"]["first_difference"] is not None
    other = nfinspect("generate", MAMBA, "Tulips are", *FEW, "--direction", "gpt2:red-tulip-base-line@resid:L2=6")
    assert other.returncode == 1 and len(other.stderr.splitlines()) == 1


def test_a_set_of_the_store_is_that_of_the_model(nfinspect: Run, captured: str) -> None:
    nfinspect("marks", "--run", captured, "--set", "hot", "--add", "L0/N1", "--add", "resid:L2/N7")
    found = json.loads(nfinspect("generate", GPT2, "Tulips", *FEW, "--scale", "@hot,L0/N2=3", "--json").stdout)
    assert [(e["site"], e["layer"], e["neurons"]) for e in found["edits"]] == [("mlp", 0, [1, 2]), ("resid", 2, [7])]


REFUSED = {
    "unknown neuron": (("--zero", "L0/N99999"), "no neuron 99999 in layer 0"),
    "unknown layer": (("--zero", "L9/N1"), "between 0 and 3, found 9"),
    "no such site": (("--scale", "mixer:L0/N1=2"), "found 'mixer'"),
    "no such set": (("--zero", "@nothing"), "no set @nothing"),
    "no such run": (("--direction", "nothing:a-b@resid:L1=2"), "nothing"),
    "no address": (("--zero", "L0/3"), "a neuron is written L5/N123"),
    "no number": (("--clamp", "L0/N3=much"), "expected --clamp L3/N17=VALUE with a number"),
    "no amount": (("--add", "L0/N3"), "expected --add L3/N17=VALUE with a number"),
    "no direction": (("--direction", "tulip@resid=2"), "expected --direction RUN:CONCEPT-BASELINE@resid:L5=FACTOR"),
    "no neurons": (("--zero", " , "), "expected neurons after --zero"),
    "few controls": (("--controls", "3"), "20 or more"),
    "beyond the dtype": (("--clamp", "L0/N3=1e39"), "expected edits by at most 3.403e+38 in float32, found 1e+39"),
    "no finite logits": (("--clamp", "L0/N3=3e38"), "expected finite logits"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_edited_is_refused_in_one_line(nfinspect: Run, what: str) -> None:
    options, said = REFUSED[what]
    done = nfinspect("generate", GPT2, "Tulips are", "--new-tokens", "4", *options, "--json")
    assert done.returncode in (1, 2) and done.stdout == ""
    assert said in done.stderr and len(done.stderr.splitlines()) == 1 and "bug" not in done.stderr


def test_a_prompt_is_given_once(nfinspect: Run) -> None:
    assert "found neither" in nfinspect("generate", GPT2).stderr
    assert "found both" in nfinspect("generate", GPT2, "Tulips", "--prompt-file", "p.txt").stderr
    assert "nothing.txt" in nfinspect("generate", GPT2, "--prompt-file", "nothing.txt").stderr


def test_names_of_concepts_may_have_signs_of_their_own() -> None:
    (asked,) = asked_edits((), (), (), (), ["r:a:b-c=d@e@mlp:L3=-1.5"])
    assert vars(asked) | {"place": str(asked.place)} == {  # type: ignore[union-attr]
        "text": "r:a:b-c=d@e@mlp:L3=-1.5", "run": "r", "concepts": "a:b-c=d@e", "place": "mlp:L3/N0", "factor": -1.5,
    }  # fmt: skip
    with pytest.raises(RequestError, match="with a number"):
        asked_edits((), ["L0/N1=nan"], (), (), ())


def test_a_hostile_prompt_is_shown_and_not_obeyed(nfinspect: Run) -> None:
    done = nfinspect("generate", GPT2, spoken(), *FEW, "--zero", "L0/N1")
    assert done.returncode == 0 and "pwned" in done.stdout
    assert not UNSAFE.search(done.stdout) and not UNSAFE.search(done.stderr)


def test_the_first_word_written_keeps_its_space(nfinspect: Run, tmp_path: Path) -> None:
    """Decoded alone, the first token of these tokenizers loses it."""
    tokenizer = byte_fallback()
    for one in (tiny_llama(len(tokenizer)), tokenizer):
        one.save_pretrained(tmp_path / "model")
    line = ("generate", str(tmp_path / "model"), "mixed abc", *FEW)
    text = json.loads(nfinspect(*line, "--json").stdout)["original"]["text"]
    assert text.startswith(" ")
    shown = text.replace("\x7f", "\u2421")  # a character that is not for terminals
    assert nfinspect(*line).stdout.startswith(f"mixed abc{shown}\n\n")


def test_a_direction_of_another_width_is_refused(
    nfinspect: Run, store: Path, captured: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that does not say what its weights were is taken for the model's."""
    monkeypatch.setattr(resolved_edits, "check_run_model", lambda *given: None)
    asked = asked_edits((), (), (), (), ["gpt2:red-tulip-base-line@resid:L1=6"])
    with pytest.raises(RequestError, match=r"has \d+ neurons at resid, that of .* has \d+: it is another model"):
        resolved_edits.resolved_edits(load_model(MAMBA, device="cpu"), asked, store)


class Counting:
    """A tokenizer that tells how many ids it was asked to decode at once."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.most = 0

    def decode(self, ids: list[int], **options: Any) -> str:
        self.most = max(self.most, len(ids))
        return str(self.inner.decode(ids, **options))


@pytest.mark.parametrize("way", [GPT2, MAMBA, "byte fallback"])
def test_a_text_is_decoded_after_the_end_of_the_prompt_alone(way: str) -> None:
    """And is what follows the prompt where the whole is decoded."""
    loaded = load_model(GPT2, device="cpu") if way == "byte fallback" else load_model(way, device="cpu")
    inner = byte_fallback() if way == "byte fallback" else loaded.tokenizer
    counting = Counting(inner)
    loaded = replace(loaded, tokenizer=cast(Any, counting))
    for prompt, written in ((" mixed abc" * 30, " abc mixed"), ("The tulip 漢 is " * 20, "red, and é 漢字.")):
        ids, more = (inner(text, add_special_tokens=False).input_ids for text in (prompt, written))
        for count in range(1, len(more) + 1):
            whole = inner.decode([*ids, *more[:count]], clean_up_tokenization_spaces=False)
            before = inner.decode(ids, clean_up_tokenization_spaces=False)
            assert continuation(loaded, ids, [*ids, *more[:count]]) == whole[len(before) :]
        assert counting.most <= BEHIND + len(more) < len(ids)
