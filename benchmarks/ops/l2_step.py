from ._case import BOX, Case, columns, samples


def usual(x_adv, grad, x, step_size, eps, lo, hi, active):
    rows = (-1, 1, 1, 1)
    length = grad.flatten(1).norm(dim=1) + 1e-12
    delta = x_adv + (step_size / length).view(rows) * grad - x
    delta = delta * (eps / (delta.flatten(1).norm(dim=1) + 1e-12)).clamp(max=1).view(rows)
    x_adv.copy_((x + delta).clamp(lo, hi))


CASES = [Case("l2_step", lambda s: (*samples(s), *columns(s, 0.3, 2.0), *BOX), (3, 1), usual)]
