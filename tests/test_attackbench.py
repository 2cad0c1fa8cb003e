"""AttackBench's protocol: queries counted outside of attacks, curves integrated exactly, optimality, the command."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import Wavy, linear, samples

from fastadv.__main__ import main
from fastadv.attacks import ATTACKS, DDN, FABT, PGD
from fastadv.evaluation import (
    LIBRARIES,
    Asking,
    Found,
    Queries,
    area,
    ask,
    contestants,
    optimality,
    robust_accuracy,
    searched,
    standings,
)
from fastadv.evaluation._attackbench import OutOfQueriesError
from fastadv.evaluation._contestants import quietly

SHAPE = (3, 4, 4)

# ------------------------------------------------------------------------------------------------------------- counting


def setting(n: int = 6, norm: str = "l2", budget: int = 1000) -> tuple[Queries, Tensor, Tensor]:
    model, x = linear(48, 4), samples(n, *SHAPE, low=0.3, high=0.7)
    y = model(x).argmax(1)
    return Queries(model, x, y, norm, budget), x, y


def test_passes_are_counted_by_hand():
    """Samples in another order, some of them, some twice; a graph walked through twice; one without gradient."""
    queries, x, _ = setting()
    queries(x + 0.01)
    queries(x[[4, 1, 1]] - 0.01)
    leaf = x[[3, 1]].clone().requires_grad_()
    logits = queries(leaf)
    torch.autograd.grad(logits[:, 0].sum(), leaf, retain_graph=True)
    torch.autograd.grad(logits[:, 1].sum(), leaf)
    assert queries.forwards.tolist() == [1, 4, 1, 2, 2, 1]
    assert queries.backwards.tolist() == [0, 2, 0, 2, 0, 0]


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_rows_belong_to_the_nearest_sample(norm):
    queries, x, _ = setting(norm=norm)
    order = torch.tensor([5, 0, 0, 3])
    moved = x[order].clone()
    moved[:, 0, 0, 0] += 0.02
    assert torch.equal(queries._owners(moved), order)
    far = samples(9, *SHAPE, seed=5)
    assert torch.equal(queries._owners(far), torch.cdist(far.flatten(1), x.flatten(1)).argmin(1))


def test_noise_that_is_larger_than_the_distance_of_samples_hides_none():
    """A fifth of the range on every value: 5.6 in L2, where samples are about 2.3 apart."""
    x = (0.5 + 0.2 * (samples(64, 1, 28, 28) - 0.5)).clamp(0, 1)
    queries = Queries(linear(784, 4), x, torch.zeros(64, dtype=torch.int64), "linf", 10)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(3))
    noise = 0.2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(4)).sign()
    assert torch.equal(queries._owners(x[order] + noise), order)


def test_equal_samples_are_told_apart_by_their_order():
    model, x = linear(48, 4), samples(1, *SHAPE).expand(5, *SHAPE).clone()
    queries = Queries(model, x, model(x).argmax(1), "l2", 10)
    for shift in (0.0, 0.1, 0.4):
        queries(x + shift)
    assert queries.forwards.tolist() == [3] * 5


def test_beyond_the_budget_there_is_nothing_to_learn():
    queries, x, y = setting(budget=3)
    first = queries(x)
    leaf = x[:2].clone().requires_grad_()
    (grad,) = torch.autograd.grad(queries(leaf).sum(0)[0], leaf)
    assert (grad != 0).any()
    leaf = x.clone().requires_grad_()
    logits = queries(leaf)  # the first two have spent theirs
    assert torch.equal(logits[:2].argmax(1), y[:2])
    assert torch.equal(logits[2:], first[2:])
    (grad,) = torch.autograd.grad(logits.square().sum(), leaf)
    assert (grad[:2] == 0).all()
    assert (grad[2:] != 0).any()
    assert (queries.forwards + queries.backwards).tolist() == [3] * 6
    once, _, _ = setting(budget=1)
    doubled = once(x[[0, 0]] + torch.tensor([0.0, 0.05]).view(2, 1, 1, 1))
    torch.testing.assert_close(doubled[0], first[0])  # of two rows of one sample the first
    assert doubled[1].argmax() == y[0]


def test_an_attack_of_some_samples_ends_with_their_queries():
    queries, x, _ = setting(budget=3)
    rows = torch.arange(6) == 2
    asked = 0
    with queries.attacking(rows):
        for _ in range(100):
            asked += 1
            queries(x[rows])
    assert asked == 4  # the last one got no answer
    assert queries.spent.tolist() == rows.tolist()
    queries(x[~rows])
    assert queries.forwards.tolist() == [1, 1, 3, 1, 1, 1]
    queries(x[~rows])
    queries(x[~rows])
    with pytest.raises(OutOfQueriesError), queries.attacking(~rows):
        queries(x)


def test_the_best_within_the_budget_is_kept():
    model, x = linear(48, 2, torch.float64), samples(8, *SHAPE, low=0.4, high=0.6, dtype=torch.float64)
    y = model(x).argmax(1)
    y[0] = 1 - y[0]
    w = (model[1].weight[1] - model[1].weight[0]) * (1 - 2 * y).unsqueeze(1)
    lead = (model(x)[:, 1] - model(x)[:, 0]) * (1 - 2 * y)
    away = (w / w.norm(dim=1, keepdim=True)).view_as(x)
    needed = -lead / w.norm(dim=1)
    queries = Queries(model, x, y, "l2", 3)
    sizes = []
    for factor in (1.5, 1.1, 0.9):  # adversarial, nearer, not adversarial
        queries(x + factor * needed.view(-1, 1, 1, 1) * away)
        sizes.append(queries.best.clone())
    with pytest.raises(OutOfQueriesError):
        queries(x + 1.01 * needed.view(-1, 1, 1, 1) * away)
    torch.testing.assert_close(sizes[0][1:], 1.5 * needed[1:])
    torch.testing.assert_close(queries.best[1:], 1.1 * needed[1:])
    assert queries.best[0] == 0
    assert (model(queries.x_adv)[1:].argmax(1) != y[1:]).all()
    torch.testing.assert_close((queries.x_adv - x)[1:].flatten(1).norm(dim=1), queries.best[1:])


def test_a_row_that_is_no_sample_counts_for_nothing():
    queries, x, _ = setting(budget=10)
    broken = x.clone()
    broken[0, 0, 0, 0] = math.nan
    queries(broken)
    assert queries.forwards.tolist() == [1] * 6
    assert queries.best[0].isinf() or queries.best[0] == 0
    assert not queries.best.isnan().any()
    assert not queries.x_adv.isnan().any()


def test_other_libraries_are_seeded_and_leave_generators_alone():
    def drawn(*_: object) -> torch.Tensor:
        return torch.tensor([float(torch.rand(())), np.random.random(), random.random()])

    state = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first, again, other = (quietly(drawn, None, seed)() for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not (first == other).any()
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (np.random.get_state()[1] == state[1]).all()
    assert random.getstate() == state[2]


def test_points_outside_of_the_box_are_looked_at_inside():
    model = linear(48, 2)
    x, far = torch.full((1, *SHAPE), 0.5), torch.full((1, *SHAPE), 2.0).requires_grad_()
    queries = Queries(model, x, model(x).argmax(1), "linf", 10)
    logits = queries(far)
    assert torch.equal(logits, model(torch.ones(1, *SHAPE)))
    assert (torch.autograd.grad(logits[0, 0], far)[0] == 0).all()
    assert queries.best[0] in (0.5, math.inf)


@pytest.mark.parametrize("attack", [DDN(20), FABT(10, norm="l2"), PGD(0.5, 0.1, 10, norm="l2", seed=0)])
def test_attacks_run_as_ever_behind_the_counter(attack):
    """Gradients that fastadv counts itself are the backward passes; the best is no larger than what is returned."""
    model, x = Wavy(48, 5), samples(12, *SHAPE)
    y, ids = model(x).argmax(1), torch.arange(12)
    alone = attack.run(model, x, y, ids)
    queries = Queries(model, x, y, "l2", 10**6)
    behind = attack.run(queries, x, y, ids)
    assert torch.equal(behind.x_adv, alone.x_adv)
    assert torch.equal(queries.backwards, alone.grads)
    assert (queries.forwards >= queries.backwards).all()
    assert (queries.best[alone.success] <= alone.norm[alone.success] + 1e-6).all()


# ----------------------------------------------------------------------------------------------------------- optimality


def test_the_integral_is_that_of_a_step_function():
    found = torch.tensor([0.0, 1.0, 2.0, 4.0, math.inf], dtype=torch.float64)
    assert [robust_accuracy(found, eps) for eps in (0, 0.5, 1, 3, 9)] == [0.8, 0.8, 0.6, 0.4, 0.2]
    assert area(found, 4.0) == pytest.approx((0 + 1 + 2 + 4 + 4) / 5)
    assert area(found, 3.0) == pytest.approx(0.8 * 1 + 0.6 * 1 + 0.4 * 1)
    grid = torch.linspace(0, 3, 30001, dtype=torch.float64)[:-1] + 0.00005
    assert area(found, 3.0) == pytest.approx(np.mean([robust_accuracy(found, eps) for eps in grid.tolist()]) * 3, 1e-4)


def test_optimality_in_closed_form():
    best = torch.tensor([0.0, 1.0, 2.0, 4.0], dtype=torch.float64)
    assert optimality(best, best) == 1.0
    assert optimality(torch.tensor([0.0, math.inf, math.inf, math.inf]), best) == pytest.approx(0.0)
    # areas over [0, 4]: best 7/4, this one 9/4, none 3
    assert optimality(torch.tensor([0.0, 2.0, 3.0, 4.0]), best) == pytest.approx(1 - (9 - 7) / (12 - 7))
    assert optimality(torch.tensor([0.0, 9.0, 2.0, 4.0]), best) == pytest.approx(1 - (10 - 7) / (12 - 7))
    unfound = torch.tensor([1.0, math.inf])
    assert optimality(unfound, unfound) == 1.0
    assert optimality(torch.zeros(3), torch.zeros(3)) == 1.0
    assert optimality(torch.full((3,), math.inf), torch.full((3,), math.inf)) == 1.0


def found(*distances: float) -> Found:
    zeros = torch.zeros(len(distances), dtype=torch.int64)
    return Found(torch.tensor(distances, dtype=torch.float64), zeros, zeros, 0.0)


def test_global_optimality_is_the_mean_over_models():
    a, b, c = ("one", "a"), ("one", "b"), ("two", "a")
    measured = {
        "first": {a: found(1, 2, 4), b: found(4, 4, 4), c: found(2, 2, 4)},
        "second": {a: found(3, 1, 2), b: found(1, 3, 2)},
    }
    ranked = standings(measured)
    assert [(each.library, each.attack) for each in ranked] == [a, b]  # the third lacks a model
    assert ranked[0].local == {"first": 1.0, "second": pytest.approx(0.5)}
    assert ranked[0].optimality == pytest.approx(sum(ranked[0].local.values()) / 2)
    assert ranked[1].local["first"] == pytest.approx(0.0)
    assert standings({}) == []


def test_no_attack_is_above_the_pointwise_best():
    generator = torch.Generator().manual_seed(0)
    many = {("a", str(k)): found(*torch.rand(50, generator=generator).tolist()) for k in range(8)}
    assert all(each.optimality <= 1 for each in standings({"model": many}))


# -------------------------------------------------------------------------------------------------------------- attacks


def test_a_search_finds_the_smallest_budget():
    """Of a linear model in L-infinity, one step of the whole budget succeeds from a known size on."""
    model, x = linear(48, 2, torch.float64), samples(16, *SHAPE, low=0.4, high=0.6, dtype=torch.float64)
    y = model(x).argmax(1)
    w = model[1].weight[1] - model[1].weight[0]
    needed = (model(x)[:, 1] - model(x)[:, 0]).abs() / w.abs().sum()
    for one_by_one in (False, True):
        calls = []

        def at(model: nn.Module, x: Tensor, y: Tensor, ids: Tensor, eps: Tensor, calls=calls) -> Tensor:
            calls.append(len(x))
            return PGD(eps, eps, 1, random_start=0.0, seed=0)(model, x, y, ids)

        attack = Asking("ours", "step", "linf", searched(at, "linf", one_by_one=one_by_one))
        measured = ask(model, x, y, attack, 10**6)
        torch.testing.assert_close(measured.distances, needed, rtol=0.02, atol=1e-5)
        assert (measured.distances >= needed).all()
        assert sum(calls) == 20 * 16
        assert (len(calls) > 20) == one_by_one


def test_batches_and_order_change_nothing():
    model, x = Wavy(48, 5), samples(10, *SHAPE)
    y = model(x).argmax(1)
    attack = Asking("fastadv", "ddn", "l2", DDN(30, seed=0))
    whole = ask(model, x, y, attack, 60)
    parts = ask(model, x, y, attack, 60, batch_size=3)
    order = torch.randperm(10)
    turned = ask(model, x[order], y[order], attack, 60)
    for other, place in ((parts, slice(None)), (turned, order)):
        for name in ("distances", "forwards", "backwards"):
            assert torch.equal(getattr(other, name), getattr(whole, name)[place])
    assert int((whole.forwards + whole.backwards).max()) == 60
    assert (ask(model, x, y, attack, 20).distances >= whole.distances).all()


def test_every_registered_attack_can_take_part():
    """Each by its name and in its norm, but for the worst cases of others, and budgets of training."""
    every = contestants(["linf", "l2", "l1", "l0"], 100, libraries=())
    names = {each.attack for each in every.attacks}
    assert names == set(ATTACKS) - {"anpgd", "autoattack", "dra", "multi"}
    assert {each.norm for each in every.attacks if each.attack == "fabt"} == {"linf", "l2", "l1"}
    assert {each.norm for each in every.attacks if each.attack == "ddn"} == {"l2"}
    assert not every.missing


def test_libraries_that_are_missing_are_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(LIBRARIES, "art", (("no_such_library",), list))
    some = contestants(["l2"], 100, attacks=["ddn"], libraries=["art"])
    assert list(some.missing) == ["art"]
    assert "art cannot be imported (ModuleNotFoundError: No module named 'no_such_library')" in some.missing["art"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"norms": ["l3"]}, "unknown norm 'l3': choose among linf, l2, l1, l0"),
        ({"attacks": ["ddm"]}, "unknown attack 'ddm'"),
        ({"libraries": ["cleverhans"]}, "unknown library 'cleverhans'"),
        ({"norms": ["l1"], "attacks": ["ddn"]}, "attack 'ddn' is in none of the norms l1"),
        ({"attacks": ["autoattack"]}, "attack 'autoattack' is in none of the norms l2, or takes no part"),
    ],
)
def test_wrong_contestants(given: dict, message: str):
    with pytest.raises(ValueError, match=message):
        contestants(**{"norms": ["l2"], "queries": 10, "libraries": [], **given})


def test_an_unknown_norm_or_no_budget():
    model, x = linear(48, 3), samples(2, *SHAPE)
    with pytest.raises(ValueError, match="norm must be one of linf, l2, l1, l0, got 'l3'"):
        Queries(model, x, torch.zeros(2, dtype=torch.int64), "l3", 1)
    with pytest.raises(ValueError, match="budget must be at least 1 query, got 0"):
        Queries(model, x, torch.zeros(2, dtype=torch.int64), "l2", 0)


def test_brendel_and_bethge_take_part_where_numba_is(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def recorded(name: str) -> Callable:
        return lambda **options: asked.append((name, options)) or (lambda model, x, y, epsilons: (x, x, None))

    library = SimpleNamespace(
        PyTorchModel=lambda model, **_: model,
        attacks=SimpleNamespace(
            LinearSearchBlendedUniformNoiseAttack=lambda steps: steps,
            LinfinityBrendelBethgeAttack=recorded("Linfinity"),
            L0BrendelBethgeAttack=recorded("L0"),
        ),
    )
    _, x, y = setting()
    for there in (False, True):
        monkeypatch.setattr("importlib.util.find_spec", lambda name, there=there: there or None)
        peers = {peer.name: peer for peer in LIBRARIES["foolbox"][1]()}
        assert ("bb" in peers) == there
    for norm in ("linf", "l0"):
        peers["bb"].make(norm, 200)(library, None, x, y)
    options = {"init_attack": 20, "steps": 100}
    assert asked == [("Linfinity", options), ("L0", options)]


@pytest.mark.thorough
@pytest.mark.parametrize("name", LIBRARIES)
def test_attacks_of_other_libraries_run(name: str):
    """As many queries as they like up to the budget; what they find is adversarial. Without the library, a skip."""
    model, x = linear(256, 10), samples(4, 1, 16, 16, low=0.3, high=0.7)
    y = model(x).argmax(1)
    norms = ["linf", "l2", "l1", "l0"]
    taking_part = contestants(norms, 40, attacks=["ddn"], libraries=[name])
    if name in taking_part.missing:
        pytest.skip(taking_part.missing[name])
    for attack in (each for each in taking_part.attacks if each.library == name):
        if attack[:3] == ("adv-lib", "fmn", "l0"):
            continue  # it raises an error where its radius has come to no entry at all
        if attack.attack == "bb" and attack.norm != "l2":
            continue  # numba compiles it for minutes in each norm
        measured = ask(model, x, y, attack, 40)
        assert int((measured.forwards + measured.backwards).max()) <= 40
        assert int(measured.forwards.min()) > 0


# -------------------------------------------------------------------------------------------------------------- command

MODELS = """
from toys import Wavy

def one(): return Wavy(64, 3, seed=1)
def two(): return Wavy(64, 3, seed=2)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    (tmp_path / "bench_models.py").write_text(MODELS)
    x, y = samples(12, 1, 8, 8), torch.arange(12) % 3
    np.savez("data.npz", x_train=x.numpy(), y_train=y.numpy(), x_test=x.numpy(), y_test=y.numpy())
    return tmp_path


COMMAND = ["attackbench", "bench_models:one", "bench_models:two", "--data", "data.npz", "--norms", "l2,linf"]
FEW = ["--attacks", "ddn,deepfool,pgd", "--libraries", "none", "--queries", "80", "--limit", "10"]


def test_the_command_ranks_and_goes_on(place: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    assert main([*COMMAND, *FEW, "--out", "bench"]) == 0
    told = capsys.readouterr().out
    assert "10 runs on 2 models, 10 samples, 80 queries each" in told
    assert "L2: fastadv ddn, fastadv deepfool, fastadv pgd" in told
    whole = json.loads(Path("bench/attackbench.json").read_text())
    assert (whole["samples"], whole["queries"], whole["missing"], whole["failed"]) == (10, 80, {}, [])
    ranked = whole["norms"]["l2"]["global"]
    assert {each["attack"] for each in ranked} == {"ddn", "deepfool", "pgd"}
    assert [each["optimality"] for each in ranked] == sorted((each["optimality"] for each in ranked), reverse=True)
    for rows in whole["norms"]["linf"]["models"].values():
        assert {row["attack"] for row in rows} == {"deepfool", "pgd"}
        assert all(row["forwards"] + row["backwards"] <= 80 and len(row["distances"]) == 10 for row in rows)
    page = Path("bench/attackbench.md").read_text()
    assert "fastadv attackbench bench_models:one bench_models:two --data data.npz --norms l2,linf" in page
    assert page.count("| fastadv | `pgd` |") == 2
    # Killed before it was done: two runs are gone, and those alone are run again.
    for name in ("l2-fastadv-ddn.npz", "linf-fastadv-pgd.npz"):
        next(Path("bench/measured").rglob(name)).unlink()
    Path("bench/attackbench.json").unlink()
    ran: list[str] = []
    original: Callable = ask
    monkeypatch.setattr(
        "fastadv.commands._attackbench.ask", lambda *args, **how: ran.append(args[3].attack) or original(*args, **how)
    )
    assert main([*COMMAND, *FEW, "--out", "bench", "--resume", "true"]) == 0
    assert sorted(ran) == ["ddn", "pgd"]
    again = json.loads(Path("bench/attackbench.json").read_text())
    strip = lambda rows: [{key: row[key] for key in row if key != "seconds"} for row in rows]  # noqa: E731
    for norm, models in whole["norms"].items():
        assert again["norms"][norm]["global"] == models["global"]
        for name, rows in models["models"].items():
            assert strip(again["norms"][norm]["models"][name]) == strip(rows)


def test_an_attack_that_fails_is_told(place: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    def fails(self, rows) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(DDN, "perturb", fails)
    assert main([*COMMAND, *FEW, "--out", "bench"]) == 0
    assert "fastadv ddn in l2 failed on bench_models:one: RuntimeError: out of luck" in capsys.readouterr().out
    page = Path("bench/attackbench.md").read_text()
    assert "- fastadv `ddn`, L2, on bench_models:one: RuntimeError: out of luck" in page
    assert "| fastadv | `ddn` |" not in page


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--norms", "l7"], "unknown norm 'l7'"),
        (["--queries", "0"], "queries must be at least 1, got 0"),
        (["--attacks", "ddm"], "unknown attack 'ddm'"),
        (["--libraries", "nolib"], "unknown library 'nolib'"),
    ],
)
def test_what_is_wrong_is_refused_before_the_work(flags: list[str], message: str, place: Path, capsys):
    assert main([*COMMAND, "--libraries", "none", *flags, "--out", "bench"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("bench").exists()
