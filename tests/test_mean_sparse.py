"""fastadv.models.MeanSparse: what is replaced, by which statistics, with which gradient, and in which networks."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from toys import BatchNormNet, labels, samples

import fastadv
from fastadv.attacks import PGD
from fastadv.data import Dataset
from fastadv.models import MeanSparse, ResNet18, mean_sparse

DATA = Dataset(samples(23, 3, 6, 6), labels(23, 5), tuple("abcde"))


def test_what_is_near_its_mean_becomes_it_and_has_no_gradient():
    mean, std = torch.tensor([1.0, -2.0]), torch.tensor([2.0, 0.5])
    x = torch.tensor([[1.9, -1.8], [2.1, -1.7], [0.1, -2.2], [-0.1, -2.3]], requires_grad=True)
    found = MeanSparse(mean, std, 0.5)(x)
    assert torch.equal(found, torch.tensor([[1.0, -2.0], [2.1, -1.7], [1.0, -2.0], [-0.1, -2.3]]))
    found.sum().backward()
    assert torch.equal(x.grad, torch.tensor([[0.0, 0.0], [1.0, 1.0]] * 2))
    x.grad = None
    through = MeanSparse(mean, std, 0.5, backward="identity")(x)
    torch.testing.assert_close(through, found)
    through.sum().backward()
    assert torch.equal(x.grad, torch.ones(4, 2))
    images = x.detach().T.reshape(1, 2, 2, 2)
    assert torch.equal(MeanSparse(mean, std, 0.5)(images), found.detach().T.reshape(1, 2, 2, 2))


@pytest.mark.parametrize("size", [4, 23])
def test_statistics_are_those_of_the_data_before_each_activation(size):
    model = BatchNormNet()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = mean_sparse(model, DATA.batches(size), 0.2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(layer._forward_pre_hooks for layer in found.modules())
    assert found.training
    features = nn.Sequential(*list(model.eval())[:2])(DATA.x)
    first = found[2][0]
    torch.testing.assert_close(first.mean, features.mean((0, 2, 3)))
    torch.testing.assert_close(first.std, features.std((0, 2, 3), correction=0))
    assert [type(layer) for layer in found[5]] == [MeanSparse, nn.ReLU]
    # The second's are of the network as it was trained, not of one with the first.
    features = nn.Sequential(*list(model)[:5])(DATA.x)
    torch.testing.assert_close(found[5][0].mean, features.mean((0, 2, 3)))
    assert not torch.equal(found.eval()(DATA.x), model(DATA.x))


def test_alpha_0_changes_nothing_and_a_large_one_all():
    model = BatchNormNet().eval()
    assert torch.equal(mean_sparse(model, [DATA.x], 0)(DATA.x), model(DATA.x))
    logits = mean_sparse(model, [DATA.x], 1e6)(DATA.x)
    assert torch.equal(logits, logits[:1].expand(23, 5))


def test_resnets_have_one_before_every_activation_and_attacks_run():
    model = ResNet18((3, 6, 6), 5).eval()
    found = mean_sparse(model, DataLoader(TensorDataset(DATA.x, DATA.y), batch_size=10), 0.3)
    activations = sum(isinstance(layer, nn.ReLU) for layer in model.modules())
    assert sum(isinstance(layer, MeanSparse) for layer in found.modules()) == activations == 17
    assert PGD(eps=0.1, steps=1).run(found, DATA.x[:2], DATA.y[:2]).x_adv.shape == (2, 3, 6, 6)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.act = nn.Linear(108, 5), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.first(self.act(x.flatten(1))))


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (Twice(), {}, "activation act is called several times in a forward pass"),
        (nn.Sequential(nn.Flatten(2), nn.ReLU(), nn.Flatten()), {}, r"features \[23, 3, 36\]: \[B, C\] or"),
        (nn.Sequential(nn.Flatten(), nn.Linear(108, 5)), {}, "Sequential has no activation that is a module of ReLU"),
        (BatchNormNet(), {"alpha": -1.0}, "alpha must not be negative, got -1.0"),
        (BatchNormNet(), {"backward": "bpda"}, "backward must be one of exact, identity, got 'bpda'"),
    ],
)
def test_what_is_refused(model, options, message):
    with pytest.raises(ValueError, match=message):
        mean_sparse(model, [DATA.x], **{"alpha": 0.2} | options)


@pytest.mark.thorough
def test_it_does_not_hide_from_the_gradient_that_passes_through():
    """The published backward makes attacks weaker than the network is; the other is at least as strong here."""
    data = fastadv.load("fashion-mnist-mini", "train").take(300)
    torch.manual_seed(0)
    model = fastadv.models.LeNet5()
    fastadv.fit(model, fastadv.trainers.Standard(), data, epochs=4, batch_size=30)
    attack = PGD(eps=0.1, alpha=0.01, steps=20)
    robust = {}
    for backward in ("exact", "identity"):
        network = mean_sparse(model, data.batches(100), 0.8, backward=backward).eval()
        robust[backward] = fastadv.evaluate(network, data.take(100), {"pgd": attack}, checks=0).results["pgd"].accuracy
    assert robust["identity"] <= robust["exact"]
