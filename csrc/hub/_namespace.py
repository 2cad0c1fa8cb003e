"""Where torch has these ops: kernel-builder gives every version of a kernel a namespace of its own."""

from ._ops import add_op_namespace_prefix

NAMESPACE = add_op_namespace_prefix("").removesuffix("::")
