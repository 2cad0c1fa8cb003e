from ._case import BOX, Case, columns, samples

CASES = [Case("l1_step", lambda s: (*samples(s), *columns(s, 30.0, 60.0), *BOX), (3, 1))]
