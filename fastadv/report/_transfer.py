"""Heat maps of transfer between models."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from ..evaluation import TransferRow
from ._plots import save


def plot_transfer(rows: Sequence[TransferRow], title: str, path: Path) -> Path:
    """A panel an attack: accuracy in percent, a row a source of samples, a column a model.

    The first row is of the clean samples. The darker, the less is left.
    """
    targets = list(dict.fromkeys(row.target for row in rows))
    attacks = list(dict.fromkeys(row.attack for row in rows if row.source))
    side = 1.5 + 0.8 * len(targets)
    figure = Figure(figsize=((side + 0.5) * len(attacks) + 1, side + 0.8), layout="constrained")
    for panel, attack in zip(figure.subplots(1, len(attacks), squeeze=False)[0], attacks, strict=True):
        found = {(row.source, row.target): 100 * row.accuracy for row in rows if row.attack in (attack, "clean")}
        values = [[found[source, target] for target in targets] for source in ("", *targets)]
        image = panel.imshow(values, cmap="viridis", vmin=0, vmax=100)
        for i, line in enumerate(values):
            for j, value in enumerate(line):
                panel.text(j, i, f"{value:.1f}", ha="center", va="center", color="black" if value > 60 else "white")
        panel.set_xticks(range(len(targets)), targets, rotation=45, ha="right", rotation_mode="anchor")
        panel.set_yticks(range(len(targets) + 1), ["clean", *targets])
        panel.set(title=attack, xlabel="tried on", ylabel="made on")
    figure.colorbar(image, ax=figure.axes, label="accuracy, %", shrink=0.8)
    figure.suptitle(title, fontsize="medium", wrap=True)
    return save(figure, path)
