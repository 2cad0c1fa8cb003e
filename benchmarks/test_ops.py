"""Each op against its reference in eager mode, the reference under torch.compile, the form usually written by hand, and
a copy of as many bytes as the op has to move, in one run; every side is checked against the op first.

`make bench` runs this and prints the table of ratios (benchmarks/table.py). On a GPU, with tensors of 300 MB.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from fastadv import ops

from .timing import DEVICE, clock

# torch.compile warns about its own insides; a side that is skipped leaves its timer unused.
pytestmark = pytest.mark.filterwarnings("default")

SHAPES = [(128, 3, 32, 32), (512, 3, 32, 32), *([(24576, 3, 32, 32)] if DEVICE == "cuda" else [])]
CLASSES = 10
TOGETHER = 2e-3  # seconds of calls for one synchronisation, on a GPU


def usual_linf(x_adv, grad, x, step_size, eps, lo, hi, active):
    rows = (-1, 1, 1, 1)
    delta = (x_adv + step_size.view(rows) * grad.sign() - x).clamp(-eps.view(rows), eps.view(rows))
    x_adv.copy_((x + delta).clamp(lo, hi))


def usual_l2(x_adv, grad, x, step_size, eps, lo, hi, active):
    rows = (-1, 1, 1, 1)
    length = grad.flatten(1).norm(dim=1) + 1e-12
    delta = x_adv + (step_size / length).view(rows) * grad - x
    delta = delta * (eps / (delta.flatten(1).norm(dim=1) + 1e-12)).clamp(max=1).view(rows)
    x_adv.copy_((x + delta).clamp(lo, hi))


def usual_topp(x_adv, grad, x, step_size, eps, p, normalise, projection, lo, hi, active):
    rows, flat = (-1, 1, 1, 1), grad.flatten(1)
    best = flat.abs().topk(round(p * flat.shape[1]), dim=1).indices
    kept = torch.zeros_like(flat).scatter_(1, best, flat.gather(1, best)).view_as(grad)
    delta = x_adv + (step_size / flat.abs().sum(dim=1)).view(rows) * kept - x
    delta = delta * (eps / delta.flatten(1).abs().sum(dim=1)).clamp(max=1).view(rows)
    x_adv.copy_((x + delta).clamp(lo, hi))


def usual_cutoff(x_adv, x, norms, eps, rho, active):
    factor = rho * (eps / norms).clamp(max=1)
    x_adv.copy_(x + factor.view(-1, 1, 1, 1) * (x_adv - x))


def usual_norms(x, norm, origin):
    return (x - origin).flatten(1).norm(dim=1)


def usual_start(x, ids, eps, seed, restart, law, lo, hi, active):
    return (x + eps.view(-1, 1, 1, 1) * (2 * torch.rand_like(x) - 1)).clamp(lo, hi)


@dataclass(frozen=True)
class Case:
    """An op, its arguments for samples of a shape, the bytes it has to move, and how people write it."""

    op: str
    arguments: Callable[[tuple[int, ...]], tuple]
    moves: tuple[float, float]  # how many times the samples' bytes are read, and written
    usual: Callable | None = None
    random: bool = False  # the usual form draws other numbers


def samples(shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator(DEVICE).manual_seed(0)
    x, grad, noise = (torch.randn(shape, generator=generator, device=DEVICE) for _ in range(3))
    x = x.sigmoid()
    return (x + 0.05 * noise).clamp(0, 1), 1e-3 * grad, x


def columns(shape: tuple[int, ...], *values: float) -> tuple[Tensor, ...]:
    return tuple(torch.full(shape[:1], value, device=DEVICE) for value in values)


def logits(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator(DEVICE).manual_seed(1)
    scores = torch.randn(shape[0], CLASSES, generator=generator, device=DEVICE)
    return scores, torch.randint(CLASSES, shape[:1], generator=generator, device=DEVICE)


def deepfool(shape: tuple[int, ...]) -> tuple:
    x_adv, _, x = samples(shape)
    scores, labels = logits(shape)
    grads = torch.randn(shape[0], CLASSES, *shape[1:], device=DEVICE)
    return x_adv, torch.zeros_like(x), x, scores, grads, labels, 0.02, 0.0, "l2", 0.0, 1.0, None


def hyperplane(norm: str) -> Callable:
    def arguments(shape: tuple[int, ...]) -> tuple:
        _, normal, x = samples(shape)
        return x, normal, (x * normal).flatten(1).sum(dim=1) + 0.01, norm, 0.0, 1.0

    return arguments


def bisect(shape: tuple[int, ...]) -> tuple:
    outer, _, inner = samples(shape)
    return inner, outer, (inner + outer) / 2, torch.arange(shape[0], device=DEVICE) % 2 == 0, None


def cutoff(mean: bool) -> Callable:
    def arguments(shape: tuple[int, ...]) -> tuple:
        x_adv, _, x = samples(shape)
        return x_adv, x, ops.row_norms(x_adv, "l2", x), None if mean else columns(shape, 2.0)[0], 0.9, None

    return arguments


def start(law: str) -> Callable:
    def arguments(shape: tuple[int, ...]) -> tuple:
        ids = torch.arange(shape[0], device=DEVICE)
        return samples(shape)[2], ids, *columns(shape, 0.03), 0, 0, law, 0.0, 1.0, None

    return arguments


def early_stop(shape: tuple[int, ...]) -> tuple:
    scores, labels = logits(shape)
    return scores, labels, torch.ones_like(labels), None


BOX = (0.0, 1.0, None)
OF_LOGITS = CLASSES / 3072  # of the samples' bytes
CASES = {
    "linf_step": Case("linf_step", lambda s: (*samples(s), *columns(s, 0.01, 0.03), *BOX), (3, 1), usual_linf),
    "linf_step momentum": Case(
        "linf_step",
        lambda s: (*samples(s), *columns(s, 0.01, 0.03), *BOX, torch.zeros(s, device=DEVICE), 1.0),
        (4, 2),
    ),
    "l2_step": Case("l2_step", lambda s: (*samples(s), *columns(s, 0.3, 2.0), *BOX), (3, 1), usual_l2),
    "l1_step": Case("l1_step", lambda s: (*samples(s), *columns(s, 30.0, 60.0), *BOX), (3, 1)),
    "topp_step": Case(
        "topp_step",
        lambda s: (*samples(s), *columns(s, 30.0, 60.0), 1 / 3, "all", "radial", *BOX),
        (3, 1),
        usual_topp,
    ),
    "topp_step simplex": Case(
        "topp_step", lambda s: (*samples(s), *columns(s, 30.0, 60.0), 1 / 3, "all", "simplex", *BOX), (3, 1)
    ),
    "row_norms": Case("row_norms", lambda s: (samples(s)[0], "l2", samples(s)[2]), (2, 0), usual_norms),
    "cutoff_scale": Case("cutoff_scale", cutoff(False), (2, 1), usual_cutoff),
    "cutoff_scale mean": Case("cutoff_scale", cutoff(True), (2, 1)),
    "early_stop": Case("early_stop", early_stop, (OF_LOGITS, 0)),
    "deepfool_step": Case("deepfool_step", deepfool, (CLASSES + 2, 2)),
    "bisect_step": Case("bisect_step", bisect, (2, 2)),
    "random_start": Case("random_start", start("uniform"), (1, 1), usual_start, random=True),
    "random_start gaussian": Case("random_start", start("gaussian"), (1, 1)),
    "random_start l2": Case("random_start", start("l2"), (1, 1)),
    "adversarial_labels": Case("adversarial_labels", logits, (OF_LOGITS, OF_LOGITS)),
    "wrong_class_target": Case("wrong_class_target", logits, (OF_LOGITS, 0)),
    "hyperplane_projection linf": Case("hyperplane_projection", hyperplane("linf"), (2, 1)),
    "hyperplane_projection l2": Case("hyperplane_projection", hyperplane("l2"), (2, 1)),
    "hyperplane_projection l1": Case("hyperplane_projection", hyperplane("l1"), (2, 1)),
}


def test_every_op_is_measured() -> None:
    assert {case.op for case in CASES.values()} == set(ops.OPS)


def results(function: Callable, args: tuple) -> list[Tensor]:
    """What a call leaves in its arguments and returns."""
    args = tuple(a.clone() if isinstance(a, Tensor) else a for a in args)
    returned = function(*args)
    tensors = [a for a in args if isinstance(a, Tensor)]
    return tensors + list(returned if isinstance(returned, tuple) else [returned] * (returned is not None))


def assert_same(function: Callable, case: Case, args: tuple) -> None:
    fused = results(getattr(torch.ops.fastadv, case.op), args)
    for a, b in zip(fused, results(function, args), strict=True):
        same = torch.isclose(a, b, rtol=2e-5, atol=2e-6, equal_nan=True).reshape(len(a), -1).all(1)
        assert same.double().mean() >= 0.999  # of thousands of rows, a few have ties, which a top-k breaks otherwise


def timed(benchmark, function: Callable, *args) -> None:
    if DEVICE == "cpu":
        benchmark(function, *args)
        return
    calls = 1

    def together() -> None:
        for _ in range(calls):
            function(*args)
        torch.cuda.synchronize()

    together()  # loads the kernel
    started = clock()
    together()
    if benchmark.enabled:
        calls = max(1, min(20, int(TOGETHER / (clock() - started))))
    benchmark.extra_info["calls"] = calls
    benchmark(together)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("side", ["fused", "eager", "compile", "usual", "copy"])
@pytest.mark.parametrize("name", CASES)
def test_op(name: str, side: str, shape: tuple[int, ...], benchmark) -> None:
    case = CASES[name]
    benchmark.group = f"{name} {'x'.join(map(str, shape))}"
    benchmark.extra_info |= {"case": name, "side": side, "shape": shape, "device": DEVICE}
    if ops.backend(case.op, DEVICE) != "compiled":
        pytest.skip(f"nothing to compare: {ops.backend(case.op, DEVICE)}")
    args = case.arguments(shape)
    reference = ops.OPS[case.op].reference
    if side == "fused":
        timed(benchmark, getattr(torch.ops.fastadv, case.op), *args)
    elif side == "copy":
        read, written = case.moves
        count = max(1, round((read + written) / 2 * torch.Size(shape).numel()))
        source = torch.ones(count, device=DEVICE)
        timed(benchmark, torch.empty_like(source).copy_, source)
    else:
        function = case.usual if side == "usual" else reference
        if function is None:
            pytest.skip("no usual form")
        if side == "compile":
            torch.compiler.reset()
            function = torch.compile(function)
        if not (side == "usual" and case.random):
            try:
                assert_same(function, case, args)
            except torch._inductor.exc.InductorError as error:
                pytest.skip(f"torch.compile fails: {error}".splitlines()[0])
        with torch.no_grad():
            timed(benchmark, function, *args)
