"""WAV files: every width of samples, and one line for each that cannot be read."""

import struct

import numpy as np
import pytest

from fedrecon_core.errors import DataError
from fedrecon_core.preparation.features.base import RawItem
from fedrecon_core.preparation.features.wav import read_mono
from tests.helpers.contents import RATE, float_wav_bytes, tone, wav_bytes

pytestmark = pytest.mark.quick

TOLD = "convert it: ffmpeg -i IN -ac 1 -ar 16000 -c:a pcm_s16le OUT.wav"
FORMAT = 20
"""Where the description of the format begins; 16 bytes behind it stands `data`, and behind that its size."""


def read(data: bytes, stereo="refuse"):
    return read_mono(RawItem(data, "clip 7"), RATE, stereo)


def line(data: bytes) -> str:
    with pytest.raises(DataError) as caught:
        read(data)
    return str(caught.value)


@pytest.mark.parametrize(("width", "step"), [(1, 2**-7), (2, 2**-15), (3, 2**-23), (4, 2**-23)])
def test_pcm_of_every_width_is_the_signal_within_a_step(width, step):
    signal = tone(0.05)
    samples = read(wav_bytes(signal, width=width))
    assert samples.dtype == np.float32
    np.testing.assert_allclose(samples, signal, atol=1.5 * step)


@pytest.mark.parametrize("width", [2, 3, 4])
def test_the_extremes_of_pcm_are_minus_one_and_almost_one(width):
    low, high = read(wav_bytes(np.array([-1.0, 1.0], np.float32), width=width))
    assert low == pytest.approx(-1.0, abs=2.0 ** (1 - 8 * min(width, 3)))
    assert high == pytest.approx(1.0, abs=2.0 ** (2 - 8 * min(width, 3))) and high <= 1.0


def test_floating_point_is_read_to_the_bit():
    np.testing.assert_array_equal(read(float_wav_bytes(tone(0.05))), tone(0.05))


def test_the_extended_header_of_other_programs_is_understood():
    plain = wav_bytes(tone(0.05), width=3)
    described = plain[FORMAT : FORMAT + 16]
    extended = struct.pack("<H", 0xFFFE) + described[2:] + struct.pack("<HHIH", 22, 24, 4, 1) + bytes(14)
    data = plain[:16] + struct.pack("<I", len(extended)) + extended + plain[FORMAT + 16 :]
    np.testing.assert_array_equal(read(data), read(plain))


def test_other_parts_of_the_file_are_passed_over():
    plain = wav_bytes(tone(0.05))
    note = b"LIST" + struct.pack("<I", 5) + b"INFO!" + b"\0"  # parts of odd size have a byte more
    np.testing.assert_array_equal(read(plain[:36] + note + plain[36:]), read(plain))


def test_sound_of_unknown_size_goes_on_to_the_end():
    plain = wav_bytes(tone(0.05))
    piped = plain[:40] + struct.pack("<I", 0xFFFFFFFF) + plain[44:] + b"\x01"
    np.testing.assert_array_equal(read(piped), read(plain))


def test_several_channels_are_refused_unless_they_are_to_be_averaged():
    left = tone(0.05)
    data = wav_bytes(np.stack([left, 0 * left], axis=1), width=4)
    np.testing.assert_allclose(read(data, "mean"), left / 2, atol=1e-6)
    assert line(data) == f"clip 7: expected one channel (or stereo: mean), found 2; {TOLD}"


def test_another_rate_is_told_with_the_line_that_converts():
    assert line(wav_bytes(tone(0.1), rate=44_100)) == f"clip 7: expected 16000 Hz, found 44100 Hz; {TOLD}"


def test_a_file_that_was_cut_is_told():
    data = wav_bytes(tone(0.1))
    assert line(data[:1001]) == f"clip 7: expected 3200 bytes of sound, found 957 (the file is truncated); {TOLD}"


CUT = wav_bytes(tone(0.01))
BAD = {
    "nothing": (b"", "expected a WAV file, found no bytes"),
    "text": (b"what was said", "expected a WAV file, found other bytes"),
    "a film": (bytes.fromhex("0000001c66747970") + b"isom" + bytes(90), "expected a WAV file, found other bytes"),
    "the name alone": (CUT[:12], "expected a WAV file with a format and a sound, found one without"),
    "half a format": (CUT[:30], "expected 16 bytes of format description, found 10"),
    "no sound": (wav_bytes(tone(0.0)), "expected sound in frames of 2 bytes, found 0 bytes"),
    "half a sample": (
        CUT[:40] + struct.pack("<I", 7) + CUT[44:51],
        "expected sound in frames of 2 bytes, found 7 bytes",
    ),
    "compressed": (
        CUT[:FORMAT] + struct.pack("<H", 0x55) + CUT[FORMAT + 2 :],
        "expected PCM or floating point, not compressed, found code 85 of 16 bits in 1 channels",
    ),
    "no channel": (
        CUT[: FORMAT + 2] + struct.pack("<H", 0) + CUT[FORMAT + 4 :],
        "expected PCM or floating point, not compressed, found code 1 of 16 bits in 0 channels",
    ),
    "not finite": (
        float_wav_bytes(np.array([0, np.nan, 1], np.float32)),
        "expected finite samples, found NaN or infinity",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_each_fault_is_one_line_that_names_the_file(fault):
    data, expected = BAD[fault]
    assert line(data) == f"clip 7: {expected}; {TOLD}"


def test_no_cut_and_no_flipped_byte_of_the_head_escapes_the_words():
    """Whatever a damaged head says, reading ends in samples or in one line."""
    data = wav_bytes(tone(0.01))
    for place in range(46):
        for damaged in (data[:place], data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]):
            try:
                assert np.isfinite(read(damaged)).all()
            except DataError as error:
                assert "\n" not in str(error) and str(error).startswith("clip 7: expected ")
