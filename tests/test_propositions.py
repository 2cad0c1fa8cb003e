"""Appendix D of the Blind AT paper: its equations as printed, its numbers, and which of its claims hold."""

import csv

import pytest
import torch

from fastadv.recipes import propositions
from fastadv.recipes.propositions import curvature, gradient, loss, stationary_bias, stationary_weight

W, B, ETA1, ETA2 = (
    low + (high - low) * torch.rand(50, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
    for i, (low, high) in enumerate([(0.1, 8.0), (-4.0, 4.0), (0.0, 2.0), (0.0, 2.0)])
)


def ds(z):
    return z.sigmoid() * (1 - z.sigmoid())


def bend(z):
    """The bracket of which every second derivative in the paper is a sum."""
    return ds(z) * (1 - z.sigmoid()) * (3 * z.sigmoid() - 1)


def test_gradient_is_equations_29_and_30():
    terms = [(-1, 0), (ETA1 - 1, 0), (1, 1), (1 - ETA2, 1)]
    forces = [(x, ((W * x + B).sigmoid() - y) * ds(W * x + B)) for x, y in terms]
    by_b, by_w = gradient(W, B, ETA1, ETA2)
    torch.testing.assert_close(by_b, sum(force for _, force in forces) + 1e-5 * B.sign())
    torch.testing.assert_close(by_w, sum(x * force for x, force in forces) + 1e-5)


def test_gradient_is_equation_32_where_the_etas_add_up_to_2():
    z = W * (1 - ETA2) + B
    expected = (B - W).sigmoid() * ds(B - W) + ((W + B).sigmoid() - 1) * ds(W + B) + (2 * z.sigmoid() - 1) * ds(z)
    torch.testing.assert_close(gradient(W, B, 2 - ETA2, ETA2)[0], expected + 1e-5 * B.sign())


def test_curvature_is_equations_24_to_26():
    a = 1 - ETA1
    clean, adversarial = (bend(W - B), bend(W + B)), (bend(a * W - B), bend(a * W + B))
    bb, bw, ww = curvature(W, B, ETA1, ETA1)
    torch.testing.assert_close(bb, sum(clean) + sum(adversarial))
    torch.testing.assert_close(bw, clean[1] - clean[0] + a * (adversarial[1] - adversarial[0]))
    torch.testing.assert_close(ww, sum(clean) + a**2 * sum(adversarial))


def test_curvature_is_equation_35_for_unrestricted_training():
    expected = bend(W - B) + bend(W + B) + bend((1 - ETA1) * W - B) + bend((1 - ETA2) * W + B)
    torch.testing.assert_close(curvature(W, B, ETA1, ETA2)[0], expected)


@pytest.mark.parametrize("lam", [1e-7, 1e-5, 1e-2, 0.4])
def test_stationary_weight_of_normal_training_solves_equation_11(lam):
    w = stationary_weight(torch.zeros(1), lam)
    torch.testing.assert_close(lam * (1 + w.exp()) ** 2 * (1 + (-w).exp()), torch.full_like(w, 4), rtol=1e-8, atol=0)


def test_stationary_weight_solves_equation_23_and_is_the_only_one():
    eta = torch.tensor([0.0, 0.5, 0.99, 0.99992, 1.0, 1.1, 1.9], dtype=torch.float64)
    w = stationary_weight(eta)
    s, s_eta = w.sigmoid(), ((1 - eta) * w).sigmoid()
    left = -2 * (1 - s) ** 2 * s - 2 * (1 - eta) * (1 - s_eta) ** 2 * s_eta + 1e-5
    torch.testing.assert_close(left, torch.zeros_like(left), rtol=0, atol=1e-15)
    grid = torch.logspace(-3, 6, 20001, dtype=torch.float64).unsqueeze(1)
    falling = gradient(grid, 0.0, eta, eta)[1] < 0
    assert falling[0].all()
    assert (falling.diff(dim=0).sum(0) == 1).all()


def test_without_a_stationary_weight_it_is_0():
    """The slope at W1 = 0 is ``lam - (2 - eta) / 4``."""
    w = stationary_weight(torch.tensor([0.0, 0.0, 1.5, 1.5]), torch.tensor([0.49, 0.51, 0.12, 0.13]))
    assert (w > 1e-3).tolist() == [True, False, True, False]
    assert w[[1, 3]].max() < 1e-12


def test_printed_weights():
    w = stationary_weight(torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(w, torch.tensor([6.447, 6.100], dtype=torch.float64), rtol=0, atol=5e-4)


def test_weight_is_largest_at_the_printed_eta_with_ten_times_the_printed_lambda():
    """There the points themselves no longer pull, and eq. 23 reads ``W1 = 2 u s(u) (1 - s(u))^2 / lambda`` with
    ``u = (1 - eta) W1``: largest at u = 0.89, where 1 - eta is 8.3 times lambda."""
    u = torch.linspace(0, 3, 300001, dtype=torch.float64)
    value, at = (u * u.sigmoid() * (1 - u.sigmoid()) ** 2).max(0)
    found = {row.what: row.computed for row in propositions.findings()}
    for lam, what in ((1e-5, "eta of the largest W1"), (1e-4, "eta of the largest W1, lambda = 1e-4")):
        assert 1 - found[what] == pytest.approx(lam * u[at].item() / (2 * value.item()), rel=0.01)
    assert found["eta of the largest W1, lambda = 1e-4"] == pytest.approx(0.9992, abs=5e-5)
    assert found["eta of the largest W1"] == pytest.approx(0.99992, abs=5e-6)


def test_bias_rests_where_the_loss_is_least():
    eta2 = torch.linspace(0, 2, 9, dtype=torch.float64)
    b = stationary_bias(eta2)
    grid = torch.linspace(-20, 20, 40001, dtype=torch.float64)
    least = grid[loss(5.0, grid, 0.5, eta2.unsqueeze(1)).argmin(1)]
    torch.testing.assert_close(b, least, rtol=0, atol=1.1e-3)
    assert b[2].abs() < 1e-12  # eta2 = eta1: the boundary half-way
    assert b[4] > 1
    assert b[6] > 2.4


def test_every_claim_but_one_holds():
    """The paper has d2L/dW1^2 larger than normal training's; at the stationary points it is smaller throughout."""
    claims = propositions.proposition_1() | propositions.proposition_2() | propositions.proposition_3()
    assert [what for what, holds in claims.items() if not holds] == [
        "d2L/dW1^2 is larger than at eta = 0 for every eta < 1"
    ]
    eta = torch.tensor([0.0, 0.1, 0.5, 0.9, 0.999, 1.0])
    ww = curvature(stationary_weight(eta), 0.0, eta, eta)[2]
    assert (ww[1:] < ww[0]).all()


@pytest.mark.usefixtures("rendered")
def test_reproduce_writes_findings_and_figures(tmp_path):
    rows = propositions.reproduce(tmp_path / "new")
    with (tmp_path / "new" / "findings.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [row["what"] for row in written] == [row.what for row in rows]
    assert float(written[0]["computed"]) == pytest.approx(6.44723)
    figures = {path.name for path in (tmp_path / "new").glob("*.png")}
    assert figures == {"figure8.png", "figure9.png", "figure10.png", "figure11.png"}
