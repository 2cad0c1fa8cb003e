from ._case import OF_LOGITS, Case, logits

CASES = [Case("adversarial_labels", logits, (OF_LOGITS, OF_LOGITS))]
