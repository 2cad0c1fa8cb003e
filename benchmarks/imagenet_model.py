"""One ImageNet run on paper: ``python -m benchmarks.imagenet_model`` prints the tables of docs/distributed.md.

ResNet-50 by PGD-3 (`Madry`), on nodes of 8 GPUs. A step takes the longest of what the GPUs compute, what a process can
launch and what can be read, and then what of the network's time does not fit beside the backward pass of training.
These are **predictions** from `Assumed`, which nobody has measured.
"""

from dataclasses import dataclass

GB, MB = 1e9, 1e6


@dataclass(frozen=True)
class Assumed:
    """What the prediction stands on; rates are a second."""

    parameters: float = 25.6e6  # of ResNet-50
    macs: float = (
        4.1e9  # of its forward pass at 224x224; a backward pass to the inputs takes as many, to the weights too
    )
    activations: float = 11.1e6  # numbers that its convolutions give for an image
    kernels: int = 175  # of a pass in one direction: convolutions, batch norms, ReLUs
    attack_steps: int = 3
    images: int = 1_281_167
    epochs: int = 90
    peak: float = 989e12  # operations of an H100 in bfloat16, dense
    share: float = 0.10  # of that peak, in convolutions with batch norm
    launch: float = 5e-6  # seconds of the host for a kernel
    node: int = 8  # GPUs of a node
    nvlink: float = 450 * GB  # of a GPU, in one direction
    hop: float = 10e-6  # seconds from one GPU of a ring to the next
    buckets: int = 5  # of 25 MB, in which gradients are exchanged
    blocks: int = 5  # of the network that shards gather one after the other: four, and what is outside of them
    cores: int = 12  # for every GPU
    decode: float = 150.0  # images a core reads, decodes and crops
    saved: int = 2  # how many tensors of the size of `activations` a pass keeps, in bfloat16
    again: float = 0.3  # of those, with checkpointing: what goes into 16 blocks, and the inside of one


NETWORKS = {"8 x 400 Gb/s a node": 400 * GB, "100 Gb/s a node": 12.5 * GB}
"""Bytes a second in and out of a node."""


@dataclass(frozen=True)
class Step:
    """A step, in seconds and bytes of a GPU."""

    compute: float
    launches: float
    reading: float
    network: float
    hidden: float  # the time beside which gradients can be exchanged
    traffic: float

    @property
    def seconds(self) -> float:
        return max(self.compute, self.launches, self.reading) + max(self.network - self.hidden, 0)

    @property
    def bound(self) -> str:
        """What the step waits for."""
        beside = max(self.network - self.hidden, 0)
        parts = {"GPU": self.compute, "launches": self.launches, "reading images": self.reading, "network": beside}
        return max(parts, key=parts.get)


def passes(of: Assumed) -> tuple[int, int]:
    """Of a step, passes as long as a forward pass: those of the attack, and those of training."""
    return 2 * of.attack_steps, 3


def moved(n: int, way: str, of: Assumed) -> float:
    """Bytes that a GPU sends in a step: with whole weights in float32 in every process, or in shards."""
    whole = 4 * of.parameters * (n - 1) / n
    gathers = {
        "DDP": 2,  # the all-reduce of gradients is a reduce-scatter and a gather
        "sharded": 1 + 2 + 1,  # for the attack, for both directions of training, and a reduce-scatter
        "gathered a pass": 2 * of.attack_steps + 2 + 1,
    }
    return gathers[way] * whole


def collectives(way: str, of: Assumed) -> int:
    """How often a ring goes round in a step."""
    passes = {"sharded": 2 + 1, "gathered a pass": 2 * of.attack_steps + 2 + 1}  # the last scatters gradients
    whole = {"sharded": 1, "gathered a pass": 0}  # gathers of all weights at once, for the attack
    return 2 * of.buckets if way == "DDP" else passes[way] * of.blocks + whole[way]


def step(n: int, batch: int, way: str, between: float, of: Assumed) -> Step:
    """A step of `n` GPUs on a whole batch of so many images, with `between` bytes a second in and out of a node."""
    attack, training = passes(of)
    each, rate = batch / n, 2 * of.macs / (of.peak * of.share)
    bandwidth = of.nvlink if n <= of.node else min(of.nvlink, between)
    traffic = moved(n, way, of)
    return Step(
        compute=each * rate * (attack + training),
        launches=of.kernels * of.launch * (attack + training),
        reading=each / (of.cores * of.decode),
        network=traffic / bandwidth + collectives(way, of) * (n - 1) * of.hop,
        hidden=each * rate * 2,
        traffic=traffic,
    )


def weights(n: int, way: str, of: Assumed) -> float:
    """Bytes of a GPU for float32 weights, their gradients, SGD's momentum, and where gradients are exchanged."""
    each = {"DDP": 16, "sharded": 4 + 12 / n, "gathered a pass": 16 / n}
    return each[way] * of.parameters


def memory(images: int, of: Assumed, checkpointing: bool = False) -> float:
    """Bytes of a GPU with so many images, under DistributedDataParallel."""
    kept = 2 * of.saved * of.activations * images
    return weights(8, "DDP", of) + kept * (of.again if checkpointing else 1)


def scaling(of: Assumed) -> list[str]:
    """The rows of the table over GPUs."""
    rows = []
    for name, between in NETWORKS.items():
        for n, whole in ((8, 1024), (16, 1024), (32, 1024), (64, 1024), (64, 8192)):
            found = step(n, whole, "DDP", between, of)
            hours = of.epochs * of.images / whole * found.seconds / 3600
            cells = [name, n, whole, whole // n, f"{1e3 * found.seconds:.0f} ms", f"{whole / found.seconds:,.0f}"]
            rows.append([*cells, f"{hours:.1f} h", f"{1e3 * found.network:.1f} ms", found.bound])
    return rows


def ways(of: Assumed, n: int = 64, each: int = 16) -> list[list[str]]:
    """The rows of the table over DDP and shards."""
    rows = []
    names = {
        "DDP": "DistributedDataParallel",
        "sharded": "`sharded`",
        "gathered a pass": "FSDP, gathered for all passes",
    }
    for way, name in names.items():
        found = [step(n, n * each, way, between, of) for between in NETWORKS.values()]
        cells = [name, f"{found[0].traffic / MB:,.0f} MB"]
        cells += [f"{1e3 * each.network:.1f} of {1e3 * each.seconds:.1f} ms" for each in found]
        rows.append([*cells, f"{weights(n, way, of) / MB:,.0f} MB"])
    return rows


def shares(of: Assumed, batch: int = 1024, n: int = 8) -> list[list[str]]:
    """The rows of the table over the share of the peak."""
    rows = []
    for share in (0.05, 0.10, 0.20, 0.40):
        changed = Assumed(**{**vars(of), "share": share})
        found = step(n, batch, "DDP", NETWORKS["8 x 400 Gb/s a node"], changed)
        hours = of.epochs * of.images / batch * found.seconds / 3600
        cores = batch / n / found.compute / of.decode
        rows.append([f"{share:.0%}", f"{1e3 * found.seconds:.0f} ms", f"{hours:.1f} h", found.bound, f"{cores:.0f}"])
    return rows


def table(head: str, rows: list[list[object]]) -> str:
    """Rows in Markdown."""
    lines = [head, "| " + " | ".join("---" for _ in rows[0]) + " |"]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)]) + "\n"


def tables(of: Assumed | None = None) -> str:
    """What the page has."""
    of = of or Assumed()
    first = table(
        "| between nodes | GPUs | batch | a GPU | a step | images/s | 90 epochs | all-reduce | waits for |", scaling(of)
    )
    fast, slow = NETWORKS
    second = table(
        f"| 64 GPUs, 16 images each | sent a step | network, {fast} | {slow} | weights and optimiser |", ways(of)
    )
    third = table("| share of the peak | a step | 90 epochs | waits for | cores a GPU to keep up |", shares(of))
    kept = [
        [images, *(f"{memory(images, of, checkpointing) / GB:.1f} GB" for checkpointing in (False, True))]
        for images in (16, 128, 512)
    ]
    fourth = table("| images a GPU | memory | with checkpointing |", kept)
    return "\n".join((first, second, third, fourth))


if __name__ == "__main__":
    print(tables())
