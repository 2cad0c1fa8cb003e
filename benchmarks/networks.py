"""PGD on six kinds of networks, beside its bare passes and torchattacks: `python -m benchmarks.networks [RESULTS.md]`.

Every side by turns in one process; the shortest of its rounds counts, because other jobs only ever add time. Writes the
table, and beside it all seconds as JSON.
"""

import json
import platform
import sys
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from fastadv.attacks import PGD, Tuned

from .models import SIX
from .peers import passes, torchattacks
from .timing import Timed

EPS, ALPHA, STEPS = 8 / 255, 2 / 255, 5
ROUNDS, SLOW = 6, 5.0  # what took so many times as long as the bare passes when it warmed up is not timed again
IMAGES = {"LeNet-5": 256, "small CNN": 32, "small ViT": 32, "depthwise CNN": 32}
"""Of other networks, 8."""


def sides(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Callable[[], object]]:
    """What is timed; each gives adversarial samples, but for the bare passes."""
    own = PGD(EPS, ALPHA, STEPS, random_start=0.0, seed=0)
    theirs = torchattacks("PGD", eps=EPS, alpha=ALPHA, steps=STEPS, random_start=False)
    ways = {
        "contiguous": model,
        "channels_last": Tuned(model, memory_format=torch.channels_last),
        "bf16": Tuned(model, memory_format=torch.contiguous_format, dtype=torch.bfloat16),
        "bf16, channels_last": Tuned(model, memory_format=torch.channels_last, dtype=torch.bfloat16),
    }
    return {
        "bare passes": partial(passes(STEPS)(model), x, y),
        "torchattacks": partial(theirs(model), x, y),
        **{name: partial(own, way.eval(), x, y) for name, way in ways.items()},
    }


def measure(name: str) -> dict[str, Timed]:
    """The seconds of each side on one of `SIX`."""
    kind, shape = SIX[name]
    torch.manual_seed(0)
    model, x = kind(shape, 10).eval(), torch.rand(IMAGES.get(name, 8), *shape)
    timed = {side: Timed(call) for side, call in sides(model, x, torch.arange(len(x)) % 10).items()}
    for each in timed.values():
        each()
    slow = SLOW * timed["bare passes"].seconds[0]
    for _ in range(ROUNDS):
        for each in timed.values():
            if each.seconds[0] < slow:
                each()
    return timed


def table(found: dict[str, dict[str, Timed]]) -> str:
    """Markdown, from the sides of each network."""
    lines = [
        "| network | over the bare passes: torchattacks | fastadv, contiguous | channels_last | bf16, the best "
        "| times torchattacks' speed: float32, the best | bf16 |",
        "| --- | --: | --: | --: | --: | --: | --: |",
    ]
    for name, timed in found.items():
        side = {each: min(of.seconds) for each, of in timed.items()}
        bare, theirs = side["bare passes"], side["torchattacks"]
        bf16 = min(side["bf16"], side["bf16, channels_last"])
        float32 = min(side["contiguous"], side["channels_last"])
        shares = (theirs, side["contiguous"], side["channels_last"], bf16)
        cells = [f"{share / bare:.2f}" for share in shares] + [f"{theirs / own:.2f}" for own in (float32, bf16)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(page: Path | None) -> None:
    found = {}
    for name in SIX:
        found[name] = measure(name)
        print(table({name: found[name]}).splitlines()[-1], file=sys.stderr, flush=True)
    text = table(found)
    print(text)
    if page:
        about = {"date": str(date.today()), "torch": torch.__version__, "threads": torch.get_num_threads()}
        about |= {"cpu": torch.backends.cpu.get_cpu_capability(), "machine": platform.machine()}
        about["seconds"] = {name: {side: each.seconds for side, each in timed.items()} for name, timed in found.items()}
        page.with_suffix(".json").write_text(json.dumps(about, indent=1) + "\n")
        page.write_text(page.read_text().partition("<!-- table -->")[0] + f"<!-- table -->\n\n{text}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
