"""Steps of attacks as graphs: on the CPU with a stand-in that replays calls on the memory of the first time."""

import copy
import dataclasses
import pickle
import warnings

import pytest
import torch
from replay import recorded
from test_attacks import SHAPE
from torch import Tensor, nn
from toys import BatchNormNet, labels, samples

from fastadv.attacks import (
    ALMA,
    APGD,
    APGDT,
    ATTACKS,
    CW,
    DDN,
    DRA,
    EAD,
    EPGD,
    FAB,
    FABT,
    FMN,
    MIFGSM,
    PDGD,
    PDPGD,
    PGD,
    APGDRounds,
    Attack,
    CWLinf,
    DeepFool,
    DynamicPGD,
    FriendlyPGD,
    SigmaZero,
    Square,
    Tuned,
    _ascend,
    _graphs,
)
from fastadv.threats import ThreatModel

pytestmark = pytest.mark.usefixtures("seed_zero")

CASES: dict[str, Attack] = {
    "pgd": PGD(0.1, 0.02, 6),
    "pgd restarts": PGD(0.1, 0.02, 3, restarts=3),
    "pgd targeted": PGD(0.1, 0.02, 6, targeted=True),
    **{f"pgd {loss}": PGD(0.1, 0.02, 4, loss=loss) for loss in ("margin", "slm", "dlr", "kl", "spat")},
    **{f"pgd {norm}": PGD(1.0, 0.3, 4, norm=norm) for norm in ("l2", "l1")},
    "pgd masked": ThreatModel(PGD(1.0, 0.3, 4, norm="l2"), mask=torch.eye(4)),
    "mifgsm": MIFGSM(0.1, 0.02, 5),
    "dra": DRA(0.05),
    "epgd": EPGD(0.1, steps=5),
    "friendly": FriendlyPGD(0.2, 0.02, 9, tau=1),
    "friendly kl": FriendlyPGD(0.2, 0.02, 9, loss="kl"),
    "friendly omega": FriendlyPGD(0.2, 0.02, 9, omega=0.001),
    "dynamic": DynamicPGD(0.1, 0.02, 7, fosc=0.3),
    "ddn": DDN(steps=12),
    **{f"fmn {norm}": FMN(steps=12, norm=norm) for norm in ("l0", "l1", "l2", "linf")},
    "sigmazero": SigmaZero(steps=12),
    "pdgd": PDGD(steps=12),
    **{f"pdpgd {norm}": PDPGD(steps=8, norm=norm) for norm in ("l0", "l1", "l2", "linf")},
    **{f"alma {norm}": ALMA(steps=12, norm=norm) for norm in ("l1", "l2")},
    "apgd l1": APGD(1.0, 15, norm="l1"),
    "cw": CW(steps=12, binary_search_steps=3),
    "ead": EAD(steps=12, binary_search_steps=3, initial_const=0.1),
    "cwlinf": CWLinf(steps=8),
    "apgd": APGD(0.1, 20),
    "apgd l2": APGD(1.0, 15, norm="l2", loss="dlr"),
    "apgd eot": APGD(0.1, 8, eot=2),
    "apgdrounds": APGDRounds(0.05),
    "apgdt": APGDT(0.05, 10, targets=3),
    "fab": FAB(steps=5),
    "fabt": FABT(steps=6, targets=2, enough=0.05),
    "deepfool": DeepFool(steps=7),
    "deepfool original": DeepFool(steps=7, convention="original", candidates=3),
    "square": Square(0.1, 30),
    **{
        name: kind()
        for name, kind in ATTACKS.items()
        if name in ("fgsm", "rfgsm", "onestep", "anpgd", "nifgsm", "sinifgsm", "vmifgsm", "vnifgsm", "tpgd", "eotpgd")
    },
}


class Rowwise(nn.Module):
    """Computes each sample by itself, to the bit, whatever the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 48, generator=torch.Generator().manual_seed(1)))

    def forward(self, x: Tensor) -> Tensor:
        return ((3 * x.flatten(1)).sin().unsqueeze(1) * self.weight).sum(dim=2)


@pytest.fixture
def graphs_here(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Graphs on the CPU; counts those that are recorded."""
    made: list[int] = []

    def record(run, practise, pool):
        made.append(1)
        return recorded(run, practise, pool)

    monkeypatch.setattr(_graphs, "recorded", record)
    monkeypatch.setattr(_ascend, "graphs_of", lambda model, x: getattr(model, "graphs", None))
    monkeypatch.setitem(_ascend._EVERY, "cpu", 3)
    return made


def assert_same(model: nn.Module, graphed: nn.Module, attack: Attack, count: int) -> None:
    x, y, ids = samples(count, *SHAPE, seed=count), labels(count, 5), torch.arange(count)
    if not attack.targeted:
        y[::2] = model(x).argmax(1)[::2]
    attack = attack.seeded(7)
    found, expected = (attack.run(each, x, y, ids) for each in (graphed, model))
    for field in dataclasses.fields(expected):
        assert torch.equal(getattr(found, field.name), getattr(expected, field.name)), field.name


@pytest.mark.parametrize("name", CASES)
def test_replays_give_the_bits_of_the_steps(name, graphs_here):
    """Of other samples, of batches that are filled up, and with weights that have changed in place."""
    attack, model = CASES[name], Rowwise()
    graphed = Tuned(model, graphs=True)
    assert_same(model, graphed, attack, 16)
    recordings = len(graphs_here)
    assert (recordings > 0) == attack.repeats
    assert_same(model, graphed, attack, 16)
    if not attack.ends_early:
        assert len(graphs_here) == recordings  # of fixed length: one is enough
    with torch.no_grad():
        for weight in graphed.parameters():
            weight.mul_(0.9)
    for count in (13, 16, 3):
        assert_same(model, graphed, attack, count)


def test_a_graph_is_made_again_where_weights_have_moved(graphs_here):
    model, x = BatchNormNet().eval(), samples(8, 3, 6, 6)
    graphed = Tuned(model, graphs=True)
    attack = PGD(0.1, 0.02, 3, seed=0)
    assert torch.equal(attack(graphed, x), attack(model, x))
    model[0].weight = nn.Parameter(model[0].weight.detach() * 2)
    assert torch.equal(attack(graphed, x), attack(model, x))
    assert len(graphs_here) == 2


def test_weights_are_cast_once_a_replay(graphs_here):
    model, x = BatchNormNet().eval(), samples(8, 3, 6, 6)
    graphed, plain = Tuned(model, dtype=torch.bfloat16, graphs=True), Tuned(model, dtype=torch.bfloat16)
    attack = PGD(0.1, 0.02, 4, seed=0)
    attack(graphed, x)
    with torch.no_grad():
        model[0].weight.neg_()  # a cast of before would be wrong
    assert torch.equal(attack(graphed, x), attack(plain, x))
    assert len(graphs_here) == 1


def test_a_model_that_makes_the_host_wait_cannot_be_recorded(graphs_here):
    class Waits(Rowwise):
        def forward(self, x):
            assert x.sum() > -1
            return super().forward(x)

    with pytest.raises(RuntimeError, match="makes the host wait"):
        PGD(0.1, 0.02, 3)(Tuned(Waits(), graphs=True), samples(4, *SHAPE))


def test_models_with_graphs_can_be_copied_and_pickled(graphs_here):
    model, x = Tuned(BatchNormNet().eval(), graphs=True), samples(8, 3, 6, 6)
    attack = PGD(0.1, 0.02, 3, seed=0)
    expected = attack(model, x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(attack(other, x), expected)
    assert "graphs=True" in repr(model)


def test_sizes_are_eighths_of_the_largest():
    graphs = _graphs.Graphs()
    counts = (100, 100, 99, 87, 50, 12, 1, 0)
    assert [graphs.size(count) for count in counts] == [100, 100, 100, 88, 50, 13, 13, 0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", CASES)
def test_graphs_on_a_gpu(name):
    attack, model = CASES[name].seeded(7), Rowwise().cuda()
    graphed = Tuned(model, graphs=True)
    for count in (16, 13, 16):
        x, y = samples(count, *SHAPE, seed=count).cuda(), labels(count, 5).cuda()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            found, expected = (attack(each, x, y) for each in (graphed, model))
        assert torch.isclose(found, expected, atol=1e-4).double().mean() > 0.95
