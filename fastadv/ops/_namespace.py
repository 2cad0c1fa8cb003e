"""Where torch has these ops: ``torch.ops.fastadv``."""

NAMESPACE = "fastadv"
