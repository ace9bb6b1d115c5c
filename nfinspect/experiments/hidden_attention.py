"""The hidden attention of Mamba mixers (Ali, Zimerman, Wolf 2024): the selective scan written as a matrix.

    α_ij = Σ_s C_i,s · exp(A_s · Σ_{k=j+1..i} Δ_k) · Δ_j · B_j,s    for j <= i

for each channel in Mamba and FalconMamba, for each head of channels in Mamba-2 (where A is one number). The scan's
output is then Σ_j α_ij u_j + D u_i. That is checked in every layer of every pass, so that what is reported is the
mixing that the model did.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nfinspect.experiments.errors import AttentionUnavailable
from nfinspect.experiments.layer_attention import Gather, LayerAttention
from nfinspect.experiments.scans import Scan, read_scans
from nfinspect.models import LayerSite, LoadedModel
from nfinspect.models.checks import same

PIECE_BYTES = 64 * 2**20
"""About the memory that a piece of α may take: all of it would take 400 MB for 1,536 channels and 256 tokens."""


@dataclass(frozen=True)
class Piece:
    """α for some heads, from `head` on, and some queries, from `query` on: weights float[heads, queries, tokens]."""

    head: int
    query: int
    weights: Tensor


def pieces(scan: Scan) -> Iterator[Piece]:
    """α of a layer in pieces of bounded size."""
    heads, tokens = scan.delta.shape
    state = scan.A.shape[1]
    rows = max(16, math.isqrt(tokens))
    per_head = 4 * rows * max(tokens, rows * state) + 8 * tokens * state
    step = max(1, PIECE_BYTES // per_head)
    for head in range(0, heads, step):
        part = _heads(scan, head, min(head + step, heads))
        for query in range(0, tokens, rows):
            yield Piece(head, query, _rows(part, query, min(query + rows, tokens)))


def mixed(scan: Scan, piece: Piece) -> Tensor:
    """A piece of α applied to u: Σ_j α_ij u_j, float[heads, channels per head, queries]."""
    return torch.einsum("hij,hpj->hpi", piece.weights, scan.u[piece.head : piece.head + len(piece.weights)])


def finished(scan: Scan, mixing: Tensor) -> Tensor:
    """The scan's output, float[tokens, channels]: Σ_j α_ij u_j plus D u and, in Mamba, times the gate."""
    output = mixing + scan.D[:, None, None] * scan.u
    if scan.gate is not None:
        output = output * F.silu(scan.gate)
    return output.flatten(0, 1).T


class HiddenAttention:
    """Reads the hidden attention of a model of Mamba mixers, one sequence per pass."""

    def __init__(self, loaded: LoadedModel, sites: Sequence[LayerSite]) -> None:
        """sites: the `mixer` site of every block in order."""
        self._loaded = loaded
        self._sites = sites
        self.layers = tuple(site.layer for site in sites)

    def read(self, token_ids: Sequence[int]) -> dict[int, LayerAttention]:
        """|α| of every layer over one sequence: rows scaled to sum 1 in each channel (Mamba-2: head), then averaged.

        Raises AttentionUnavailable for an unknown kind of mixer, and if α does not reproduce its output.
        """
        found: dict[int, LayerAttention] = {}

        def sink(layer: int, scan: Scan, output: Tensor) -> None:
            found[layer] = _gathered(layer, scan, output)

        read_scans(self._loaded, self._sites, token_ids, sink)
        return {layer: found[layer] for layer in self.layers}


def _gathered(layer: int, scan: Scan, output: Tensor) -> LayerAttention:
    heads, tokens = scan.delta.shape
    gather = Gather(heads, tokens, scan.u.device)
    mixing = torch.empty_like(scan.u)
    for piece in pieces(scan):
        count, queries = piece.weights.shape[:2]
        mixing[piece.head : piece.head + count, :, piece.query : piece.query + queries] = mixed(scan, piece)
        gather.add(piece.weights.abs(), piece.head, piece.query)
    # Even a float64 mixer computes B and Δ in float32.
    compared = output.float() if output.dtype == torch.float64 else output
    if not same(finished(scan, mixing).to(compared.dtype), compared):
        raise AttentionUnavailable(
            f"expected the hidden attention of layer {layer} to reproduce the mixer's output, found another: this "
            "mixer does not compute the selective scan of Mamba or Mamba-2; --method gradient_guided needs none"
        )
    return gather.result()


def _heads(scan: Scan, start: int, stop: int) -> Scan:
    """The part of a scan for heads start … stop - 1, each with the B and C of its group."""
    groups = torch.arange(start, stop, device=scan.u.device) // (len(scan.delta) // len(scan.B))
    part = slice(start, stop)
    return Scan(scan.u[part], scan.delta[part], scan.A[part], scan.B[groups], scan.C[groups], scan.D[part], None)


def _rows(scan: Scan, start: int, stop: int) -> Tensor:
    """α of queries start … stop - 1: float[heads, queries, tokens].

    No factor of the decay from j to i can overflow: for j < start it is the decay from j to start - 1 times that from
    there to i, both at most 1, and the sum over the state is a matrix product. Only among the queries themselves is
    every pair computed. Sums of Δ are differences of float64 prefix sums (float32 on MPS), so that the exponent has the
    precision of float32.
    """
    heads, tokens = scan.delta.shape
    exact = torch.float32 if scan.delta.device.type == "mps" else torch.float64  # MPS has no float64
    passed = scan.delta.to(exact).cumsum(1)
    A, C = scan.A[:, None], scan.C[:, start:stop]
    weights = torch.zeros(heads, stop - start, tokens, dtype=scan.u.dtype, device=scan.u.device)
    if start > 0:
        since = (passed[:, start:stop] - passed[:, start - 1 : start]).to(scan.u.dtype)
        before = (passed[:, start - 1 : start] - passed[:, :start]).to(scan.u.dtype)
        arriving = scan.B[:, :start] * scan.delta[:, :start, None] * torch.exp(A * before[..., None])
        weights[:, :, :start] = (C * torch.exp(A * since[..., None])) @ arriving.transpose(1, 2)
    inside = passed[:, start:stop]
    between = (inside[:, :, None] - inside[:, None]).clamp(min=0).to(scan.u.dtype)
    decay = torch.exp(scan.A[:, None, None] * between[..., None])
    here = torch.einsum("his,hjs,hijs->hij", C, scan.B[:, start:stop], decay) * scan.delta[:, None, start:stop]
    weights[:, :, start:stop] = here.tril()
    return weights
