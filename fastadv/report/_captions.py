"""What to read from the figures of a report."""

from collections.abc import Mapping
from typing import Any

AA = (
    "The higher the curve, the more of the budgets the model withstands. The legend has the average up to the dashed "
    "line"
)
MARGINS = "The farther to the right, the more it takes to fool the model. The last bin holds all larger margins"
OVER = {
    "eps": "Lines should fall to 0 at large budgets; one that stays above hints at gradient masking",
    "steps": "A line that still falls at its right end needs more steps before its accuracy can be trusted",
}
BAND = (
    "The robust accuracy lies in the band: at least what is certified (dashed), at most what attacks leave. Where the "
    "band is wide, neither bounds nor attacks are tight"
)
SMOOTHED = (
    "Of the smoothed classifier, which gives the class that the network predicts most often under noise. It is another "
    "classifier than the network, whose robust accuracy this does not bound"
)
TRANSFER = "Brighter squares withstand more. Samples from another network should fool a model less than its own"
CORRUPTIONS = "Longer bars are better; compare them with the model's bar for clean images"

_TRAINING = {
    "loss": "Methods minimise different losses: read whether a line falls and levels off, not which is lower",
    "clean_accuracy": "On training samples, while the network changes. Far above the test's accuracy, it overfits",
    "lr": "What the schedule made of the learning rate",
    "gradients": "How many gradients the attack takes for a sample: what an epoch costs beyond normal training",
    "mean_norm": "The mean size of perturbations before the cutoff. It grows as the decision boundary moves away",
    "distance": "The mean distance to the boundary that the method estimates. It should grow",
    "label_budget": "How much of the true label's probability adversarial labels give to other classes",
    "avg_aa": "On held-out samples, under the same attack for all: the best epoch is at the top of the line",
    "held_out_accuracy": "On held-out samples, without an attack. A line that falls while the loss does, overfits",
}
_OWN = {
    "examples": "Top: clean images; below: each model's perturbations, adversarial images. Red predictions are wrong",
    "noise": "Top: clean images; below: each attack's perturbations, adversarial images. Red predictions are wrong",
    "margins": "Margins of training samples move to the right as training goes on",
    "features": "A colour is a class: the more colours mix, the less a layer tells classes apart",
    "confusion": "A row is a true class, a column the class that its samples are taken for under attack",
}


def training_caption(key: str, attacks: Mapping[str, Mapping[str, Any]]) -> str:
    """What to read from the curve of `key`, a figure of training with the `attacks` of each run."""
    if key != "adversarial_accuracy":
        return _TRAINING.get(key, "What the method reports, as the mean of each epoch")
    if any(attack != next(iter(attacks.values())) for attack in attacks.values()):
        return (
            "Each run is measured on the samples of its own attack, which the legend names: only lines of the same "
            "attack can be compared"
        )
    return "On training samples under the same attack. Far above the test's accuracy under it, the network overfits"


def own_caption(stem: str) -> str:
    """What to read from a figure that a run drew, by the name of its file."""
    return next((text for name, text in _OWN.items() if stem.startswith(name)), "Drawn by the run itself")


def attack_notes(attacks: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """For every run, its attack as far as it differs from that of another; empty where all are the same."""
    kinds = list(attacks.values())
    if all(attack == kinds[0] for attack in kinds):
        return {}
    differing = [key for key in dict.fromkeys(key for kind in kinds for key in kind) if _differ(key, kinds)]
    shown = dict.fromkeys(["steps", "eps", *differing])
    return {
        label: " ".join(
            [str(kind.get("class", "unknown attack")), *(_said(key, kind[key]) for key in shown if key in kind)]
        )
        for label, kind in attacks.items()
    }


def _differ(key: str, kinds: list[Mapping[str, Any]]) -> bool:
    """Whether attacks of one class differ in `key`."""
    return key != "class" and any(
        a.get("class") == b.get("class") and a.get(key) != b.get(key) for a in kinds for b in kinds
    )


def _said(key: str, value: Any) -> str:
    return f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
