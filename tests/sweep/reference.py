"""What a model computes, by plain hooks on every module: the independent reference of the sweep.

Nothing here is read from nfinspect. A neuron is recognised by its algebra and not by its name: the input of a
projection that is act(g), or act(g) x u, of outputs of other projections in the same block.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.pytorch_utils import Conv1D

ACTIVATIONS = (
    "silu",
    "gelu",
    "gelu_new",
    "gelu_pytorch_tanh",
    "gelu_fast",
    "quick_gelu",
    "relu",
    "relu2",
    "tanh",
    "sigmoid",
)


@dataclass
class Call:
    """One call of one module: what it was given first and what it gave first."""

    name: str
    given: Tensor | None
    gave: Tensor | None


@dataclass
class Trace:
    """All calls of a forward pass, in the order in which they ended."""

    calls: list[Call] = field(default_factory=list)

    def of(self, name: str) -> list[Call]:
        return [call for call in self.calls if call.name == name]


def tensor_of(value: object) -> Tensor | None:
    if isinstance(value, tuple | list) and value:
        value = value[0]
    if not isinstance(value, Tensor):
        value = getattr(value, "last_hidden_state", None)
    return value if isinstance(value, Tensor) and value.is_floating_point() else None


@contextmanager
def traced(model: nn.Module) -> Iterator[Trace]:
    trace, handles = Trace(), []
    given: dict[str, list[Tensor | None]] = {}

    def before(name: str):
        def hook(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            first = next((t for t in map(tensor_of, (*args, *kwargs.values())) if t is not None), None)
            given.setdefault(name, []).append(None if first is None else first.detach().clone())

        return hook

    def after(name: str):
        def hook(_: nn.Module, args: object, output: object) -> None:
            gave = tensor_of(output)
            trace.calls.append(Call(name, given[name].pop(), None if gave is None else gave.detach().clone()))

        return hook

    for name, module in model.named_modules(remove_duplicate=False):
        if name:
            handles.append(module.register_forward_pre_hook(before(name), with_kwargs=True))
            handles.append(module.register_forward_hook(after(name)))
    try:
        yield trace
    finally:
        for handle in handles:
            handle.remove()


def is_projection(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.Embedding) or not isinstance(weight, Tensor) or weight.ndim != 2:
        return False
    return isinstance(module, nn.Linear | Conv1D) or not any(True for _ in module.children())


def block_names(model: nn.Module, trace: Trace) -> list[str]:
    """The blocks, by running: members of the module list that holds most of the weights that ran."""
    ran = {call.name for call in trace.calls}
    best: tuple[int, str, int] = (0, "", 0)
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or not len(module) or f"{name}.0" not in ran:
            continue
        inside_another = any(part.isdigit() for part in name.split("."))
        size = sum(p.numel() for p in module.parameters())
        if not inside_another and size > best[0]:
            best = (size, name, len(module))
    return [f"{best[1]}.{i}" for i in range(best[2])]


def close(a: Tensor, b: Tensor, tolerance: float = 2e-5) -> bool:
    if a.numel() != b.numel():
        return False
    a, b = a.reshape(-1), b.reshape(-1)
    scale = max(1.0, float(b.abs().max())) if b.numel() else 1.0
    return bool((a - b).abs().max() <= tolerance * scale)


@dataclass(frozen=True)
class Neurons:
    """An MLP found by its algebra: the projection whose input is `how`."""

    module: str
    how: str
    values: Tensor
    gate: Tensor | None


def mlps(model: nn.Module, trace: Trace, block: str) -> list[Neurons]:
    """Every projection in the block whose input is act(g) or act(g) x u of other projections' outputs."""
    modules = dict(model.named_modules(remove_duplicate=False))
    inside = [c for c in trace.calls if c.name.startswith(block + ".") and c.given is not None and c.gave is not None]
    found: dict[str, Neurons] = {}
    before: list[tuple[str, Tensor]] = []
    activated: list[tuple[str, Tensor, Tensor]] = []
    normed: list[tuple[Tensor, Tensor, str]] = []
    seen: set[str] = set()
    for call in inside:
        if call.name in seen:
            continue
        seen.add(call.name)
        module = modules[call.name]
        assert call.given is not None and call.gave is not None
        if is_projection(module):
            how = _explained(call.given, before, activated)
            for given, gave, name in normed:
                if how is None and close(gave, call.given, 1e-6):
                    how = _explained(given, before, activated)
                    how = None if how is None else (f"{name}({how[0]})", how[1])
            if how is not None:
                found[call.name] = Neurons(call.name, how[0], call.given, how[1])
            # An adapter's output is added to that of the projection which it is named after.
            adapted = [(n, out) for n, out in before if call.name.startswith(f"{n}_") and out.shape == call.gave.shape]
            before += [(f"{n} + its adapter", out + call.gave) for n, out in adapted]
            before.append((call.name, call.gave))
        elif not any(True for _ in module.children()) and call.given.shape == call.gave.shape:
            activated.append((call.name, call.given, call.gave))
            if "norm" in type(module).__name__.lower():
                normed.append((call.given, call.gave, call.name.rsplit(".", 1)[-1]))
    return list(found.values())


def _pieces(outputs: list[tuple[str, Tensor]], width: int, count: int) -> Iterator[tuple[str, Tensor]]:
    for name, out in outputs:
        size = out.shape[-1]
        if out.numel() // size != count:
            continue
        flat = out.reshape(count, size)
        if size == width:
            yield name, flat
        elif size % width == 0 and size // width <= 4:
            for i in range(size // width):
                yield f"{name}[{i}]", flat[:, i * width : (i + 1) * width]
            if size == 2 * width:
                yield f"{name}[even]", flat[:, ::2]
                yield f"{name}[odd]", flat[:, 1::2]
        elif size > width:
            yield f"{name}[first]", flat[:, :width]
            yield f"{name}[last]", flat[:, -width:]


def _explained(
    value: Tensor, outputs: list[tuple[str, Tensor]], activated: list[tuple[str, Tensor, Tensor]]
) -> tuple[str, Tensor | None] | None:
    width = value.shape[-1]
    count = value.numel() // width
    flat = value.reshape(count, width)
    pieces = list(_pieces(outputs, width, count))
    makers: list[tuple[str, Tensor, Tensor]] = []  # how, g, act(g)
    for name, g in pieces:
        makers += [(f"{act}({name})", g, ACT2FN[act](g)) for act in ACTIVATIONS]
        makers.append((f"clamped({name})", g, _clamped(g)))
        for module, given, gave in activated:
            if given.numel() == g.numel() and close(given, g, 1e-6) and not close(gave, g, 1e-6):
                makers.append((f"{module.rsplit('.', 1)[-1]}({name})", g, gave.reshape(count, width)))
    for how, _, a in makers:
        if close(flat, a):
            return how, None
    if not pieces:
        return None
    ups = torch.stack([u for _, u in pieces])
    scale = max(1.0, float(flat.abs().max()))
    for how, g, a in makers:
        for plus in (0.0, 1.0):
            distance = (a * (ups + plus) - flat).abs().flatten(1).amax(1)
            best = int(distance.argmin())
            if float(distance[best]) <= 2e-5 * scale and pieces[best][1] is not g:
                return f"{how} x {pieces[best][0]}", g
    return None


def _clamped(g: Tensor) -> Tensor:
    limited = g.clamp(max=7.0)
    return limited * torch.sigmoid(1.702 * limited)


def resids(trace: Trace, blocks: list[str]) -> dict[int, Tensor]:
    return {i: call.gave for i, b in enumerate(blocks) for call in trace.of(b)[:1] if call.gave is not None}


def attentions(model: nn.Module, trace: Trace, block: str) -> list[str]:
    """Modules of the block whose class says that they are an attention, outermost."""
    names = [
        n for n, m in model.get_submodule(block).named_modules()
        if n and any(word in type(m).__name__ for word in ("Attention", "Attn", "DeltaNet", "Lightning"))
        and "Layer" not in type(m).__name__
        and any(True for _ in m.parameters()) and trace.of(f"{block}.{n}")
    ]  # fmt: skip
    return [n for n in names if not any(n != o and n.startswith(o + ".") for o in names)]


def mixers(model: nn.Module, block: str) -> list[str]:
    """Modules of the block with the state matrix of a state-space model."""
    return [
        n for n, m in model.get_submodule(block).named_modules() if "A_log" in dict(m.named_parameters(recurse=False))
    ]


def returns(trace: Trace, owner: str, block: str, out: Tensor) -> bool:
    """Whether a module gives a projection's output on: as it is, scaled, or on top of something the block has."""
    inside = [c for c in trace.calls if c.name == block or c.name.startswith(block + ".")]
    seen = [t for c in inside for t in (c.gave, c.given) if t is not None and t.numel() == out.numel()]
    for call in (c for c in trace.calls if c.name == owner or c.name.startswith(owner + ".")):
        for whole in (call.gave, call.given) if call.name != owner else (call.gave,):
            if whole is None or whole.numel() != out.numel():
                continue
            whole = whole.reshape(-1)
            factor = float(whole @ out.reshape(-1)) / float(out.reshape(-1) @ out.reshape(-1))
            if call.name == owner and close(whole, factor * out.reshape(-1)) and factor:
                return True
            if any(close(whole - t.reshape(-1), out) for t in seen):
                return True
    return False


def reaches(model: nn.Module, module: str, block: str, run) -> tuple[float, bool]:
    """How far the block's output moves when the projection's output does, and whether it moves in proportion."""
    target, moved = model.get_submodule(module), {}
    generator = torch.Generator().manual_seed(3)
    noise: list[Tensor] = []

    def shift(scale: float):
        def hook(_: nn.Module, args: object, output: Tensor) -> Tensor:
            if not noise:
                noise.append(torch.randn(output.shape, generator=generator))
            return output + scale * noise[0]

        return hook

    def keep(scale: float):
        def hook(_: nn.Module, args: object, output: object) -> None:
            moved.setdefault(scale, tensor_of(output).clone())

        return hook

    for scale in (0.0, 0.05, 0.1):
        handles = [
            target.register_forward_hook(shift(scale)),
            model.get_submodule(block).register_forward_hook(keep(scale)),
        ]
        run()
        for handle in handles:
            handle.remove()
    first, second = moved[0.05] - moved[0.0], moved[0.1] - moved[0.0]
    return float(first.norm()), bool((second - 2 * first).norm() <= 1e-2 * second.norm())


@dataclass
class Experts:
    """A module of experts over one prompt: [tokens, experts * width], NaN where an expert was not chosen."""

    how: str
    values: Tensor
    gate: Tensor | None


def experts(model: nn.Module, module: str, ids: list[int]) -> Experts | None:
    """The inputs of the experts' down projections, recognised by their algebra: of all ways to make neurons of what
    the first projection gives, the one with which down projection and the router's weights give the module's output.
    """
    target, calls = model.get_submodule(module), []

    def keep(_: nn.Module, args: tuple[Tensor, ...], output: object) -> None:
        calls.append(([one.detach().clone() for one in args[:3]], tensor_of(output).detach().clone()))

    handle = target.register_forward_hook(keep)
    with torch.no_grad():
        model(input_ids=torch.tensor([ids]))
    handle.remove()
    if len(calls) != 1:
        return None
    (hidden, index, weights), output = calls[0]
    hidden = hidden.reshape(-1, hidden.shape[-1])
    pairs = [(t, k, int(e)) for t, row in enumerate(index) for k, e in enumerate(row) if weights[t, k] != 0]
    rows = torch.stack([_linear(target, "gate_up_proj" if hasattr(target, "gate_up_proj") else "up_proj", e, hidden[t])
                        for t, _, e in pairs])  # fmt: skip
    for how, values, gate in _expert_neurons(target, rows):
        total = torch.zeros(len(hidden), output.shape[-1])
        for (t, k, e), value in zip(pairs, values, strict=True):
            one = _linear(target, "down_proj", e, value)
            if hasattr(target, "post_expert_norm"):
                one = target.post_expert_norm(one)
            total[t] += one * weights[t, k]
        if close(total, output.reshape(len(hidden), -1)):
            number = target.down_proj.shape[0]
            return Experts(how, _at(pairs, values, len(hidden), number), None if gate is None else
                           _at(pairs, gate, len(hidden), number))  # fmt: skip
    return None


def _at(pairs: list[tuple[int, int, int]], rows: Tensor, tokens: int, number: int) -> Tensor:
    whole = torch.full((tokens, number, rows.shape[-1]), float("nan"))
    for (t, _, e), row in zip(pairs, rows, strict=True):
        whole[t, e] = row
    return whole.flatten(1)


@torch.no_grad()
def _linear(module: nn.Module, name: str, expert: int, x: Tensor) -> Tensor:
    weight = getattr(module, name)[expert]
    bias = getattr(module, f"{name}_bias", None)
    out = x @ weight if _transposed(module) else weight @ x
    return out if bias is None else out + bias[expert]


def _transposed(module: nn.Module) -> bool:
    """Whether the weights are (in, out)."""
    first = module.gate_up_proj if hasattr(module, "gate_up_proj") else module.up_proj
    return bool(first.shape[1] == module.down_proj.shape[2] and first.shape[2] != module.down_proj.shape[1])


@torch.no_grad()
def _expert_neurons(module: nn.Module, rows: Tensor) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    if not hasattr(module, "gate_up_proj"):
        for act in ACTIVATIONS:
            yield f"{act}(up)", ACT2FN[act](rows), None
        return
    own = getattr(module, "act_fn", None)
    limit = next((float(v) for n in ("limit", "swiglu_limit") if (v := getattr(module, n, None))), 7.0)
    alpha = next((float(v) for n in ("alpha", "swiglu_alpha") if (v := getattr(module, n, None))), 1.702)
    for name, (gate, up) in {"halves": rows.chunk(2, -1), "pairs": (rows[:, ::2], rows[:, 1::2])}.items():
        for act in ACTIVATIONS:
            yield f"{act}(gate) x up, {name}", ACT2FN[act](gate) * up, gate
        clamped, bounded = gate.clamp(max=limit), up.clamp(-limit, limit)
        yield f"clamped silu(gate) x up, {name}", clamped * clamped.sigmoid() * bounded, gate
        yield f"clamped(gate) x (up + 1), {name}", clamped * (alpha * clamped).sigmoid() * (bounded + 1), gate
        try:
            yield f"own(gate, up), {name}", own(gate, up), gate  # type: ignore[misc]
        except TypeError:
            continue
