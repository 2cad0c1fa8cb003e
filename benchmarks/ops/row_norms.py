from ._case import Case, samples


def usual(x, norm, origin):
    return (x - origin).flatten(1).norm(dim=1)


CASES = [Case("row_norms", lambda s: (samples(s)[0], "l2", samples(s)[2]), (2, 0), usual)]
