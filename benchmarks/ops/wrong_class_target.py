from ._case import OF_LOGITS, Case, logits

CASES = [Case("wrong_class_target", logits, (OF_LOGITS, 0))]
