"""fastadv.data's augmentations: equal to changing one image after another, random by seed and id alone."""

import re

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import samples

from fastadv import ops
from fastadv.data import AUGMENTATIONS, Chain, CropFlip, CutMix, Cutout, Mixed, ShiftFlip
from fastadv.data.augment import _draw

pytestmark = pytest.mark.numerics

CHANGING = [augment for name, augment in AUGMENTATIONS.items() if augment and "cutmix" not in name]
every = pytest.mark.parametrize("augment", [*CHANGING, CropFlip(2, fill="reflect"), ShiftFlip(0.37)], ids=str)


def all_crops(image: Tensor, padding: int, fill: float | str) -> Tensor:
    """What CropFlip may make of one image [C, H, W], as slices: [crops, C, H, W], every crop and then its mirror."""
    height, width = image.shape[1:]
    frame = ((0, 0), (padding, padding), (padding, padding))
    if isinstance(fill, str):
        padded = torch.from_numpy(np.pad(image.numpy(), frame, mode=fill))
    else:
        padded = torch.from_numpy(np.pad(image.numpy(), frame, constant_values=fill))
    places = range(2 * padding + 1)
    crops = [padded[:, top : top + height, left : left + width] for top in places for left in places]
    return torch.stack([view for crop in crops for view in (crop, crop.flip(2))])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("fill", [0.0, 0.5, "reflect", "edge"])
def test_a_crop_is_a_slice_of_the_padded_image_bit_for_bit(fill, layout):
    x = samples(64, 3, 7, 6).contiguous(memory_format=layout)
    found = CropFlip(2, fill=fill)(x, torch.arange(64), seed=3)
    for image, result in zip(x, found, strict=True):
        assert (all_crops(image, 2, fill) == result).flatten(1).all(1).sum() == 1


@pytest.mark.parametrize("flip", [True, False])
def test_all_crops_and_mirrors_have_the_same_chance(flip):
    image, n = samples(1, 1, 4, 4)[0], 9000
    found = CropFlip(1, flip)(image.expand(n, 1, 4, 4), torch.arange(n), seed=0)
    counts = (all_crops(image, 1, 0.0).flatten(1) == found.flatten(1).unsqueeze(1)).all(2).sum(0).reshape(9, 2)
    assert counts.sum() == n
    if not flip:
        assert counts[:, 1].sum() == 0
        counts = counts[:, :1]
    expected = n / counts.numel()
    assert ((counts - expected).abs() < 4 * expected**0.5).all()  # four standard deviations


def ramped(image: Tensor) -> Tensor:
    """`image` [H, W] with two channels more, in which each pixel holds its row and its column."""
    rows, columns = (torch.arange(n, dtype=image.dtype) for n in image.shape)
    return torch.stack([image, *torch.meshgrid(rows, columns, indexing="ij")])


def shifts(found: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What ShiftFlip did to ramped images, read at their middles: the shifts down and across, and who was mirrored."""
    down, across = (found[:, k, found.shape[2] // 2, found.shape[3] // 2] for k in (1, 2))
    flipped = found[:, 2, 0, 0] > found[:, 2, 0, -1]
    return down - found.shape[2] // 2, across - found.shape[3] // 2, flipped


def shifted(image: np.ndarray, down: float, across: float) -> np.ndarray:
    """``image[i + down, j + across]``, linear between pixels and constant beyond them."""
    for move in (down, across):
        places = np.arange(len(image), dtype=np.float64)
        image = np.stack([np.interp(places + move, places, column) for column in image.T])  # and transposed
    return image


@pytest.mark.parametrize("shift", [0.1, 0.3])
def test_a_shift_interpolates_every_image_like_numpy(shift):
    images = samples(64, 11, 9, dtype=torch.float64)
    x = torch.stack([ramped(image) for image in images])
    found = ShiftFlip(shift)(x, torch.arange(64), seed=5)
    assert (found[:, 0] >= 0).all()
    for image, result, down, across, flipped in zip(images, found[:, 0], *shifts(found), strict=True):
        expected = torch.from_numpy(shifted(image.numpy(), float(down), float(across)))
        torch.testing.assert_close(result.flip(1) if flipped else result, expected, atol=1e-12, rtol=0)


def test_shifts_are_uniform_and_not_whole():
    n, shift = 8000, 0.2
    x = ramped(torch.zeros(15, 11, dtype=torch.float64)).expand(n, 3, 15, 11)
    down, across, flipped = shifts(ShiftFlip(shift)(x, torch.arange(n), seed=1))
    for move, furthest in ((down, shift * 15), (across, shift * 11)):
        share = (move / furthest + 1) / 2
        assert 0 < share.min() < 0.01
        assert 0.99 < share.max() < 1
        tenths = torch.histc(share.float(), 10, 0, 1)
        assert ((tenths - n / 10).abs() < 4 * (n / 10) ** 0.5).all()
    assert abs(flipped.double().mean() - 0.5) < 4 * 0.5 / n**0.5
    together = torch.corrcoef(torch.stack([down, across, flipped.double()])) - torch.eye(3)
    assert together.abs().max() < 4 / n**0.5
    assert not shifts(ShiftFlip(shift, flip=False)(x, torch.arange(n), seed=1))[2].any()


@every
def test_a_sample_is_changed_by_seed_and_id_alone(augment):
    x, ids = samples(12, 3, 8, 8), torch.arange(12) + 2**40
    global_state = torch.get_rng_state()
    before = x.clone()
    found = augment(x, ids, 7)
    assert torch.equal(x, before)
    assert found.data_ptr() != x.data_ptr()
    assert torch.equal(augment(x, ids, 7), found)
    order = torch.tensor([5, 0, 11, 3])
    assert torch.equal(augment(x[order], ids[order], 7), found[order])
    assert torch.equal(torch.get_rng_state(), global_state)

    same = x[:1].expand(12, 3, 8, 8)
    by_id = augment(same, ids, 7)
    assert len(by_id.unique(dim=0)) > 6
    assert not torch.equal(augment(same, ids, 8), by_id)


@every
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_dtype_layout_and_bounds_are_kept(augment, dtype):
    x, ids = samples(32, 3, 8, 8, dtype=dtype), torch.arange(32)
    x[::2] = x[::2].round()  # black and white, which nothing may go beyond
    found = augment(x, ids, 0)
    assert found.dtype == dtype
    assert found.stride() == x.stride()
    assert found.min() >= 0
    assert found.max() <= 1
    last = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(augment(last, ids, 0), found)
    for images in (last, last[:, :1].contiguous(memory_format=torch.channels_last)):  # of one channel, it is fragile
        assert augment(images, ids, 0).stride() == images.stride()
    torch.testing.assert_close(found.double(), augment(x.double(), ids, 0), atol=2e-2, rtol=0)


@pytest.mark.parametrize("augment", [CropFlip(0, flip=False), ShiftFlip(0, flip=False), CropFlip(0), ShiftFlip(0)])
def test_no_padding_and_no_shift_leave_images_alone(augment):
    x = samples(32, 3, 6, 5)
    found = augment(x, torch.arange(32), 0)
    mirrored = (found == x.flip(3)).flatten(1).all(1)
    assert ((found == x).flatten(1).all(1) | mirrored).all()
    assert mirrored.any() == augment.flip
    assert not mirrored.all()


def test_cutout_covers_a_square_around_any_pixel():
    n = 6000
    found = Cutout(0.8, fill=0.5)(torch.zeros(1, 2, 5, 6).expand(n, 2, 5, 6), torch.arange(n), 0)
    assert torch.equal(found[:, 0], found[:, 1])
    covered = found[:, 0] == 0.5
    assert not found[:, 0][~covered].any()
    counts = {}
    for down in range(5):  # the square of 4 pixels is from two before its middle to one behind it
        for across in range(6):
            square = torch.zeros(5, 6, dtype=torch.bool)
            square[max(down - 2, 0) : down + 2, max(across - 2, 0) : across + 2] = True
            counts[down, across] = (covered == square).flatten(1).all(1).sum().item()
    assert sum(counts.values()) == n  # all differ, so each image is one of them
    assert all(abs(count - n / 30) < 4.5 * (n / 30) ** 0.5 for count in counts.values())


def test_cutmix_pastes_a_box_of_another_and_says_how_much_is_left():
    n = 3000
    x = (torch.arange(n) / n).view(n, 1, 1, 1).expand(n, 3, 8, 6)
    ids = torch.arange(n) + 2**40
    found, partner, share = CutMix()(x, ids, 3)
    assert torch.equal(partner.sort().values, torch.arange(n))
    assert (partner != torch.arange(n)).all()
    own = (found == x)[:, 0]
    assert torch.equal(torch.where(own.unsqueeze(1), x, x[partner]), found)
    torch.testing.assert_close(share, own.flatten(1).float().mean(1))
    rows, columns = (~own).any(2).sum(1), (~own).any(1).sum(1)
    assert torch.equal(rows * columns, (~own).sum((1, 2)))  # boxes
    # Of a box with sides of s = sqrt(u) of the image's, the part 1 - s/4 is inside each way: E[u (1 - s/4)^2] = 0.32,
    # and less where sides are rounded down to whole pixels.
    assert 0.22 < 1 - share.mean() < 0.33
    again = CutMix()(x[:100], ids[:100], 3)
    assert torch.equal(again.share, share[:100])  # whose part, the batch says; how large it is, the id
    alone = CutMix()(x[:1], ids[:1], 3)
    assert torch.equal(alone.x, x[:1])


def test_labels_of_mixed_images_are_those_of_the_larger_part_first():
    mixed = Mixed(torch.zeros(3, 1, 2, 2), torch.tensor([1, 2, 0]), torch.tensor([0.75, 0.25, 0.5]))
    larger, smaller, share = mixed.labels(torch.tensor([4, 5, 6]))
    assert larger.tolist() == [4, 6, 6]
    assert smaller.tolist() == [5, 5, 4]
    assert share.tolist() == [0.75, 0.75, 0.5]


def test_nothing_may_follow_what_mixes_images():
    with pytest.raises(ValueError, match=r"only the last augmentation may mix images, and CropFlip\(.* follows"):
        Chain((CutMix(), CropFlip()))(samples(2, 1, 4, 4), torch.arange(2), 0)


@every
def test_no_samples(augment):
    assert augment(torch.zeros(0, 3, 8, 8), torch.arange(0), 0).shape == (0, 3, 8, 8)


def test_attacks_with_the_same_seed_draw_other_numbers():
    x, ids = samples(9, 1, 4, 4), torch.arange(9)
    drawn = torch.stack(_draw("CropFlip", x, ids, 3), dim=1)
    for restart in range(4):
        noise = ops.random_start(torch.full_like(drawn, 0.5), ids, 0.5, 3, restart)
        assert ((drawn - noise).abs() > 1e-6).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@every
def test_cuda(augment):
    x, ids = samples(64, 3, 8, 8).contiguous(memory_format=torch.channels_last), torch.arange(64)
    found = augment(x.cuda(), ids.cuda(), 0)
    assert found.stride() == x.stride()
    torch.testing.assert_close(
        found.cpu(), augment(x, ids, 0), atol=1e-6 if isinstance(augment, ShiftFlip) else 0, rtol=0
    )


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (CropFlip, {"padding": -1}, "CropFlip: padding must be a whole number of at least 0, got -1"),
        (CropFlip, {"padding": 0.1}, "CropFlip: padding must be a whole number of at least 0, got 0.1"),
        (CropFlip, {"fill": "zero"}, "CropFlip: fill must be a finite number, reflect or edge, got 'zero'"),
        (CropFlip, {"fill": float("nan")}, "CropFlip: fill must be a finite number, reflect or edge, got nan"),
        (ShiftFlip, {"shift": -0.1}, "ShiftFlip: shift must be a share of the size, between 0 and 1, got -0.1"),
        (Cutout, {"size": 0}, "Cutout: size must be a share of the sides, above 0 and at most 1, got 0"),
        (Cutout, {"fill": float("inf")}, "Cutout: fill must be a finite number, got inf"),
        (ShiftFlip, {"shift": 4}, "ShiftFlip: shift must be a share of the size, between 0 and 1, got 4"),
    ],
)
def test_wrong_options(kind, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        kind(**options)


@pytest.mark.parametrize("augment", CHANGING, ids=str)
@pytest.mark.parametrize(
    ("x", "ids", "message"),
    [
        (torch.zeros(4, 2), torch.arange(4), r"x must be a floating-point batch of images \[B, C, H, W\].*\[4, 2\]"),
        (torch.zeros(3, 8, 8), torch.arange(3), r"x must be a .* batch of images .*\[3, 8, 8\]"),
        (torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4), "x must be a floating-point.*uint8"),
        (torch.zeros(4, 3, 8, 8), torch.arange(3), "ids must be"),
        (torch.zeros(4, 3, 8, 8), torch.arange(4.0), "ids must be a torch.int64"),
    ],
)
def test_wrong_batches(augment, x, ids, message):
    with pytest.raises(ValueError, match=message):
        augment(x, ids, 0)


def test_more_to_reflect_than_there_is():
    with pytest.raises(ValueError, match="images of 9 x 4 have no 4 pixels to reflect: pad less"):
        CropFlip(fill="reflect")(torch.zeros(2, 1, 9, 4), torch.arange(2), 0)
