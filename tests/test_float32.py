"""fastadv.float32: evaluations compute in float32 on GPUs, too; attacks and training in what PyTorch is set to."""

import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from test_inference_mode import MEASURES, data
from torch import Tensor, nn
from toys import linear

from fastadv.attacks import PGD
from fastadv.evaluation import evaluate, layer_outputs
from fastadv.float32 import exact_float32, float32_precision
from fastadv.info import environment
from fastadv.trainers import Standard, fit

EXACT = dict.fromkeys(("matrix products", "convolutions", "RNNs"), "ieee")
TF32 = dict.fromkeys(EXACT, "tf32")
cuda, cudnn, onednn = torch.backends.cuda.matmul, torch.backends.cudnn, torch.backends.mkldnn.matmul
PLACES = (cuda, cudnn.conv, cudnn.rnn, onednn, cudnn, torch.backends)


def read(older: Callable[[], object]) -> object:
    try:
        return older()
    except RuntimeError as error:  # set in two ways
        return type(error)


def settings() -> list[object]:
    """All that PyTorch says of it, in its newer and its older words."""
    older = (lambda: cuda.allow_tf32, lambda: cudnn.allow_tf32, torch.get_float32_matmul_precision)
    return [*(place.fp32_precision for place in PLACES), *map(read, older)]


@pytest.fixture(autouse=True)
def torch_is_left_alone() -> Iterator[None]:
    before = settings()
    yield
    cudnn.fp32_precision = torch.backends.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    cudnn.allow_tf32 = True
    cuda.fp32_precision = onednn.fp32_precision = "none"
    assert settings() == before


class Seeing(nn.Module):
    """Notes what float32 is computed in."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.seen = linear(48, 5), []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(float32_precision())
        return self.net(x)


def use_everywhere() -> None:
    torch.set_float32_matmul_precision("high")
    cudnn.allow_tf32 = True


WAYS: dict[str, Callable[[], None]] = {
    "not at all": lambda: None,
    "high": use_everywhere,
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "older, off": lambda: setattr(cudnn, "allow_tf32", False),
    "older, on": lambda: setattr(cuda, "allow_tf32", True),
    "newer, of one": lambda: setattr(cudnn.conv, "fp32_precision", "ieee"),
    "newer, of cuDNN": lambda: setattr(cudnn, "fp32_precision", "ieee"),
    "newer, of all": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
}


@pytest.mark.parametrize("way", WAYS)
def test_it_is_put_back_however_it_was_set(way: str) -> None:
    WAYS[way]()
    before = settings()
    for raises in (False, True):
        try:
            with exact_float32():
                assert float32_precision() == EXACT
                assert "older" in way or RuntimeError in before or RuntimeError not in settings()
                if raises:
                    raise KeyError
        except KeyError:
            assert raises
        assert settings() == before


def test_the_last_to_leave_puts_it_back() -> None:
    use_everywhere()
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with exact_float32():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with exact_float32():
        thread.start()
        assert inside.wait(10)
    assert float32_precision() == EXACT
    leave.set()
    thread.join()
    assert float32_precision() == TF32


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_evaluations_are_exact(measure: Callable, seed_zero: None) -> None:
    use_everywhere()
    before, model = settings(), Seeing()
    measure(model, data())
    assert len(model.seen) > 0
    assert all(seen == EXACT for seen in model.seen)
    layer_outputs(model, data().x, ["net"])
    assert model.seen[-1] == EXACT
    assert settings() == before


def test_evaluations_that_fail_put_it_back() -> None:
    use_everywhere()
    with pytest.raises(TypeError):
        evaluate(Seeing(), data(), {"none": None})
    assert float32_precision() == TF32


def test_attacks_and_training_are_as_pytorch_is_set() -> None:
    use_everywhere()
    model, samples = Seeing(), data()
    PGD(0.1)(model, samples.x, samples.y)
    fit(model, Standard(), samples, epochs=1)
    assert all(seen == TF32 for seen in model.seen)


def test_runs_record_it() -> None:
    assert environment()["float32 on GPUs"] == EXACT | {"convolutions": "tf32", "RNNs": "tf32"}
