from ._case import BOX, Case, columns, samples


def usual(x_adv, grad, x, step_size, eps, lo, hi, active):
    """As in adv-lib's FMN, whose count is the largest of the batch."""
    rows = (-1, 1, 1, 1)
    delta = (x_adv + (step_size / grad.flatten(1).norm(dim=1)).view(rows) * grad - x).flatten(1)
    size = delta.abs()
    least = size.topk(int(eps.max()), dim=1).values[:, -1:]
    x_adv.copy_((x + delta.masked_fill(size < least, 0).view_as(x)).clamp(lo, hi))


CASES = [Case("l0_step", lambda s: (*samples(s), *columns(s, 0.3, 40.0), *BOX), (3, 1), usual)]
