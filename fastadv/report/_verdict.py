"""What a report says first: the best model in the worst case, whether that is beyond chance, and what checks found."""

import json
from collections.abc import Sequence

import numpy as np

from ..evaluation import wilson
from ._bootstrap import paired_bootstrap
from ._compare import Tested


def verdict(models: Sequence[Tested]) -> str:
    """In a few sentences, how `models` fared, which were evaluated on the same samples."""
    attacks, right = worst_cases(models)
    return " ".join([_best(attacks, right), _checks(models)])


def worst_cases(models: Sequence[Tested]) -> tuple[list[str], dict[str, np.ndarray]]:
    """The attacks with a budget that all of `models` were measured under, as tables call them; and, by model, which
    samples [N] are classified correctly without an attack and under each of these.

    Attacks are the same where all of their settings are. Samples made on another network are left out.
    """
    rights: dict[str, dict[str, np.ndarray]] = {}
    heads: dict[str, str] = {}
    natural: dict[str, np.ndarray] = {}
    for model in (model for model in models if not model.source):
        found = rights.setdefault(model.label, {})
        natural.setdefault(model.label, model.right)
        for name in (name for name in model.results if name not in model.curves):
            key = json.dumps(model.kind(name), sort_keys=True)
            heads.setdefault(key, model.head(name))
            found[key] = model.run.samples[f"{model.name}/results/{name}/right"]
    shared = [key for key in heads if all(key in found for found in rights.values())]
    worst = {
        label: np.all([natural[label], *(found[key] for key in shared)], axis=0) for label, found in rights.items()
    }
    return [heads[key] for key in shared], worst


def _best(attacks: Sequence[str], right: dict[str, np.ndarray]) -> str:
    """Which model is right on most samples, and which of the others it cannot be told from."""
    if not attacks:
        return "No attack with a budget was run on all models, so there is no worst case to compare."
    best = max(right, key=lambda label: right[label].mean())
    n, count = len(right[best]), int(right[best].sum())
    low, high = wilson(count, n)
    figure = f"{100 * count / n:.1f} % of {n} test samples ({100 * low:.1f}-{100 * high:.1f})"
    under = f"under {_listed(attacks)}" if len(attacks) == 1 else f"in the worst case of {_listed(attacks)}"
    if len(right) == 1:
        return f"{best} classifies {figure} correctly {under}."
    others = [label for label in right if label != best]
    tied = [label for label in others if paired_bootstrap(right[best], right[label])[0] <= 0]
    lead = f"Best {under}: {best}, which classifies {figure} correctly."
    if not tied:
        return f"{lead} Its lead over {_named(others)} is larger than the choice of test samples explains."
    return f"{lead} The choice of test samples may explain its lead over {_named(tied)}."


def _checks(models: Sequence[Tested]) -> str:
    """What the checks found, by model."""
    found: dict[str, list[str]] = {}
    for model in models:
        for finding in model.about["findings"]:
            found.setdefault(finding["check"], []).append(model.label)
    if found:
        each = (f"{check} ({_named(list(dict.fromkeys(labels)))})" for check, labels in found.items())
        return f"The checks found: {'; '.join(each)}."
    unchecked = list(dict.fromkeys(model.label for model in models if model.run.config.get("checks") == 0))
    return f"No checks were made of {_named(unchecked)}." if unchecked else "The checks found nothing."


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _named(names: Sequence[str]) -> str:
    """Names in a sentence; of many, the first."""
    return _listed(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} others"
