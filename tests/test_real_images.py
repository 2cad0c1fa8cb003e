"""Real pictures through the whole pipeline: the 20 of each data set that come with foolbox, where that is installed."""

import warnings

import pytest
import torch

import fastadv
from fastadv import models
from fastadv.attacks import PGD, DeepFool
from fastadv.compat import foolbox
from fastadv.data import CropFlip, Dataset
from fastadv.data.corruptions import corrupt
from fastadv.trainers import Madry

SETS = {"cifar10": (3, 32, 32), "cifar100": (3, 32, 32), "mnist": (1, 28, 28), "imagenet": (3, 32, 32)}
EPS = 8 / 255


@pytest.mark.parametrize("name", SETS)
def test_from_training_to_evaluation(name: str) -> None:
    pytest.importorskip("foolbox")
    shape = SETS[name]
    host = foolbox.PyTorchModel(models.build("lenet5-bn", shape, 1000).eval(), bounds=(0, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the images' files, which foolbox leaves open
        x, labels = foolbox.samples(host, dataset=name, batchsize=20, shape=shape[1:])
    assert tuple(x.shape) == (20, *shape)
    if name != "imagenet":  # which is resized
        assert torch.equal((255 * x).round() / 255, x)  # 8-bit values, and these as float32 has them
    classes, y = labels.unique(return_inverse=True)
    data = Dataset(x, y, tuple(map(str, classes.tolist())), name=name)

    torch.manual_seed(0)
    model, attack = models.build("lenet5-bn", shape, len(classes)), PGD(EPS, EPS / 2, 3, seed=0)
    history = fastadv.fit(model, Madry(attack=attack), data, epochs=15, lr=0.005, batch_size=10, augment=CropFlip())
    assert history[-1]["loss"] < history[0]["loss"]

    model.eval()
    found = fastadv.evaluate(model, data, {"pgd": attack, "deepfool": DeepFool(steps=20)}, batch_size=7)
    ids = torch.arange(20)
    x_adv = attack(model, x, y, ids)
    assert (x_adv - x).abs().amax() <= EPS + 1e-6
    assert x_adv.aminmax().min >= 0
    assert x_adv.aminmax().max <= 1
    with torch.no_grad():
        clean, attacked = ((model(each).argmax(1) == y) for each in (x, x_adv))
    assert found.clean > 0.2
    assert found.clean == int(clean.sum()) / 20
    assert found.results["pgd"].accuracy == int((clean & attacked).sum()) / 20

    for corruption in ("gaussian_noise", "jpeg_compression", "fog"):
        worse = corrupt(x, corruption, 5, ids=ids)
        assert worse.shape == x.shape
        assert worse.aminmax().min >= 0
        assert worse.aminmax().max <= 1
        assert not torch.equal(worse, x)
