"""The tables of dated records in benchmarks/results that are of a run of ``fastadv reproduce``: blocks, as on pages.

They say what a run measured, in the record's words and order. REPRODUCTION.md has the verdicts.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from .pages import LESS, ROOT_OF, Measured, in_markdown, with_blocks

# Runs by name, and not those that pages have now: a record stays what it was.
SHORT, SHORT_STRONGEST = "2026-11-21-blind-fashion-mnist", "2026-11-21-blind-fashion-mnist-autoattack"
WIDE, STRONGEST_70 = "2026-11-21-blind-fashion-mnist-wide", "2026-11-30-blind-fashion-mnist-70-autoattack"
FIGURE4, BILATERAL_RUN = "2026-11-21-blind-figure4", "2026-11-21-bilateral-fashion-mnist"
FRIENDLY_RUN, FRIENDLY_SEEDS = "2026-11-21-friendly-fashion-mnist", "2026-11-30-friendly-fashion-mnist-seeds"
FRIENDLY_AUTOATTACK = (f"{FRIENDLY_RUN}-autoattack-0.1", f"{FRIENDLY_RUN}-autoattack-0.2")
TAU, TRADES_RUN = "2026-11-21-friendly-fashion-mnist-tau", "2026-11-22-trades-fashion-mnist"
SMD_RUN, SPAT_RUN = "2026-11-22-smd-fashion-mnist", "2026-11-22-spat-fashion-mnist"
DRA_RUNS = ("2026-11-22-dra-fashion-mnist", "2026-11-22-dra-fashion-mnist-trades")

Lines = list[tuple[str, ...]]
ATTACKS = {"deepfool": "DeepFool", "cw": "C&W", "fgsm": "FGSM", "noise": "noise", "noise-sign": "noise of signs"}
ATTACKS |= {"pgd": "PGD-20", "pgd20": "PGD-20", "pgd-true": "PGD-20", "cw30": "C&W-inf", "autoattack": "AutoAttack"}
THREE = ("0.05", "0.1", "0.2")
GRADIENTS = {"all": "all", "correct": "correct ones", "wrong": "wrong ones"}
CLEAN = ("clean", "clean")


def _lines(attacks: Iterable[str], budgets: Iterable[str], text: str = "{} {}", source: str = "") -> Lines:
    """A line for each attack at each budget: its label and its figure."""
    made_on = f" from {source}" if source else ""
    return [(text.format(ATTACKS[name], eps), f"{name}{made_on} {eps}") for name in attacks for eps in budgets]


def _of(runs: Iterable[str], lines: Lines) -> Lines:
    return [(*line, *runs) for line in lines]


def _trained_by(columns: Mapping[str, str], lines: Lines) -> Measured:
    """A line for each way to train."""
    return Measured(columns, lines, False, "trained by", turned=True)


def _values(recipe: str, option: str, values: Mapping[str, str] | Iterable[str], lines: Lines) -> Measured:
    """A line for each value of an option."""
    heads = values if isinstance(values, Mapping) else dict(zip(values, values, strict=True))
    columns = {head: f"{recipe}/{option}={value}" for head, value in heads.items()}
    return Measured(columns, lines, False, {"cutoff": "eps", "attack.tau": "tau"}.get(option, option), turned=True)


def _columns(table: str, **rows: str) -> dict[str, str]:
    return {head: f"{table}-{row}" for row, head in rows.items()}


def _friendly(names: Mapping[str, str], eps: str) -> dict[str, str]:
    return {head: f"friendly-fashion-mnist-{name}-{eps}" for head, name in names.items()}


AVERAGES = [(f"DeepFool avg-AA({theta})", f"deepfool avg-AA({theta})") for theta in ("0.08", "0.04")]
DEEPFOOL = [*_lines(["deepfool"], THREE, "{} AA({})"), ("DeepFool norm (RMS)", "deepfool norm")]
CW = [*_lines(["cw"], ("0.03", "0.05", "0.1"), "{} AA({})"), ("C&W norm (RMS)", "cw norm")]
FROM_NT = "{} {}, from NT", "blind-fashion-mnist-nt"
SMALL = ("0.01", "0.03", "0.05")
BLIND = _columns("blind-fashion-mnist", nt="NT", fgsm="FGSM(0.1)", pgd="PGD(0.1)")
BLIND |= {"DF-AT": "blind-fashion-mnist-df-at", "BAT": "blind-fashion-mnist-bat"}
BLIND_SHORT = [
    *(CLEAN, *AVERAGES, *DEEPFOOL, *CW, *_lines(["fgsm", "noise", "pgd"], THREE)),
    *(*_lines(["deepfool", "cw"], SMALL, *FROM_NT), *_lines(["fgsm", "pgd"], THREE, *FROM_NT)),
    *(*_lines(["noise-sign"], THREE), *_lines(["pgd-true"], THREE, "{} {}, true label")),
    *(
        (f"DeepFool-50 {figure}, true label", f"deepfool-50-true {figure}")
        for figure in ("avg-AA(0.08)", "avg-AA(0.04)")
    ),
]
BLIND_WIDE = [
    *(CLEAN, *AVERAGES, *DEEPFOOL, *_lines(["fgsm", "noise", "pgd"], THREE)),
    *(*_lines(["deepfool"], SMALL, *FROM_NT), *_lines(["fgsm", "pgd"], THREE, *FROM_NT)),
]
BLIND_70 = [CLEAN, *_lines(["pgd-true"], THREE, "{} at {}, true label"), ("AutoAttack at 0.1", "autoattack 0.1")]
MNIST_RUN = "2026-11-30-blind-mnist-10k"
MNIST = _columns("blind-mnist", nt="NT", fgsm="FGSM(0.3)", pgd="PGD(0.3)")
MNIST |= {"DF-AT": "blind-mnist-df-at", "BAT": "blind-mnist-bat"}
MNIST_LINES = [CLEAN, *((f"DeepFool avg-AA({theta})", f"deepfool avg-AA({theta})") for theta in ("0.13", "0.07"))]
MNIST_LINES += [("DeepFool norm (RMS)", "deepfool norm"), ("C&W norm (RMS)", "cw norm")]
MNIST_LINES += _lines(["fgsm", "pgd"], ["0.3"], "{} at {}")
MNIST_LINES += [("PGD-20 at 0.3, true label", "pgd-true 0.3"), ("AutoAttack at 0.2, true label", "autoattack 0.2")]
BLIND_SEEDS, THESIS_RUN = "2026-12-01-blind-fashion-mnist-seeds", "2026-12-01-thesis-mnist-10k"
BLIND_SEEDS_LINES = [CLEAN, *AVERAGES, *DEEPFOOL, *_lines(["fgsm", "pgd"], THREE)]
THESIS = _columns("spat-table3.2", **{name: name.upper() for name in ("spat", "alp", "trades", "mart")}, madry="Madry")
THESIS_LINES = [CLEAN, *((ATTACKS[name], f"{name} 0.3") for name in ("fgsm", "pgd20", "cw30"))]
THESIS_LINES += [("PGD-20, from normal training", "pgd20 from spat-mnist-standard 0.3")]
THESIS_41 = _columns("dra-table4.1-mnist", madry="Madry", mart="MART")
THESIS_41 |= {f"TRADES, 1/lambda {beta}": f"dra-table4.1-mnist-trades-{beta}" for beta in (1, 6)}
FIGURE4_LINES = [CLEAN, ("avg-AA(0.3)", "deepfool avg-AA(0.3)")]
FIGURE4_LINES += [(f"AA({eps})", f"deepfool {eps}") for eps in ("0.01", *THREE, "0.3")]
CUTOFFS = {value: value for value in ("0", "0.02", "0.05", "0.1", "0.2", "1")} | {"mean of the batch": "None"}
BILATERAL = [
    *(CLEAN, *((name.upper(), name) for name in ("fgsm", "ce7", "ce20", "cw20")), ("AutoAttack", "autoattack")),
    ("CE20 above AutoAttack, points", f"ce20{LESS}autoattack"),
    *((f"squared gradient, mean of {words}", f"gradient {of} mean") for of, words in GRADIENTS.items()),
    *((f"root of that mean of {words}", f"{ROOT_OF}gradient {of} mean") for of, words in GRADIENTS.items()),
]
BEFORE, AFTER = _lines(["fgsm", "pgd20", "cw30"], ["0.1"]), _lines(["fgsm", "pgd20", "cw30"], ["0.2"])
STRONGEST = [("AutoAttack 0.1", "autoattack 0.1", *FRIENDLY_AUTOATTACK)]
FRIENDLY = [*_of([FRIENDLY_RUN], [CLEAN, *BEFORE]), *STRONGEST, *_of([FRIENDLY_RUN], AFTER)]
TWINS = {"Madry": "madry", "FAT": "friendly", "TRADES": "trades", "FAT for TRADES": "friendly-trades"}
TWINS |= {"MART": "mart", "FAT for MART": "friendly-mart"}
TRADES = {eps: f"friendly-fashion-mnist-trades-{eps}" for eps in ("0.1", "0.2")}
SPAT = [CLEAN, *((ATTACKS[name], f"{name} 0.1") for name in ("fgsm", "pgd20", "cw30", "autoattack"))]
SPAT += [("PGD-20 less AutoAttack", f"pgd20 0.1{LESS}autoattack 0.1")]
SPAT += [("transfer", "pgd20 from spat-fashion-mnist-madry 0.1")]
SPAT_COLUMNS = _columns(
    "spat-fashion-mnist",
    **{name: name.upper() for name in ("spat", "alp", "trades", "gairat", "mart")},
    madry="Madry",
    mail="MAIL",
)
DRA = [CLEAN, *_lines(["fgsm", "pgd20", "autoattack"], ["0.05"])]
DRA += _lines(["fgsm", "pgd20", "cw30", "autoattack"], ["0.1"])
DRA_COLUMNS = {"normal training": "dra-fashion-mnist-standard"}
DRA_COLUMNS |= {f"fine-tuned with {name.upper()}": f"dra-fashion-mnist-{name}" for name in ("dra", "pgd")}
DRA_COLUMNS |= {f"TRADES, beta {beta}": f"dra-fashion-mnist-trades-{beta}" for beta in ("0.1", "0.5")}
DRA_EQUAL = "2026-11-30-dra-fashion-mnist"
SPAT_AGAIN = "2026-11-30-spat-fashion-mnist"
BILATERAL_COLUMNS = {
    name.upper(): f"bilateral-fashion-mnist-{name}" for name in ("r-fgsm", "r-mc", "r-mc-ls", "r-mc-la")
}
BILATERAL_COLUMNS |= {"Madry, 7 steps": "bilateral-fashion-mnist-madry"}
BILATERAL_COLUMNS |= {"undefended": "bilateral-fashion-mnist-undefended"}
SMD = [CLEAN, *((f"AutoAttack at {n}/255", f"autoattack {n / 255:.4g}") for n in (2, 4, 8))]
SMD += [("mean of these four", "average autoattack")]
SMD_ROWS = {"SMD": "smd", "TRADES, 8/255": "tr-b6-8", "AT, 8/255": "at8", "AT, 4/255": "at4", "FAT, 8/255": "fat8"}
SMD_ROWS |= {"GAIRAT, 8/255": "gai8", "MMA, 12/255": "mma12", "normal": "std"}
SMD_AGAIN = "2026-12-01-smd-fashion-mnist"
SMD_FOUR = {head: f"smd-table2b-{SMD_ROWS[head]}" for head in ("SMD", "TRADES, 8/255", "AT, 8/255", "normal")}

RECORDS: dict[str, Measured] = {
    "blind": Measured(
        BLIND,
        [*_of([SHORT], BLIND_SHORT), ("AutoAttack 0.1, true label, 500 images", "autoattack 0.1", SHORT_STRONGEST)],
        False,
        "measured (printed)",
    ),
    "blind_wide": Measured(BLIND, _of([WIDE], BLIND_WIDE), False, "measured (printed)"),
    "blind_70": Measured(BLIND, _of([STRONGEST_70], BLIND_70), False, "% of 1,000 images (printed)"),
    "blind_mnist": Measured(MNIST, _of([MNIST_RUN], MNIST_LINES), False, "measured (printed)"),
    "blind_seeds": Measured(BLIND, _of([BLIND_SEEDS], BLIND_SEEDS_LINES), False, "measured (printed)"),
    "thesis_mnist": _trained_by(THESIS, _of([THESIS_RUN], THESIS_LINES)),
    "thesis_4_1": _trained_by(THESIS_41, _of([THESIS_RUN], [CLEAN, ("PGD-20", "pgd20 0.3")])),
    "cutoff": _values("blind-figure4-cutoff", "cutoff", CUTOFFS, _of([FIGURE4], FIGURE4_LINES)),
    "scale": _values(
        "blind-figure4-scale", "rho", ("0", "0.2", "0.4", "0.6", "0.8", "0.9", "1"), _of([FIGURE4], FIGURE4_LINES)
    ),
    "bilateral": Measured(
        BILATERAL_COLUMNS,
        _of([BILATERAL_RUN], BILATERAL),
        False,
        "accuracy in %",
    ),
    "friendly_1": _trained_by(_friendly(TWINS, "0.1"), FRIENDLY),
    "friendly_2": _trained_by(_friendly(TWINS, "0.2"), FRIENDLY),
    "tau": _values(
        "friendly-fashion-mnist-tau",
        "attack.tau",
        ("0", "1", "2", "3", "5", "10"),
        _of([TAU], [CLEAN, *BEFORE, ("AutoAttack 0.1", "autoattack 0.1"), ("PGD-20 0.2", "pgd20 0.2")]),
    ),
    "seeds": Measured(_friendly(TWINS, "0.1"), _of([FRIENDLY_SEEDS], [CLEAN, *BEFORE, *AFTER]), False, "%"),
    "published": Measured(TRADES, _of([TRADES_RUN], [CLEAN, *BEFORE, *AFTER]), False, "eps in training", turned=True),
    "clipped": Measured(TRADES, _of([FRIENDLY_RUN], [CLEAN, *BEFORE, *AFTER]), False, "eps in training", turned=True),
    "smd_again": _trained_by(SMD_FOUR, _of([SMD_AGAIN], SMD)),
    "smd": _trained_by({head: f"smd-table2b-{row}" for head, row in SMD_ROWS.items()}, _of([SMD_RUN], SMD)),
    "spat": _trained_by(SPAT_COLUMNS, _of([SPAT_RUN], SPAT)),
    "spat_again": _trained_by(SPAT_COLUMNS, _of([SPAT_AGAIN], SPAT)),
    "dra": _trained_by(DRA_COLUMNS, _of(DRA_RUNS, DRA)),
    "dra_equal": _trained_by(DRA_COLUMNS, _of([DRA_EQUAL], [*DRA, ("15 corruptions", "corruptions mean")])),
}
"""By block."""


def paths(results: Path) -> list[Path]:
    """The records that have blocks."""
    return [path for path in sorted(results.glob("*.md")) if "<!-- generated: " in path.read_text(encoding="utf-8")]


def rewritten(path: Path, results: Path) -> str:
    """A record with its blocks as the files under `results` have them."""
    text = path.read_text(encoding="utf-8")
    return with_blocks(text, lambda name: in_markdown(RECORDS[name], results))
