"""``fastadv verify``."""

from .. import report
from ..evaluation import open_saved, verify
from ._networks import load_model
from ._settings import Data
from ._terminal import console, progress, say


def verify_samples(folder: str, given: str, device: str, at_once: int) -> bool:
    """``fastadv verify FOLDER --model MODEL``: whether all that is claimed of saved samples holds for the model."""
    if at_once < 1:
        raise ValueError(f"at_once must be a number of samples, got {at_once}")
    saved = open_saved(folder)
    model, name = load_model(given, saved.first().to(Data(device=device).pick_device()))
    with progress("verifying", "batches") as step:
        found = verify(folder, model, batch_size=at_once, on_step=step)
    console.print(report.records_table(found, f"claims of {folder}, and how many hold for {name}"))
    for row in found:
        for count, what in (
            (row.damaged, "samples in files that are missing or damaged"),
            (row.fooled - row.still_fooled, "samples that were claimed to be misclassified are not, or not there"),
            (row.within - row.still_within, "samples that were claimed to be within the budget are not, or not there"),
        ):
            if count:
                say(f"{row.attack}: {count} {what}", "red")
    holds = all(row.hold for row in found)
    say("all claims hold" if holds else "not all claims hold")
    return holds
