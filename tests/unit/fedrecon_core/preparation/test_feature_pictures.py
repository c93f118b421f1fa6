"""pixels and mobilenet_v2: pixels as they are, the network of torchvision, and one line for each bad image."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from fedrecon_core.errors import DataError
from fedrecon_core.preparation.features.base import RawItem
from fedrecon_core.preparation.features.mobilenet_v2 import FILE, MobileNetV2, MobileNetV2Params, network_input
from fedrecon_core.preparation.features.pixels import Pixels, PixelsParams
from tests.helpers.feature_mobilenet_v2 import network, write_weights
from tests.helpers.features import image_bytes, picture, use_torchvision


def content(image: Image.Image, form: str = "PNG") -> RawItem:
    return RawItem(image_bytes(image, form), "post 12")


def pixels_of(image: Image.Image, **keys) -> np.ndarray:
    (array,) = Pixels(PixelsParams(**keys)).extract([content(image)])
    return array


def line(feature, data: bytes) -> str:
    with pytest.raises(DataError) as caught:
        feature.extract([RawItem(data, "post 12")])
    return str(caught.value)


# --- pixels ---------------------------------------------------------------------------------------------------------


@pytest.mark.quick
def test_pixels_of_an_image_of_the_right_size_are_its_own():
    image = picture(7, 5)
    array = pixels_of(image, size=[5, 7])
    np.testing.assert_array_equal(array, np.asarray(image).transpose(2, 0, 1).astype(np.float32) / np.float32(255))


@pytest.mark.quick
def test_pixels_of_another_size_are_weighted_means_of_what_they_cover():
    halves = np.zeros((40, 20, 3), np.uint8)
    halves[:, 10:] = 200
    array = pixels_of(Image.fromarray(halves), size=[4, 2])
    assert array.shape == (3, 4, 2)
    np.testing.assert_allclose(array[:, :, 0], 0, atol=0.15)
    np.testing.assert_allclose(array[:, :, 1], 200 / 255, atol=0.15)
    np.testing.assert_allclose(array.mean(), 100 / 255, atol=0.01)


@pytest.mark.quick
def test_grey_pixels_have_one_channel():
    grey = pixels_of(picture(8, 8), size=[8, 8], mode="L")
    assert grey.shape == (1, 8, 8)
    weights = np.array([299, 587, 114]) / 1000
    colour = pixels_of(picture(8, 8), size=[8, 8])
    np.testing.assert_allclose(grey[0], np.tensordot(weights, colour, axes=1), atol=2 / 255)


@pytest.mark.quick
def test_palettes_transparency_and_other_colours_become_rgb():
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    for image, form in (
        (red.convert("P"), "PNG"),
        (red.convert("RGBA"), "PNG"),
        (red.convert("CMYK"), "TIFF"),
        (red.convert("P"), "GIF"),
    ):
        (array,) = Pixels(PixelsParams(size=(4, 4))).extract([content(image, form)])
        np.testing.assert_allclose(array[:, 0, 0], [1, 0, 0], atol=0.02)


@pytest.mark.quick
def test_the_modality_is_an_image_in_the_unit_interval():
    spec = Pixels(PixelsParams(size=(5, 7), mode="L")).modality("scan")
    assert (spec.kind, spec.shape, spec.scale, spec.likelihood.std) == ("image", (1, 5, 7), "none", 0.1)


READS = "post 12: expected an image that Pillow reads (PNG, JPEG, ...), found "


@pytest.mark.quick
@pytest.mark.parametrize(("data", "found"), [(b"", "no bytes"), (b"<html>not found</html>", "other bytes")])
def test_a_file_that_is_not_an_image_is_reported(data, found):
    assert line(Pixels(PixelsParams()), data) == READS + found


@pytest.mark.quick
@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP"])
def test_a_cut_image_is_told_in_one_line_wherever_it_is_cut(form):
    data = image_bytes(picture(40, 30), form)
    for size in range(1, len(data) - 20, max(len(data) // 25, 1)):
        message = line(Pixels(PixelsParams()), data[:size])
        assert message.startswith(READS) and "\n" not in message


@pytest.mark.quick
def test_more_than_eight_bits_are_refused_since_they_would_be_cut_off():
    deep = Image.fromarray(np.full((4, 4), 40_000, np.uint16))
    message = line(Pixels(PixelsParams(mode="L")), image_bytes(deep))
    assert message == READS + "one of mode I;16, with more than 8 bits per channel; convert it to 8 bits"


def sixteen_bits(kind: int, channels: int) -> bytes:
    """A PNG file of 4 x 4 pixels with 16 bits per channel; Pillow cannot write one in colour."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 4, 4, 16, kind, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\x12\x34" * channels * 4) * 4)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def tiff_of_sixteen_bits() -> bytes:
    """4 x 4 pixels in RGB, not compressed."""
    bits, strip = 8 + 2 + 9 * 12 + 4, 8 + 2 + 9 * 12 + 4 + 6
    tags = [(256, 3, 1, 4), (257, 3, 1, 4), (258, 3, 3, bits), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, strip)]
    tags += [(277, 3, 1, 3), (278, 3, 1, 4), (279, 4, 1, 96)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    body = struct.pack("<HHH", 16, 16, 16) + b"\x34\x12" * 48
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + body


DEEP = {
    "RGB": sixteen_bits(2, 3),
    "RGBA": sixteen_bits(6, 4),
    "grey with transparency": sixteen_bits(4, 2),
    "TIFF": tiff_of_sixteen_bits(),
}


@pytest.mark.quick
@pytest.mark.parametrize("kind", DEEP)
def test_colours_of_sixteen_bits_are_refused_too(kind):
    message = line(Pixels(PixelsParams()), DEEP[kind])
    assert message.startswith(READS + "one of mode ")
    assert message.endswith(", with more than 8 bits per channel; convert it to 8 bits")


@pytest.mark.quick
def test_palettes_and_black_and_white_have_fewer_bits_and_are_read():
    for mode in ("1", "P"):
        image = picture(8, 8).convert(mode, colors=4) if mode == "P" else picture(8, 8).convert(mode)
        assert pixels_of(image, size=[8, 8]).shape == (3, 8, 8)


@pytest.mark.quick
@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF"])
def test_an_image_is_turned_as_its_exif_data_say(form):
    upright = np.zeros((8, 16, 3), np.uint8)
    upright[:, :8] = 200  # bright on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    buffer = io.BytesIO()
    Image.fromarray(upright).rotate(90, expand=True).save(buffer, form, exif=exif)
    (array,) = Pixels(PixelsParams(size=(8, 16))).extract([RawItem(buffer.getvalue(), "post 12")])
    np.testing.assert_allclose(array, upright.transpose(2, 0, 1) / 255, atol=0.02)


# --- mobilenet_v2 ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights") / "any name.pth")


def mobilenet(weights) -> MobileNetV2:
    return MobileNetV2(MobileNetV2Params(weights=str(weights)))


@pytest.mark.parametrize("size", [(300, 260), (31, 40), (256, 256), (500, 224)])
def test_the_network_sees_what_torchvision_would_show_it(size):
    use_torchvision()
    from torchvision.models import MobileNet_V2_Weights

    image = picture(*size)
    expected = MobileNet_V2_Weights.IMAGENET1K_V1.transforms()(image).numpy()
    np.testing.assert_allclose(network_input(content(image)), expected, atol=1e-5)


def test_the_features_are_what_the_classifier_of_torchvision_is_given(weights):
    whole, image = network(), picture(260, 300)
    seen = []
    whole.classifier.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        whole(torch.from_numpy(network_input(content(image)))[None])
    (array,) = mobilenet(weights).extract([content(image)])
    assert array.shape == (1280,) and np.abs(array).max() > 0.1
    np.testing.assert_allclose(array, seen[0][0].numpy(), rtol=1e-4, atol=1e-5)


def test_an_image_has_the_same_bytes_among_others_and_alone(weights):
    contents = [content(picture(60 + 10 * seed, 50, seed=seed)) for seed in range(4)]
    together = mobilenet(weights).extract(contents)
    alone = [mobilenet(weights).extract([one])[0] for one in reversed(contents)]
    assert [array.tobytes() for array in together] == [array.tobytes() for array in reversed(alone)]


def test_extraction_leaves_random_numbers_threads_and_gradients_as_they_were(weights):
    torch.manual_seed(5)
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    mobilenet(weights).extract([content(picture(40, 40))])
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == threads and torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_the_fingerprint_is_that_of_the_weights_wherever_they_lie(weights, tmp_path):
    moved = tmp_path / "other" / weights.name
    moved.parent.mkdir()
    moved.write_bytes(weights.read_bytes())
    assert mobilenet(moved).fingerprint() == mobilenet(weights).fingerprint()
    other = write_weights(tmp_path / weights.name, seed=1)
    assert mobilenet(other).fingerprint() != mobilenet(weights).fingerprint()
    assert str(tmp_path) not in mobilenet(moved).fingerprint()


def test_weights_are_found_in_the_cache_of_pytorch_and_never_fetched(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_: pytest.fail("it was fetched"))
    folder = tmp_path / "hub" / "checkpoints"
    cached = MobileNetV2(MobileNetV2Params())
    message = line(cached, image_bytes(picture(8, 8)))
    assert message == (
        f"mobilenet_v2: expected its weights in {folder / FILE}, found no file; "
        f"download https://download.pytorch.org/models/{FILE} into that folder, or name another file (weights: PATH)"
    )
    folder.mkdir(parents=True)
    (folder / FILE).write_bytes(weights.read_bytes())
    (array,) = cached.extract([content(picture(40, 40))])
    np.testing.assert_array_equal(array, mobilenet(weights).extract([content(picture(40, 40))])[0])


def test_weights_missing_at_the_path_of_the_key_are_reported(tmp_path):
    with pytest.raises(DataError, match=r"^mobilenet_v2: expected its weights in .*absent\.pth, found no file; "):
        mobilenet(tmp_path / "absent.pth").fingerprint()


def test_files_of_other_things_are_no_weights(weights, tmp_path):
    path = tmp_path / "weights.pth"
    incomplete = torch.load(weights, weights_only=True)
    del incomplete["features.18.1.running_var"]
    for data in (b"", b"not weights", weights.read_bytes()[:50_000], incomplete, {"classifier.1.bias": torch.ones(3)}):
        path.write_bytes(data) if isinstance(data, bytes) else torch.save(data, path)
        message = line(mobilenet(path), image_bytes(picture(8, 8)))
        assert message.startswith(f"{path}: expected a state dict of torchvision's MobileNetV2, found ")
        assert "\n" not in message


def test_a_thread_of_pixels_is_refused(weights):
    message = line(mobilenet(weights), image_bytes(Image.new("RGB", (2, 200))))
    assert message == "post 12: expected sides of at most 50 to 1, found 2 x 200 pixels"
