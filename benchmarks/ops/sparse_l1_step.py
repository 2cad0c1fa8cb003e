from ._case import BOX, Case, columns, samples

CASES = [Case("sparse_l1_step", lambda s: (*samples(s), *columns(s, 12.0, 12.0, 300.0), *BOX), (3, 1))]
