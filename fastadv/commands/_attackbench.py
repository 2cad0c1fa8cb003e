"""``fastadv attackbench``."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import report
from ..evaluation import LIBRARIES, NORMS, Asking, Bench, Contestants, Failure, Found, ask, contestants
from ..info import environment
from ..runs import Run, digest, names_apart, write_text
from ._batches import Batches, fingerprint
from ._networks import load_model, trained_on
from ._settings import Data, as_yaml, check_samples, listed
from ._terminal import console, first_line, progress, say

PAGE, WHOLE = "attackbench.md", "attackbench.json"


@dataclass
class BenchTest(Data):
    """Which attacks on which samples.

    Args:
        data: other data than those of training.
        norms: norms of perturbations, of linf, l2, l1 and l0.
        attacks: fastadv's attacks, such as ddn,fabt. By default all.
        libraries: other libraries, of adv-lib, foolbox, torchattacks, art and auto-attack; all or none. Those that are
            missing are listed.
        queries: forward and backward passes of every sample, together.
        limit: test samples, 0 for all. The first ones are taken.
        at_once: test samples attacked at a time.
        seed: of random numbers.
        resume: continue the benchmark in --out. Finished attacks are not run again.
    """

    data: str | None = None
    norms: str = ",".join(NORMS)
    attacks: str = ""
    libraries: str = "all"
    queries: int = 2000
    limit: int = 200
    at_once: int = 200
    seed: int = 0
    resume: bool = False

    def __post_init__(self) -> None:
        check_samples(self.limit, self.at_once)
        if self.queries < 1:
            raise ValueError(f"queries must be at least 1, got {self.queries}")
        if not listed(self.norms):
            raise ValueError(f"norms must be some of {', '.join(NORMS)}, got {self.norms!r}")

    def contestants(self, bounds: tuple[float, float]) -> Contestants:
        """Raises ValueError for a name that is unknown, and for a library that is named and missing."""
        names = libraries_named(self.libraries)
        how = {"attacks": listed(self.attacks), "libraries": names, "bounds": bounds, "seed": self.seed}
        found = contestants(listed(self.norms), self.queries, **how)
        if found.missing and self.libraries != "all":
            raise ValueError("; ".join(found.missing.values()))
        return found


def libraries_named(text: str) -> list[str]:
    """The names of libraries in a flag: some with commas between, ``all`` or ``none``."""
    return {"all": list(LIBRARIES), "none": []}.get(text, listed(text))


class Row(NamedTuple):
    """A line of a ranking, as it is printed."""

    library: str
    attack: str
    optimality: float


@dataclass(frozen=True)
class BenchPlan:
    """`attacks` on each of the `models` at the samples `x` with labels `y`."""

    data: str
    bounds: tuple[float, float]
    x: Tensor
    y: Tensor
    models: Mapping[str, nn.Module]
    taking_part: Contestants

    @property
    def work(self) -> list[tuple[str, Asking]]:
        return [(model, attack) for model in self.models for attack in self.taking_part.attacks]


def plan_bench(given: list[str], options: BenchTest) -> BenchPlan:
    """Everything that can be refused is refused here. Raises ValueError for models of one name, or unknown attacks."""
    test = options.named(trained_on(given[0]), given[0]).load("test")
    test = test.take(options.limit) if options.limit else test
    taking_part = options.contestants(test.bounds)
    models = {name: load_model(each, test)[0] for name, each in zip(names_apart(given), given, strict=True)}
    batches = list(test.batches(options.at_once))
    x, y = (torch.cat(column) for column in list(zip(*batches, strict=True))[:2])
    return BenchPlan(test.name, test.bounds, x, y, models, taking_part)


def run_bench(given: list[str], options: BenchTest, out: str) -> None:
    """``fastadv attackbench MODEL ...``: attacks ranked by the smallest perturbations they find."""
    plan = plan_bench(given, options)
    run = Run(out, as_yaml(options, models=given), environment(), resume=options.resume)
    say(f"{len(plan.work)} runs on {len(plan.models)} models, {len(plan.x)} samples, {options.queries} queries each")
    for norm in listed(options.norms):
        names = [each.name for each in plan.taking_part.attacks if each.norm == norm]
        say(f"  {report.NORM_NAMES[norm]}: {', '.join(names) or 'none'}")
    for name, reason in plan.taking_part.missing.items():
        say(f"  {name} takes no part: {reason}", "yellow")
    bench = measured(plan, options, run.folder)
    command = shlex.join(["fastadv", "attackbench", *given, *options_given(options), "--out", out])
    page = report.bench_page(bench, environment(), command)
    write_text(run.folder / PAGE, page)
    for norm in bench.found:
        rows = [Row(each.library, each.attack, each.optimality) for each in bench.standings(norm)[:10]]
        if rows:
            console.print(report.records_table(rows, f"{report.NORM_NAMES[norm]}: global optimality, the first ten"))
    report.write_bench(bench, environment(), run.folder / WHOLE)
    say(f"written: {run.folder / PAGE}, {run.folder / WHOLE}")


def options_given(options: BenchTest) -> list[str]:
    """The flags that are not as they are by default."""
    usual = BenchTest()
    flags = [field.name for field in fields(options) if field.name != "resume"]
    changed = [name for name in flags if getattr(options, name) != getattr(usual, name)]
    return [text for name in changed for text in (f"--{name}", str(getattr(options, name)))]


def measured(plan: BenchPlan, options: BenchTest, folder: Path) -> Bench:
    """What every attack found on every model; those that `folder` has from before are not run again."""
    found: dict[str, dict[str, dict[tuple[str, str], Found]]] = {
        norm: {model: {} for model in plan.models} for norm in listed(options.norms)
    }
    failed: list[Failure] = []
    stamp = torch.frombuffer(bytearray(digest(["samples", {"x": plan.x, "y": plan.y}]).encode()), dtype=torch.uint8)
    kept = {name: Batches(folder / "measured" / fingerprint(model)) for name, model in plan.models.items()}
    with progress("attacking", "runs") as step:
        for number, (model, attack) in enumerate(plan.work, 1):
            key = f"{attack.norm}-{attack.library}-{attack.attack}"
            part = kept[model].get(key)
            if part is None or not torch.equal(part["stamp"], stamp):
                try:
                    how = {"bounds": plan.bounds, "batch_size": options.at_once}
                    new = ask(plan.models[model], plan.x, plan.y, attack, options.queries, **how)
                except Exception as error:  # whatever a library raises is the result of its attack
                    failed.append(Failure(model, attack.norm, attack.library, attack.attack, first_line(error)))
                    say(f"{attack.name} in {attack.norm} failed on {model}: {first_line(error)}", "yellow")
                    continue
                part = {name: getattr(new, name) for name in ("distances", "forwards", "backwards")}
                part |= {"seconds": torch.tensor(new.seconds, dtype=torch.float64), "stamp": stamp}
                kept[model][key] = part
            columns = {name: part[name] for name in ("distances", "forwards", "backwards")}
            found[attack.norm][model][attack.library, attack.attack] = Found(**columns, seconds=float(part["seconds"]))
            step(number, len(plan.work))
    return Bench(plan.data, len(plan.x), options.queries, found, plan.taking_part.missing, failed)
