"""What the token walk takes from a model: lengths of output weights and surprisals, against the model itself."""

from pathlib import Path

import numpy as np
import pytest
import torch
from families import FAMILIES
from words import word_tokenizer

import nfinspect as nf
from nfinspect.experiments.run_walk import walk_figures
from nfinspect.models import in_memory
from nfinspect.tui.walking import Colouring, TokenWalk
from nfinspect_store.errors import RequestError
from nfinspect_store.reader import RunFile
from nfinspect_store.results import keep_result, list_results, run_results

PROMPTS = ["w3 w4 w5 w6", "w7", "w8 w9 w10 w11", "w3 w5 w3 w5 w3 w5 w4"]


@pytest.mark.parametrize("family", ["gpt2", "llama", "mamba"])
def test_norms_and_surprisals_are_the_models_own_and_the_walk_ranks_and_colours_by_them(
    family: str, tmp_path: Path
) -> None:
    model = FAMILIES[family]()
    run = nf.capture(model, word_tokenizer(), PROMPTS, store=tmp_path, run="r", sites=[*{"mamba": ["mixer"]}.get(
        family, ["mlp"]), "resid"])  # fmt: skip
    found = walk_figures(run, in_memory(model, word_tokenizer()))
    assert found.notes == ()
    expected = []
    for i in range(len(PROMPTS)):
        ids = run.prompt_tokens(i).token_id
        with torch.no_grad():
            logits = model(torch.as_tensor(ids)[None]).logits[0].double()
        log_p = logits.log_softmax(-1)
        expected += [(i, place, -float(log_p[place - 1, ids[place]])) for place in range(1, len(ids))]
    told = sorted(zip(*(found.surprisal.column(x).to_pylist() for x in found.surprisal.column_names), strict=True))
    assert [row[:2] for row in told] == [row[:2] for row in expected]
    assert [row[2] for row in told] == pytest.approx([row[2] for row in expected], abs=1e-4)
    rows = {(r["site"], r["layer"], r["neuron"]): r["norm"] for r in found.norms.to_pylist()}
    for layer in run.layers:
        if layer.site == "resid":
            weight = torch.eye(layer.neurons)
        else:
            module = model.get_submodule(layer.module)
            weight = module.weight.T if type(module).__name__ == "Conv1D" else module.weight
        for neuron in range(layer.neurons):
            column = weight[:, neuron].detach().double().norm()
            assert rows[layer.site, layer.layer, neuron] == pytest.approx(float(column), rel=1e-5)

    with RunFile.open(tmp_path / "r.duckdb") as file:
        walk = TokenWalk(file, lambda kind: list_results(run_results(file.path), file.info.run_id, kind))
        part = walk.part(3, 0)
        surprisal = Colouring("surprisal")
        with pytest.raises(RequestError, match=r"expected the tokens' surprisals, found none.*nfinspect walk"):
            walk.strengths(surprisal, part)
        with pytest.raises(RequestError, match="lengths of the neurons' output weights, found none"):
            walk.at(file.default_site, 2, "contribution", 5, histograms=False)
        tables = {"norms": found.norms, "surprisal": found.surprisal}
        keep_result(run_results(file.path), "walk", {}, found.to_json(), run_id=file.info.run_id, tables=tables)
        values = walk.strengths(surprisal, part).values
        assert values[0] is None
        assert list(values[1:]) == pytest.approx([row[2] for row in expected if row[0] == 3], abs=1e-4)
        top = walk.at(file.default_site, 2, "contribution", 5, histograms=False).neurons
        own = {
            key[1:]: abs(float(value)) * rows[key]
            for layer in file.site_layers(None)
            for key, value in zip(
                [(layer.site, layer.layer, n) for n in range(layer.neurons)],
                file.activations(layer.site, layer.layer)[2],
                strict=True,
            )
        }
        assert [row.contribution for row in top] == pytest.approx(sorted(own.values(), reverse=True)[:5], rel=1e-5)
        assert own[top[0].layer, top[0].neuron] == pytest.approx(max(own.values()))
        resid = walk.at("resid", 2, "value", 3, histograms=True).neurons
        assert [row.contribution for row in resid] == pytest.approx([abs(row.value) for row in resid])


def test_a_document_of_no_tokens_has_no_mean(tmp_path: Path) -> None:
    run = nf.capture(FAMILIES["gpt2"](), word_tokenizer(), ["w7"], store=tmp_path, run="one")
    document = walk_figures(run, in_memory(FAMILIES["gpt2"](), word_tokenizer())).to_json()
    assert document["tokens"] == 0
    assert document["mean_surprisal"] is None
    assert np.isfinite([row["max_norm"] for row in document["layers"]]).all()
