"""The guard against catastrophic overfitting: what it sees, what it undoes, and that its runs resume."""

import logging
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toys import Cliff, Slope, halves

from fastadv import Dataset, fit
from fastadv.attacks import FGSM, PGD
from fastadv.data import load
from fastadv.trainers import CAT, DKL, METHODS, NFGSM, FGSMTraining, FreeAT, Madry, PGDTraining, Settings, Standard
from fastadv.trainers._guard import CHECKS, Guard, _left


def guarded(**options) -> Guard:
    """A guard of a run that only remembers what it is told."""
    learned: list[dict] = []
    run = SimpleNamespace(
        method=NFGSM(**options), how=Settings(), history=[], samples=10**6, step=0, agree=lambda: None
    )
    run.learned = lambda: {"state": run.step}
    run.learn = learned.append
    run.went_back = learned
    return Guard(run, SimpleNamespace(bounds=(0.0, 1.0)))


@pytest.mark.parametrize(
    ("accuracies", "back"),
    [
        ([(0.4, 0.5), (0.5, 0.6), (0.0, 0.9)], [1]),  # to the best
        ([(0.4, 0.5), (0.38, 0.52), (0.1, 0.6)], [1]),  # to the last good one
        ([(0.4, 0.5), (0.35, 0.61), (0.1, 0.6)], [0]),  # at which little more than at the best was gained
        ([(0.4, 0.5), (0.1, 0.15), (0.1, 0.2), (0.02, 0.9)], [0]),  # where both fall, nothing is overfitted, or good
        ([(0.4, 0.5), (0.1, 0.3)], []),  # 0.1 gained
        ([(0.4, 0.5), (0.21, 0.9)], []),  # more than half
        ([(0.0, 0.9), (0.0, 0.9), (0.1, 0.5)], []),  # what was never robust has nothing to lose
        ([(0.4, 0.5), (0.0, 0.9), (0.0, 0.8)], [0, 0]),
    ],
)
def test_what_is_catastrophic_overfitting(accuracies, back):
    guard = guarded()
    for step, (robust, own) in enumerate(accuracies):
        guard.run.step = step
        guard.counts = [256 * robust, 256 * own, 256.0]
        guard.conclude()
    assert [state["state"] for state in guard.run.went_back] == back
    assert guard.run.method.noise == NFGSM().noise + len(back)
    assert guard.end_epoch() == {"pgd_accuracy": guard.now, "rollbacks": len(back)}
    assert guard.end_epoch()["rollbacks"] == 0
    assert guard.now == accuracies[-1][0] or back


@pytest.mark.parametrize(("robust", "told"), [(0.0, 1), (0.005, 1), (0.02, 0)])
def test_what_was_never_robust_is_told_once_an_epoch(robust, told, caplog):
    guard = guarded()
    for _ in range(2):
        guard.counts = [256 * robust, 256 * 0.9, 256.0]
        guard.conclude()
    guard.end_epoch()
    assert len([r for r in caplog.records if "nothing is robust at the end of epoch 1" in r.message]) == told


def test_a_method_with_nothing_to_steady_is_told_once(caplog):
    """With the first rollback, and not again after a resume; each rollback is told all the same."""
    guard = guarded()
    guard.run.method = method = FreeAT()
    for step, (robust, own) in enumerate([(0.4, 0.5), (0.0, 0.9), (0.0, 0.9), (0.0, 0.9)]):
        if step == 3:
            state, run = guard.state(), guard.run
            guard = Guard(run, SimpleNamespace(bounds=(0.0, 1.0)))
            guard.load(state)
        guard.counts = [256 * robust, 256 * own, 256.0]
        guard.conclude()
    assert guard.run.method is method
    assert guard.rollbacks == 3
    told = [record.getMessage() for record in caplog.records]
    assert [each.endswith(f"the method is {method}, as before") for each in told] == [True, False, True, True]
    assert told[1].startswith("the guard cannot make FreeAT steadier: it overfits again where the same leads to it")


@pytest.mark.parametrize("batches", [1, 3, 8, 13, 64, 391])
def test_checks_are_at_the_eighths_of_an_epoch(batches):
    due = [step for step in range(1, batches + 1) if _left(step, batches) == 0]
    assert due == sorted({-(-check * batches // CHECKS) for check in range(1, CHECKS + 1)})
    assert all(_left(step, batches) == min(d for d in due if d >= step) - step for step in range(1, batches + 1))


@pytest.mark.parametrize(("batch_size", "expected"), [(100, [100] * 3 * 8), (1000, [256] * 4)])
def test_a_check_is_pgd_10_on_what_was_trained_on_last(batch_size, expected, monkeypatch):
    """Of batches of 100, three have 256 samples or more; of one of 1,000, 256 are taken."""
    sizes: list[int] = []

    def right_above(attack: PGD, model: nn.Module, x: Tensor, y: Tensor, ids: Tensor) -> SimpleNamespace:
        assert (attack.eps, attack.alpha, attack.steps, attack.seed) == (0.2, 0.05, 10, 3)
        assert torch.equal(x[:, 0], ids)
        sizes.append(len(x))
        return SimpleNamespace(success=y == 0)

    monkeypatch.setattr(PGD, "outcome", right_above)
    x, y = torch.arange(4000.0).unsqueeze(1).repeat(1, 2), torch.arange(4000) % 2
    data = Dataset(x, y, ("0", "1"), bounds=(0.0, 4000.0))
    monkeypatch.setattr(PGD, "within", lambda attack, bounds: attack if bounds == data.bounds else None)
    (row,) = fit(Slope(), Cliff(attack=FGSM(0.2)), data, epochs=1, batch_size=batch_size, seed=3, guard=True)
    assert sizes == expected
    assert row["pgd_accuracy"] == pytest.approx(0.5, abs=0.1)


def test_a_check_counts_each_batch_once_however_often_it_is_replayed(monkeypatch):
    seen: list[list[int]] = []

    def noted(attack: PGD, model: nn.Module, x: Tensor, y: Tensor, ids: Tensor) -> SimpleNamespace:
        seen.append(ids.tolist())
        return SimpleNamespace(success=y == 0)

    monkeypatch.setattr(PGD, "outcome", noted)
    data = Dataset(torch.rand(640, 3), torch.arange(640) % 2, ("0", "1"))
    fit(nn.Linear(3, 2), FreeAT(attack=FGSM(0.1), replays=8), data, epochs=1, batch_size=16, guard=True)
    ids = [each for batch in seen for each in batch]
    assert len(ids) == len(set(ids)) == 640  # forty batches, five between checks: fewer than 256 samples
    with pytest.raises(ValueError, match="cannot tell the curriculum of CAT"):
        fit(nn.Linear(3, 2), CAT(), data, epochs=1, guard=True)


@pytest.mark.parametrize("replays", [1, 8])
def test_batch_norm_of_the_average_sees_other_batches_each_time(replays, monkeypatch):
    seen: list[Tensor] = []
    monkeypatch.setattr("fastadv.trainers._state.recalibrate", lambda module, batches: seen.extend(batches))
    data = Dataset(torch.rand(64, 3), torch.arange(64) % 2, ("0", "1"))
    how = {"epochs": 1, "batch_size": 16, "ema": 0.9, "ema_batch_norm": 3}
    fit(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), FreeAT(attack=FGSM(0.1), replays=replays), data, **how)
    assert len(seen) == 3
    assert len(torch.cat(seen).unique(dim=0)) == 48


def fallen(resume: dict | None = None, **settings) -> tuple[list[float], list[dict], list[dict]]:
    """The weight after every epoch, the history, and what was saved, of a run whose weight falls below 0."""
    model, weights = Slope(), []
    options = {"epochs": 8, "batch_size": 16, "guard": True, "memory_format": "preserve"}
    states: list[dict] = []
    history = fit(
        model,
        Cliff(),
        halves(32),
        optimizer=torch.optim.SGD(model.parameters(), lr=1 / 8),
        **options | {"lr": 1 / 8} | settings,
        resume=resume,
        on_epoch=lambda _: weights.append(model.weight.item()),
        on_save=states.append,
    )
    return weights, history, states


def test_a_fall_is_undone_and_the_method_steadier(caplog):
    """In the fifth epoch predictions are wrong; the weight is again that of the fourth, and rises from there."""
    caplog.set_level(logging.WARNING, logger="fastadv.fit")
    weights, history, states = fallen()
    assert [weight - 1 / 64 for weight in weights] == [0.75, 0.5, 0.25, 0, 0, 0.25, 0.5, 0.75]
    assert [row["pgd_accuracy"] for row in history] == [1] * 8
    assert [row["rollbacks"] for row in history] == [0, 0, 0, 0, 1, 0, 0, 0]
    assert [state["kept"]["steps"] for state in states] == [2, 4, 6, 8, 8, 10, 12, 14]
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "catastrophic overfitting in epoch 5, step 2: PGD-10 accuracy was 1 and is 0, that on the method's own samples "
        "1; the weights of before are back, with 1, and the method is Cliff("
    )
    assert "way=-1" in record.getMessage()


def test_a_run_with_the_guard_resumes_to_the_same_bits(tmp_path):
    """From before the fall, within its epoch, and after it."""
    settings = {"ema": 0.5, "save_every": 1, "epochs": 6}
    weights, history, states = fallen(**settings)
    assert sum(row["rollbacks"] for row in history) == 1
    timing = {"seconds", "images_per_second"}
    for place in ((3, 0), (4, 1), (5, 0), (5, 1)):
        start = [(state["epoch"], state["step"]) for state in states].index(place)
        torch.save(states[start], tmp_path / "state.pt")
        again, told, later = fallen(resume=torch.load(tmp_path / "state.pt", weights_only=True), **settings)
        assert again == weights[place[0] :]
        for row, expected in zip(told, history, strict=True):
            assert {k: row[k] for k in row.keys() - timing} == {k: expected[k] for k in row.keys() - timing}
        for state, expected in zip(later, states[start + 1 :], strict=True):
            assert state["guard"] == expected["guard"]
            assert state["state"] == expected["state"]


def test_a_guard_that_sees_nothing_changes_nothing(seed_zero):
    data = load("fashion-mnist-mini", "train").take(24)
    found = []
    for guard in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(784, 10))
        fit(model, NFGSM(), data, epochs=2, batch_size=8, guard=guard)
        found.append(model[2].weight)
    assert torch.equal(*found)


def test_methods_without_a_budget_have_no_guard():
    with pytest.raises(ValueError, match="guard measures PGD at the method's L-infinity budget, and Standard has none"):
        fit(Slope(), Standard(), halves(8), guard=True)


def test_a_state_without_guard_is_refused():
    states = fallen(guard=False, epochs=1)[2]
    with pytest.raises(ValueError, match="cannot resume from this state, which is of a run without guard"):
        fallen(resume=states[0])


class Few:
    bounds, sample_shape, device = (-1.0, 1.0), (2,), torch.device("cpu")

    def __len__(self) -> int:
        return 3


def test_what_a_method_keeps_may_not_be_there_yet(monkeypatch):
    """A fall back to the first epoch, in which DKL has no weights of classes."""

    def conclude(guard: Guard) -> None:
        if not guard.good:
            guard.good = guard.run.learned() | {"pgd_accuracy": 1.0}
            kept.append(guard.run.method.weights)
        elif guard.run.history and not guard.rollbacks:
            kept.append(guard.run.method.weights)
            guard.best = 1.0, 1.0
            guard.go_back(1.0)
            kept.append(guard.run.method.weights)
        guard.counts = [0.0, 0.0, 0.0]

    kept = []
    monkeypatch.setattr(Guard, "conclude", conclude)
    data = load("fashion-mnist-mini", "train").take(24)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    fit(model, DKL().at(0.1), data, epochs=3, batch_size=8, guard=True)
    assert kept[0] is None
    assert kept[1].shape == (10, 10)
    assert kept[2] is None


@pytest.mark.parametrize("name", METHODS)
def test_steadier_methods(name, seed_zero):
    """Three times, with all that they keep, and within the same budget, bounds and seed."""
    method = METHODS[name]()
    if method.budget is None:
        return
    method.begin(Few(), 7, 9)
    marker = torch.rand(3)
    for each in method.kept:
        setattr(method, each, marker)
    if name in ("bilateral", "free"):
        assert method.steadier() is None
        return
    for _ in range(3):
        steadier = method.steadier()
        assert steadier != method
        assert steadier.budget == pytest.approx(method.budget)
        assert (steadier.attack.bounds, steadier.attack.seed) == ((-1.0, 1.0), 7)
        assert all(getattr(steadier, each) is marker for each in method.kept)
        method = steadier


def test_fgsm_gets_a_random_start_and_then_steps():
    first = FGSMTraining(attack=FGSM(0.3, seed=3), label_smoothing=0.2, label="pred", beta=2.0, eps_warmup=2).steadier()
    attack = PGD(0.3, 0.375, 1, seed=3)
    assert first == PGDTraining(attack=attack, label_smoothing=0.2, label="pred", beta=2.0, eps_warmup=2)
    second, third = first.steadier(), first.steadier().steadier()
    assert (second.attack.steps, second.attack.alpha) == (2, 0.375)
    assert (third.attack.steps, third.attack.alpha) == (3, pytest.approx(0.25))
    assert Madry(attack=PGD(0.1, 0.01, 10)).steadier().attack == PGD(0.1, 0.01, 11)
    assert FGSMTraining(attack=FGSM(0.9)).steadier().attack.alpha == 1


@pytest.mark.thorough
def test_fgsm_at_a_large_budget_collapses_and_the_guard_catches_it():
    """Trousers, bags and boots of 7 x 7 pixels: FGSM ends at 0 % under PGD, and the guard keeps a fifth at least."""
    data = load("fashion-mnist-mini", "train")
    own = torch.isin(data.y, torch.tensor([1, 8, 9]))
    x = F.avg_pool2d(data.x[own][:512], 4).contiguous()
    y = torch.searchsorted(torch.tensor([1, 8, 9]), data.y[own][:512])
    robust, told = [], []
    for guard in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(49, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 3)
        )
        method = FGSMTraining(attack=FGSM(0.3), label_smoothing=0.0)
        history = fit(model, method, (x, y), epochs=9, batch_size=32, lr=0.003, guard=guard, memory_format="preserve")
        attack = PGD(0.3, 0.075, 20, seed=7)
        robust.append(float((~attack.run(model, x, y).success).float().mean()))
        told.append(history)
    (alone, kept), (plain, watched) = robust, told
    assert plain[-1]["adversarial_accuracy"] > 0.6
    assert alone < 0.02
    assert kept > 0.15
    assert sum(row["rollbacks"] for row in watched) > 0
    assert watched[-1]["pgd_accuracy"] == pytest.approx(kept, abs=0.1)
