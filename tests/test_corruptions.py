"""Common corruptions: closed forms, scipy's and Pillow's filters, plain loops; CIFAR-10-C's files; the command."""

import colorsys
import csv
import io
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toys import BatchNormNet, Wavy, labels, partly_frozen, samples, traces

import fastadv
from fastadv.__main__ import main
from fastadv.commands import CorruptionTest
from fastadv.data import CORRUPTIONS, EXTRA, Dataset, corrupt, corrupted, corruptions, load_cifar10_c, load_cifar100_c
from fastadv.data.corruptions import Draws
from fastadv.evaluation import CorruptionAccuracy, corruption_accuracy

ndimage = pytest.importorskip("scipy.ndimage", reason="blurs and maps are compared with scipy's")

NAMES = """
    gaussian_noise shot_noise impulse_noise defocus_blur glass_blur motion_blur zoom_blur snow frost fog brightness
    contrast elastic_transform pixelate jpeg_compression speckle_noise gaussian_blur spatter saturate
"""
OFFICIAL = NAMES.split()
WITHOUT_CHANCE = (
    "defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression", "gaussian_blur", "saturate",
)  # fmt: skip
every = pytest.mark.parametrize("name", OFFICIAL)


def images(n: int, channels: int = 1, start: int = 0) -> torch.Tensor:
    """Clothes; in colours, three of them, one a channel, at the size of CIFAR's images."""
    x = fastadv.load("fashion-mnist-mini", "test").x[start : start + n * channels].reshape(n, channels, 28, 28)
    return torch.nn.functional.pad(x, [2] * 4) if channels == 3 else x


def change(name: str, x: torch.Tensor, *constants: float) -> torch.Tensor:
    """`x` after a corruption with constants of one's own, not clipped."""
    return CORRUPTIONS[name].change(x.double(), Draws(torch.arange(len(x)), 0), *constants)


# ------------------------------------------------------------------------------------------------- all of them


def test_all_are_there_in_the_official_order():
    assert list(CORRUPTIONS) == OFFICIAL
    assert tuple(OFFICIAL[15:]) == EXTRA
    assert all(len(corruption.constants) == 5 for corruption in CORRUPTIONS.values())


@every
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_changed_by_seed_and_id_alone(name, channels):
    x, ids = images(5, channels), torch.tensor([7, 3, 2**40, -4, 0])
    x_last = x.contiguous(memory_format=torch.channels_last)
    for severity in range(1, 6):
        found = corrupt(x, name, severity, 5, ids)
        assert found.shape == x.shape
        assert found.dtype == x.dtype
        assert 0 <= found.min() <= found.max() <= 1
        order = torch.tensor([3, 0, 4])
        assert torch.equal(corrupt(x[order], name, severity, 5, ids[order]), found[order])
        again = corrupt(x_last, name, severity, 5, ids)
        assert torch.equal(again, found)
        assert again.stride() == x_last.stride()
        assert (found != x).any() or (name, channels) == ("saturate", 1)
    for other in (corrupt(x, name, 5, 6, ids), corrupt(x, name, 5, 5, ids + 1)):
        assert torch.equal(other, found) == (name in WITHOUT_CHANCE)


# By the published constants: distances shrink (elastic), the last blurs are wider but undo more of the shuffling
# (glass), images get darker under the ice (frost), mud is another thing than water (spatter), and less colour another
# than more (saturate).
CHAINS = {
    "glass_blur": [(1, 2, 3, 4)],
    "frost": [(1, 2, 3)],
    "elastic_transform": [(5, 4, 3, 2, 1)],
    "spatter": [(1, 2, 3), (4, 5)],
    "saturate": [(1, 2), (3, 4, 5)],
}


@every
def test_the_change_grows_with_the_severity(name):
    x = images(40, 3 if name == "saturate" else 1)
    size = {severity: float((corrupt(x, name, severity) - x).abs().mean()) for severity in range(1, 6)}
    for chain in CHAINS.get(name, [(1, 2, 3, 4, 5)]):
        sizes = [size[severity] for severity in chain]
        assert all(b > 0.999 * a for a, b in pairwise(sizes)), sizes
        assert sizes[-1] > 1.05 * sizes[0]


NOTHING = {
    "gaussian_noise": (0,),
    "impulse_noise": (0,),
    "defocus_blur": (0.3, 0.05),
    "glass_blur": (0, 0),
    "motion_blur": (0, 1),
    "zoom_blur": (1,),
    "snow": (0, 0, 1, 0.5, 8, 3, 1),
    "frost": (1, 0),
    "fog": (0, 2),
    "brightness": (0,),
    "contrast": (1,),
    "elastic_transform": (0, 0, 0),
    "pixelate": (1,),
    "speckle_noise": (0,),
    "gaussian_blur": (0,),
    "spatter": (0, 0, 1, 0.7, 0.5, False),
    "saturate": (1, 0),
}


@pytest.mark.parametrize("name", NOTHING)
@pytest.mark.parametrize("channels", [1, 3])
def test_without_strength_nothing_is_changed(name, channels):
    x = images(4, channels).double()
    torch.testing.assert_close(change(name, x, *NOTHING[name]), x, atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", [*(name for name in OFFICIAL if "blur" in name), *OFFICIAL[11:14]])
def test_images_of_one_colour_stay_as_they_are(name):
    x = samples(4, 3, 1, 1).expand(4, 3, 20, 24)
    for severity in range(1, 6):
        torch.testing.assert_close(corrupt(x, name, severity), x, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "name", [name for name in OFFICIAL if name not in ("shot_noise", "frost", "saturate") and "noise" not in name]
)
def test_grey_images_in_three_channels_are_those_in_one(name):
    x, severity = images(4), 3 if name != "spatter" else 5
    found = corrupt(x.expand(4, 3, 28, 28), name, severity)
    tolerance = 0.02 if name in ("jpeg_compression", "spatter") else 1e-6  # bytes; three channels of mud
    luminance = (found * torch.tensor([0.299, 0.587, 0.114]).reshape(3, 1, 1)).sum(1, keepdim=True)
    torch.testing.assert_close(luminance, corrupt(x, name, severity), atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    ("x", "name", "severity", "ids", "message"),
    [
        ((2, 1, 9, 9), "fogg", 1, None, "unknown corruption 'fogg': choose among .*; did you mean 'fog'"),
        ((2, 1, 9, 9), "fog", 6, None, "severity must be 1, 2, 3, 4 or 5, got 6"),
        ((2, 1, 9, 9), "fog", 2.0, None, "severity must be 1, 2, 3, 4 or 5, got 2.0"),
        ((2, 2, 9, 9), "fog", 1, None, r"of 1 or 3 channels .* got torch.float32 \[2, 2, 9, 9\]"),
        ((2, 9, 9), "fog", 1, None, r"got torch.float32 \[2, 9, 9\]"),
        ((2, 3, 9, 7), "fog", 1, None, r"at least 8 x 8 pixels"),
        (torch.zeros(2, 1, 9, 9, dtype=torch.uint8), "fog", 1, None, "must be floating-point"),
        (torch.full((2, 1, 9, 9), 255.0), "fog", 1, None, r"in \[0, 1\], got \[255, 255\]: divide"),
        (torch.full((2, 1, 9, 9), torch.nan), "fog", 1, None, r"in \[0, 1\], got \[nan, nan\]"),
        ((2, 1, 9, 9), "fog", 1, torch.arange(3), r"ids must be int64 \[2\], got torch.int64 \[3\]"),
        ((2, 1, 9, 9), "fog", 1, torch.arange(2.0), r"ids must be int64 \[2\], got torch.float32 \[2\]"),
    ],
)
def test_corrupt_refuses(x, name, severity, ids, message):
    with pytest.raises(ValueError, match=message):
        corrupt(torch.zeros(x) if isinstance(x, tuple) else x, name, severity, ids=ids)


@every
def test_small_images_of_any_shape(name):
    x = samples(2, 3, 9, 14, dtype=torch.float16)
    for severity in range(1, 6):
        found = corrupt(x, name, severity)
        assert found.dtype == torch.float16
        assert found.isfinite().all()
    assert corrupt(x[:0], name, 1).shape == (0, 3, 9, 14)


def test_every_draw_is_new():
    draws = Draws(torch.tensor([4, 9]), 0)
    drawn = [draws.normal(50), draws.normal(50), draws.uniform(50, low=2, high=3), draws.uniform(50, low=2, high=3)]
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[2], drawn[3])
    assert not torch.equal(drawn[0][0], drawn[0][1])
    assert 2 < drawn[2].min() < 2.1 < 2.9 < drawn[2].max() < 3


def test_a_data_set_is_corrupted_whole():
    data = Dataset(images(7), labels(7, 3), tuple("abc"), name="clothes").to("cpu")
    found = corrupted(data, "snow", 4, seed=3, batch_size=3)
    assert torch.equal(found.x, corrupt(data.x, "snow", 4, seed=3))
    assert torch.equal(found.y, data.y)
    assert (found.classes, found.name) == (data.classes, "clothes, snow 4")


# ------------------------------------------------------------------------------------------------- closed forms

GREY = torch.full((30, 1, 32, 32), 0.5)


def test_noise_has_its_moments():
    for severity, std in enumerate((0.04, 0.06, 0.08, 0.09, 0.10), start=1):
        noise = corrupt(GREY, "gaussian_noise", severity) - 0.5
        assert noise.mean().abs() < 0.001
        assert noise.std() == pytest.approx(std, rel=0.02)
    for severity, photons in enumerate((500, 250, 100, 75, 50), start=1):
        counts = photons * corrupt(GREY, "shot_noise", severity).double()
        torch.testing.assert_close(counts, counts.round(), atol=1e-4, rtol=0)
        assert counts.mean() == pytest.approx(photons / 2, rel=0.005)
        assert counts.var() == pytest.approx(photons / 2, rel=0.04)
    for severity, std in enumerate((0.06, 0.1, 0.12, 0.16, 0.2), start=1):
        assert (corrupt(GREY, "speckle_noise", severity) / 0.5).std() == pytest.approx(std, rel=0.02)
    assert corrupt(torch.zeros(1, 3, 8, 8), "speckle_noise", 5).max() == 0


def test_impulses_are_salt_and_pepper_in_equal_parts():
    for severity, share in enumerate((0.01, 0.02, 0.03, 0.05, 0.07), start=1):
        found = corrupt(GREY, "impulse_noise", severity)
        for value in (0, 1):
            assert (found == value).float().mean() == pytest.approx(share / 2, rel=0.15)
        assert set(found.unique().tolist()) == {0, 0.5, 1}


def test_brightness_of_grey_images_is_added_and_clipped():
    x = images(4)
    for severity, more in enumerate((0.05, 0.1, 0.15, 0.2, 0.3), start=1):
        torch.testing.assert_close(corrupt(x, "brightness", severity), (x + more).clamp(max=1))


@pytest.mark.parametrize("name", ["brightness", "saturate"])
def test_colours_are_changed_in_hsv(name):
    x = samples(1, 3, 8, 8)
    x[0, :, 0], x[0, :, 1], x[0, 1, 2] = 0, 0.4, 0  # black, grey, without green
    for severity in range(1, 6):
        expected = torch.zeros_like(x)
        for i, j in np.ndindex(8, 8):
            h, s, v = colorsys.rgb_to_hsv(*x[0, :, i, j].tolist())
            if name == "brightness":
                v = min(1, v + (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1])
            else:
                factor, more = ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))[severity - 1]
                s = min(1, factor * s + more)
            expected[0, :, i, j] = torch.tensor(colorsys.hsv_to_rgb(h, s, v))
        torch.testing.assert_close(corrupt(x, name, severity), expected, atol=1e-6, rtol=0)


def test_contrast_is_about_the_mean_of_each_channel():
    x = samples(3, 3, 16, 16)
    for severity, share in enumerate((0.75, 0.5, 0.4, 0.3, 0.15), start=1):
        found = corrupt(x, "contrast", severity)
        torch.testing.assert_close(found.mean((2, 3)), x.mean((2, 3)))
        torch.testing.assert_close(found.std((2, 3)), share * x.std((2, 3)))


@pytest.mark.parametrize("size", [28, 32])
def test_pixels_are_pillows_boxes(size):
    x = (samples(1, 1, size, size) * 255).round() / 255
    image = Image.fromarray((255 * x[0, 0]).byte().numpy())
    for severity, share in enumerate((0.95, 0.9, 0.85, 0.75, 0.65), start=1):
        small = image.resize((int(size * share),) * 2, Image.Resampling.BOX)
        expected = torch.from_numpy(np.array(small.resize((size, size), Image.Resampling.BOX))) / 255
        found = corrupt(x, "pixelate", severity)[0, 0]
        torch.testing.assert_close(found, expected, atol=1.01 / 255, rtol=0)  # Pillow rounds after every pass


def test_pixels_of_halves_are_the_means_of_blocks():
    x = samples(2, 3, 8, 12).double()
    means = torch.nn.functional.avg_pool2d(x, 2)
    torch.testing.assert_close(change("pixelate", x, 0.5), means.repeat_interleave(2, 2).repeat_interleave(2, 3))


@pytest.mark.parametrize(("sigma", "truncate"), [(0.05, 4), (0.25, 4), (1, 4), (6.4, 3), (13, 3)])
@pytest.mark.parametrize(("mirrored", "mode"), [(False, "nearest"), (True, "reflect")])
def test_gaussians_are_scipys(sigma, truncate, mirrored, mode):
    x = samples(1, 1, 20, 13).double()
    expected = ndimage.gaussian_filter(x[0, 0].numpy(), sigma, mode=mode, truncate=truncate)
    found = corruptions._blurred(x, sigma, truncate, mirrored)[0, 0]
    torch.testing.assert_close(found, torch.from_numpy(expected))


@pytest.mark.parametrize(("radius", "pixels"), [(0.3, 1), (1, 5), (1.5, 9), (2, 13)])
def test_the_kernels_of_defocus_are_disks(radius, pixels):
    sharp = corruptions._disk(radius, 0.05)
    assert sharp[sharp > 1e-9].tolist() == pytest.approx([1 / pixels] * pixels)
    for smoothing in (0.1, 0.6):
        disk = corruptions._disk(radius, smoothing)
        assert disk.sum() == pytest.approx(1)
        torch.testing.assert_close(disk, disk.T)
    expected = ndimage.correlate(images(1)[0, 0].numpy(), disk.numpy(), mode="mirror")
    torch.testing.assert_close(change("defocus_blur", images(1), radius, 0.6)[0, 0].float(), torch.tensor(expected))


def test_defocus_of_a_dot_is_its_kernel():
    x = torch.zeros(1, 1, 11, 11)
    x[0, 0, 5, 5] = 1
    for severity, constants in enumerate(((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)), start=1):
        found = corrupt(x, "defocus_blur", severity)[0, 0, 3:8, 3:8]
        torch.testing.assert_close(found, corruptions._disk(*constants).float())


@pytest.mark.parametrize(("degrees", "down", "across"), [(0, 0, 1), (-90, -1, 0), (45, 0.5**0.5, 0.5**0.5)])
def test_motion_is_half_a_gaussian_along_a_ray(degrees, down, across):
    x = torch.zeros(1, 1, 41, 41, dtype=torch.float64)
    x[0, 0, 20, 20] = 1
    weights = [math.exp(-(tap**2) / (2 * 2.5**2)) for tap in range(13)]
    expected = torch.zeros(41, 41, dtype=torch.float64)
    for tap, weight in enumerate(weights):  # each pixel looks along the ray, so that the dot trails behind
        expected[20 - round(tap * down), 20 - round(tap * across)] += weight / sum(weights)
    found = corruptions._moved(x, 6, 2.5, torch.tensor([float(degrees)]))[0, 0]
    torch.testing.assert_close(found, expected)


def test_zooms_are_scipys():
    x = samples(1, 1, 32, 32).double()
    for factor in (1, 1.03, 1.11, 1.25, 1.75, 2.25):
        kept = math.ceil(32 / factor)
        top = (32 - kept) // 2
        larger = ndimage.zoom(x[0, 0, top : top + kept, top : top + kept].numpy(), factor, order=1)
        trim = (len(larger) - 32) // 2
        expected = torch.from_numpy(larger[trim : trim + 32, trim : trim + 32])
        torch.testing.assert_close(corruptions._zoomed(x, factor)[0, 0], expected)


def test_zoom_blur_is_a_mean():
    x = samples(2, 3, 16, 16).double()
    expected = (2 * x + corruptions._zoomed(x, 1.01) + corruptions._zoomed(x, 1.02)) / 4
    torch.testing.assert_close(change("zoom_blur", x, 3), expected)


@pytest.mark.parametrize(("corners", "mode"), [(True, "mirror"), (False, "reflect")])
def test_interpolation_is_scipys(corners, mode):
    x, places = samples(1, 1, 12, 9).double(), samples(1, 2, 12, 9, low=-5, high=15).double()
    expected = ndimage.map_coordinates(x[0, 0].numpy(), places[0].numpy(), order=1, mode=mode)
    found = corruptions._interpolated(x, *places.unbind(1), corners=corners)
    torch.testing.assert_close(found[0, 0], torch.from_numpy(expected))


def test_the_affine_map_moves_three_points_by_the_draws():
    """On a ramp, the value at a moved point is that of the point."""
    rows, columns = (part.double()[None, None] for part in corruptions._grid(torch.zeros(1, 1, 32, 32)))
    moves = Draws(torch.arange(1), 0).uniform(3, 2, low=-2.56, high=2.56)[0]
    for ramp, of in ((columns, 0), (rows, 1)):
        found = change("elastic_transform", ramp, 0, 0, 0.08)
        for point, move in zip(((26, 26), (26, 6), (6, 6)), moves, strict=True):
            x, y = (torch.tensor([[[p + float(m)]]], dtype=torch.float64) for p, m in zip(point, move, strict=True))
            value = corruptions._interpolated(found, y, x, corners=True)
            assert float(value) == pytest.approx(point[of], abs=1e-9)


def test_glass_is_the_published_walk_over_the_pixels():
    """One after another from the lower right; the exchange of two views of an array makes the first a copy."""
    x = images(1).double()
    for times in (1, 2):
        draws, image = Draws(torch.arange(1), 0), x[0].permute(1, 2, 0).numpy().copy()
        for _ in range(times):
            up, left = (draws.uniform(2, 28, 28)[0] < 0.5).long().tolist()
            for h in range(27, 1, -1):
                for w in range(27, 1, -1):
                    i, j = h - up[h][w], w - left[h][w]
                    image[h, w], image[i, j] = image[i, j], image[h, w]
        torch.testing.assert_close(change("glass_blur", x, 0, times)[0, 0], torch.from_numpy(image[..., 0]))


def test_clouds_are_made_of_diamonds_and_squares():
    draws, n = Draws(torch.arange(1), 0), 8
    clouds, step, amplitude = np.zeros((n, n)), n, 1.0
    while step > 1:
        half = step // 2
        wobbles = draws.uniform(3, n // step, n // step, low=-amplitude, high=amplitude)[0].numpy()
        for kind, (di, dj) in enumerate(((half, half), (0, half), (half, 0))):
            for i, j in np.ndindex(n // step, n // step):
                y, x = i * step + di, j * step + dj
                ways = [(a, b) for a in (-half, half) for b in (-half, half)] if kind == 0 else []
                ways = ways or [(-half, 0), (half, 0), (0, -half), (0, half)]
                near = [clouds[(y + a) % n, (x + b) % n] for a, b in ways]
                clouds[y, x] = sum(near) / 4 + wobbles[kind, i, j]
        step, amplitude = half, amplitude / 1.75**2
    clouds = (clouds - clouds.min()) / (clouds.max() - clouds.min())
    found = corruptions._plasma(Draws(torch.arange(1), 0), 7, 1.75)[0, 0]
    torch.testing.assert_close(found, torch.from_numpy(clouds))


def test_fog_of_black_and_white():
    assert corrupt(torch.zeros(2, 3, 32, 32), "fog", 5).max() == 0  # as bright as the brightest pixel, at the most
    found = corrupt(torch.ones(2, 3, 32, 32), "fog", 5).amax((1, 2, 3)), corrupt(GREY, "fog", 5).amin((1, 2, 3))
    torch.testing.assert_close(found[0], torch.ones(2))
    torch.testing.assert_close(found[1], torch.full((30,), 0.125))  # 0.5 * 0.5 / (0.5 + 1.5)


def test_snow_falls_twice_on_whitened_images():
    x = torch.full((4, 1, 32, 32), 0.2)
    for severity, kept in enumerate((0.95, 0.9, 0.9, 0.85, 0.8), start=1):
        found = corrupt(x, "snow", severity)
        torch.testing.assert_close(found, found.rot90(2, (2, 3)))
        whitened = kept * 0.2 + (1 - kept) * (1.5 * 0.2 + 0.5)
        assert found.min() >= whitened - 1e-6
        assert found.max() > whitened + 0.1
    assert corrupt(x, "snow", 1).min() == pytest.approx(0.95 * 0.2 + 0.05 * 0.8)


def test_frost_lies_over_the_image():
    x = images(4, 3)
    for kept, ice in ((1, 0.2), (0.75, 0.45)):
        over = change("frost", 0 * x, kept, ice)
        torch.testing.assert_close(change("frost", x, kept, ice), kept * x.double() + over)
        assert over.amax((1, 2, 3)) == pytest.approx([ice] * 4)
        assert 0.35 < over.mean() / ice < 0.65
        assert (over[:, 0] <= over[:, 2] + 1e-9).all()  # bluish


def test_mud_is_brown_and_water_bright():
    x = torch.full((20, 3, 32, 32), 0.5)
    mud = corrupt(x, "spatter", 5)
    full = mud[:, 0] < 0.26
    assert 0.001 < full.float().mean() < 0.2
    assert (mud <= 0.5).all()
    assert mud.amin((0, 2, 3)) == pytest.approx([63 / 255, 42 / 255, 20 / 255], abs=0.03)
    water = corrupt(0 * x, "spatter", 1)
    assert water[:, 1].amax((1, 2)) == pytest.approx([0.5 * 238 / 255] * 20)
    torch.testing.assert_close(water[:, 0], water[:, 1] * 175 / 238)


def test_the_relief_of_a_drop():
    """Distances of a square drop, ranked, and lit from above left."""
    drops = torch.zeros(1, 1, 24, 24, dtype=torch.bool)
    drops[..., 8:17, 8:17] = True
    light = corruptions._relief(drops)[0, 0]
    assert 0 <= light.min() < light.max() < 255.001
    assert light[9:12, 9:12].mean() > 2 * light[13:16, 13:16].mean()
    torch.testing.assert_close(light, light.T)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillows(channels):
    x = images(3, channels)
    for severity, quality in enumerate((80, 65, 58, 50, 40), start=1):
        found = corrupt(x, "jpeg_compression", severity)
        pixels = (255 * x[1]).round().byte().permute(1, 2, 0).numpy()
        file = io.BytesIO()
        Image.fromarray(pixels if channels == 3 else pixels[..., 0]).save(file, "JPEG", quality=quality)
        expected = np.asarray(Image.open(file)).reshape(pixels.shape)
        assert np.array_equal((255 * found[1]).round().permute(1, 2, 0).numpy(), expected)


# ---------------------------------------------------------------------------------------------------- CIFAR-10-C


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of the published sizes, mostly holes: fog, whose pixels tell severity and channel, and the labels."""
    folder = tmp_path_factory.mktemp("data") / "CIFAR-10-C"
    folder.mkdir()
    fog = np.lib.format.open_memmap(folder / "fog.npy", "w+", np.uint8, (50_000, 32, 32, 3))
    for severity in range(1, 6):
        fog[10_000 * (severity - 1) + 3, 5, 7] = (10 * severity, 100, 255)
    fog.flush()
    np.save(folder / "labels.npy", np.tile(np.arange(10_000) % 10, 5).astype(np.uint8))
    return folder


def test_cifar10_c_is_read_by_severity(published):
    for folder in (published, published.parent):
        for severity in (1, 5):
            data = load_cifar10_c(folder, "fog", severity)
            assert data.x.shape == (10_000, 3, 32, 32)
            assert (255 * data.x[3, :, 5, 7]).tolist() == [10 * severity, 100, 255]
            assert data.x.count_nonzero() == 3
            assert data.y.tolist() == [k % 10 for k in range(10_000)]
            assert data.classes[0] == "airplane"
            assert data.name == f"CIFAR-10-C, fog {severity}"


def test_cifar100_c_has_a_hundred_classes(published, tmp_path):
    folder = tmp_path / "CIFAR-100-C"
    folder.mkdir()
    (folder / "fog.npy").symlink_to(published / "fog.npy")
    np.save(folder / "labels.npy", np.tile(np.arange(10_000) % 100, 5).astype(np.uint8))
    data = load_cifar100_c(tmp_path, "fog", 2)
    assert (data.y[:101].tolist(), len(data.classes)) == ([*range(100), 0], 100)
    assert (255 * data.x[3, :, 5, 7]).tolist() == [20, 100, 255]
    assert data.name == "CIFAR-100-C, fog 2"
    test = CorruptionTest("cifar100", str(tmp_path), corruptions="fog", severities="1,5", limit=3)
    assert test.published()
    assert [(name, severity, len(each.classes), len(each)) for name, severity, each in test.sets(None)] == [
        ("fog", 1, 100, 3),
        ("fog", 5, 100, 3),
    ]
    with pytest.raises(ValueError, match=r"the label 99; expected 0\.\.9"):
        load_cifar10_c(folder, "fog", 2)
    with pytest.raises(FileNotFoundError, match=r"CIFAR-100-C: .* holds no snow.npy.*records/3555552"):
        load_cifar100_c(tmp_path, "snow", 2)


def spoilt(kind: str) -> bytes:
    file = io.BytesIO()
    if kind == "pickled":
        np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    elif kind == "cut":
        np.save(file, np.zeros((50_000,), np.uint8))
        return file.getvalue()[:-1]
    elif kind == "header":
        np.save(file, np.zeros((50_000,), np.uint8))
        return file.getvalue().replace(b"}", b" ")
    elif kind == "zip":
        np.savez(file, x=np.zeros(3))
    elif kind == "float":
        np.save(file, np.zeros((50_000,)))
    elif kind == "few":
        np.save(file, np.zeros((10_000,), np.uint8))
    elif kind == "label":
        np.save(file, np.full((50_000,), 10, np.uint8))
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", "found no whole array"),
        ("zip", "found no whole array"),
        ("header", "found no whole array"),
        ("pickled", "found no whole array"),
        ("cut", "found no whole array"),
        ("float", r"found float64 \[50000\]; expected uint8 \[50000\]"),
        ("few", r"found uint8 \[10000\]; expected uint8 \[50000\]"),
        ("label", r"found the label 10; expected 0..9"),
    ],
)
def test_cifar10_c_names_the_file_and_the_damage(published, kind, message, tmp_path):
    (tmp_path / "labels.npy").write_bytes(spoilt(kind))
    (tmp_path / "fog.npy").symlink_to(published / "fog.npy")
    with pytest.raises(ValueError, match=rf"labels.npy: {message}.* To fix: extract it again .*CIFAR-10-C.tar"):
        load_cifar10_c(tmp_path, "fog", 2)


def test_cifar10_c_refuses(published, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no labels.npy. To fix: extract"):
        load_cifar10_c(tmp_path, "fog", 1)
    with pytest.raises(FileNotFoundError, match=r"CIFAR-10-C holds no snow.npy"):
        load_cifar10_c(published, "snow", 1)
    for name, severity in (("fogg", 1), ("fog", 0), ("fog", 6)):
        with pytest.raises(ValueError, match=r"the severities 1 to 5 of gaussian_noise, .*; got"):
            load_cifar10_c(published, name, severity)
    (tmp_path / "labels.npy").symlink_to(published / "labels.npy")
    np.save(tmp_path / "fog.npy", np.zeros((5, 32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match=r"fog.npy: found uint8 \[5, 32, 32, 3\]; expected uint8 \[50000, 32, 32, 3\]"):
        load_cifar10_c(tmp_path, "fog", 1)


# ------------------------------------------------------------------------------------------------------ accuracy


def test_accuracy_against_direct_computation():
    model, x, y = Wavy(28 * 28, 4), images(30), labels(30, 4)
    data = Dataset(x, y, tuple("abcd"))
    sets = [(name, severity, corrupted(data, name, severity)) for name in ("fog", "snow") for severity in (1, 5)]
    found = corruption_accuracy(model, iter(sets), data, batch_size=7)
    for name, severity, each in sets:
        assert found.accuracy[name][severity] == (model(each.x).argmax(1) == y).double().mean()
    assert found.clean == (model(x).argmax(1) == y).double().mean()
    assert corruption_accuracy(model, sets).clean is None
    with pytest.raises(ValueError, match="sets holds no data"):
        corruption_accuracy(model, [])


def test_means_are_over_severities_first():
    found = CorruptionAccuracy({"fog": {1: 0.9, 5: 0.3}, "snow": {1: 0.8}})
    assert found.mean() == pytest.approx(0.7)
    assert found.mean("fog") == pytest.approx(0.6)
    assert found.mean("fog", "snow", "snow") == pytest.approx(2.2 / 3)


def test_measuring_leaves_no_trace():
    model, data = partly_frozen(BatchNormNet()), Dataset(samples(12, 3, 6, 6), labels(12, 5), tuple("abcde"))
    before = traces(model, data.x, data.y)
    corruption_accuracy(model, [("fog", 1, data)], data)
    assert traces(model, data.x, data.y) == before


# ------------------------------------------------------------------------------------------------------- command


def trained(folder: Path, x: torch.Tensor, flags: list[str]) -> str:
    """The folder of a run on these images."""
    y = labels(len(x), 10)
    y[:10] = torch.arange(10)
    arrays = {"x_train": x, "y_train": y, "x_test": x, "y_test": y}
    np.savez(folder / "small.npz", **{name: array.numpy() for name, array in arrays.items()})
    flags = ["--data", str(folder / "small.npz"), *flags, "--test.attacks", "noise", "--test.limit", "20"]
    assert main(["train", "standard", *flags, "--epochs", "1", "--out", str(folder / "run")]) == 0
    return str(folder / "run")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return trained(tmp_path_factory.mktemp("corruptions"), images(100), [])


def table(folder: Path) -> dict[str, list[str]]:
    with (folder / "corruptions.csv").open(newline="") as file:
        return {name: values for name, *values in csv.reader(file)}


@pytest.mark.usefixtures("rendered")
def test_the_command_tells_and_draws(run, tmp_path, capsys):
    out = tmp_path / "all"
    assert main(["corruptions", run, "--limit", "20", "--severities", "1, 5", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "on 20 test images: corrupted here, -C style, from small" in " ".join(printed.split())
    rows = table(out)
    assert list(rows) == ["corruption", *OFFICIAL, "clean", "mean of 15", "mean of 19"]
    assert rows["corruption"] == ["severity 1", "severity 5", "mean"]
    means = {name: float(rows[name][2]) for name in OFFICIAL}
    assert all(means[name] == pytest.approx(sum(map(float, rows[name][:2])) / 2) for name in OFFICIAL)
    for title, names in (("mean of 15", OFFICIAL[:15]), ("mean of 19", OFFICIAL)):
        assert float(rows[title][2]) == pytest.approx(sum(means[name] for name in names) / len(names), abs=0.01)
        assert title in printed
    assert rows["clean"][2] == rows["saturate"][0]  # grey images
    assert (out / "corruptions.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert (out / "config.yaml").is_file()

    assert main(["corruptions", run, "--corruptions", "fog,spatter", "--limit", "20", "--out", str(out)]) == 2
    assert "never overwritten" in capsys.readouterr().err
    some = ["--corruptions", "spatter, fog", "--severities", "5", "--limit", "20"]
    assert main(["corruptions", run, *some, "--out", str(tmp_path / "some")]) == 0
    found = table(tmp_path / "some")
    assert list(found) == ["corruption", "spatter", "fog", "clean", "mean of 1", "mean of 2"]
    assert found["fog"][0] == rows["fog"][1]
    assert found["mean of 1"][1] == found["fog"][1]


def test_the_command_takes_the_published_files_for_cifar10(published, tmp_path, capsys):
    out = trained(tmp_path, images(20, 3), ["--per-class", "1"])
    flags = ["--data", "cifar10", "--folder", str(published), "--limit", "15"]
    some = ["--corruptions", "fog", "--severities", "2"]
    assert main(["corruptions", out, *flags, *some, "--out", str(tmp_path / "c")]) == 0
    assert "15 test images: CIFAR-10-C" in " ".join(capsys.readouterr().out.split())
    rows = table(tmp_path / "c")
    assert list(rows) == ["corruption", "fog", "mean of 1"]  # the clean images are not among the files
    assert rows["corruption"] == ["severity 2", "mean"]
    assert main(["corruptions", out, *flags, "--corruptions", "snow", "--out", str(tmp_path / "d")]) == 2
    assert "holds no snow.npy" in capsys.readouterr().err
    assert main(["corruptions", out, *flags[:2], "--folder", str(tmp_path), "--out", str(tmp_path / "d")]) == 2
    assert "cifar-10" in capsys.readouterr().err  # no files of CIFAR-10-C there: CIFAR-10's are looked for


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--corruptions", "fog,fogg"], "unknown corruption 'fogg'; did you mean 'fog'?"),
        (["--corruptions", ","], "corruptions and severities must not be empty"),
        (["--severities", "1,6"], "severities must be numbers from 1 to 5 with commas between, got '1,6'"),
        (["--limit", "-1"], "limit and at_once must be numbers of samples"),
        (["--data", "two-circles"], "x must be floating-point images [B, C, H, W]"),
    ],
)
def test_bad_input_gets_one_clear_line_and_no_folder(run, flags, message, tmp_path, capsys):
    assert main(["corruptions", run, *flags, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("fastadv: ")
    assert not (tmp_path / "out").exists()
