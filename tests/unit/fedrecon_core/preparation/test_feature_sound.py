"""log_mel and mfcc against a computation of their own, by the definition alone."""

import struct

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.fft import dct

from fedrecon_core.errors import DataError
from fedrecon_core.preparation.features.base import RawItem
from fedrecon_core.preparation.features.log_mel import LogMel, LogMelParams
from fedrecon_core.preparation.features.mfcc import Mfcc, MfccParams
from fedrecon_core.preparation.features.wav import read_mono
from tests.helpers.features import RATE, float_wav_bytes, tone, wav_bytes

WINDOW, HOP, POINTS = 400, 160, 512


def mel(hertz):
    return 2595 * np.log10(1 + np.asarray(hertz) / 700)


def triangles(bins: int) -> np.ndarray:
    """[bins, POINTS / 2 + 1]: triangles of height 1 between corners at equal distances in mel, from 20 Hz to half the
    rate."""
    corners = 700 * (10 ** (np.linspace(mel(20), mel(RATE / 2), bins + 2) / 2595) - 1)
    hertz = np.arange(POINTS // 2 + 1) * RATE / POINTS
    rows = []
    for low, middle, high in zip(corners, corners[1:], corners[2:], strict=False):
        rows.append(np.clip(np.minimum((hertz - low) / (middle - low), (high - hertz) / (high - middle)), 0, None))
    return np.array(rows)


def defined(signal: np.ndarray, bins: int = 80) -> np.ndarray:
    """ln(power in a band + 1e-6) of every whole window, in double precision."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    count = 1 + (len(signal) - WINDOW) // HOP
    windows = np.stack([signal[i * HOP : i * HOP + WINDOW] * hann for i in range(count)]).astype(np.float64)
    power = np.abs(np.fft.rfft(windows, POINTS)) ** 2
    return np.log(power @ triangles(bins).T + 1e-6)


def noise(samples: int) -> np.ndarray:
    return np.random.default_rng(3).uniform(-0.3, 0.3, samples).astype(np.float32)


def extracted(cls, signal, **keys) -> np.ndarray:
    (array,) = cls(cls.Params(**keys)).extract([RawItem(float_wav_bytes(signal), "clip")])
    return array


@pytest.mark.parametrize("signal", [noise(5000), noise(WINDOW), tone(0.5, 1000.0), 1e-4 * noise(3000)], ids=len)
def test_log_mel_follows_its_formula(signal):
    expected = defined(signal)
    array = extracted(LogMel, signal)
    assert array.shape == expected.shape
    np.testing.assert_allclose(array, expected, atol=2e-3)


def test_mfcc_is_the_cosine_transform_of_log_mel():
    signal = noise(5000)
    expected = dct(defined(signal), type=2, norm="ortho", axis=1)
    np.testing.assert_allclose(extracted(Mfcc, signal), expected[:, :40], atol=5e-3)
    np.testing.assert_array_equal(extracted(Mfcc, signal, coefficients=5), extracted(Mfcc, signal)[:, :5])


def test_a_tone_is_loudest_in_the_band_around_it():
    for hertz in (300.0, 1000.0, 3000.0):
        loudest = extracted(LogMel, tone(0.2, hertz)).mean(axis=0).argmax()
        corners = np.linspace(mel(20), mel(RATE / 2), 82)
        assert corners[loudest] < mel(hertz) < corners[loudest + 2]


def test_silence_is_the_logarithm_of_the_floor():
    np.testing.assert_allclose(extracted(LogMel, np.zeros(800, np.float32)), np.log(1e-6), rtol=1e-6)


def test_a_sound_shorter_than_a_window_is_one_window_filled_with_zeros():
    short = noise(100)
    np.testing.assert_allclose(extracted(LogMel, short), defined(np.pad(short, (0, 300))), atol=2e-3)


def test_a_sound_with_more_windows_than_longest_is_refused_or_cut():
    signal = noise(8000)  # 48 windows
    first = extracted(LogMel, signal, longest=7, longer="cut")
    assert first.shape == (7, 80)
    np.testing.assert_allclose(first, extracted(LogMel, signal)[:7], atol=1e-5)
    with pytest.raises(DataError) as caught:
        extracted(LogMel, signal, longest=7)
    expected = "clip: expected at most longest (7) windows, which are 0.09 s, found 48 (0.50 s)"
    assert str(caught.value) == f"{expected}; raise longest, or set longer: cut"


def test_what_is_too_short_for_one_window_more_is_not_too_long():
    most = 6 * HOP + WINDOW
    assert len(extracted(LogMel, noise(most + HOP - 1), longest=7)) == 7
    with pytest.raises(DataError, match=r"found 8 \("):
        extracted(LogMel, noise(most + HOP), longest=7)


def test_the_modality_has_the_longest_length_and_is_standardised():
    spec = LogMel(LogMelParams()).modality("audio")
    assert (spec.kind, spec.shape, spec.scale) == ("sequence", (1000, 80), "standard")
    assert Mfcc(MfccParams()).modality("audio").shape == (1000, 40)


def test_sixteen_bits_are_enough():
    signal = tone(0.3)
    (array,) = LogMel(LogMelParams()).extract([RawItem(wav_bytes(signal), "clip")])
    loud = defined(signal) > 0
    np.testing.assert_allclose(array[loud], defined(signal)[loud], atol=1e-2)


def test_bands_without_a_frequency_are_refused():
    with pytest.raises(DataError) as caught:
        extracted(LogMel, noise(800), bins=300)
    message = "expected fewer, found 300, of which some contain no frequency of a window of 25.0 ms"
    assert str(caught.value) == f"log_mel: bins: {message}; lower bins or raise window_ms"


@pytest.mark.parametrize(
    ("cls", "keys", "words"),
    [
        (MfccParams, {"coefficients": 81}, r"expected at most bins \(80\), found 81"),
        (LogMelParams, {"window_ms": 0.5}, "expected at least 16 samples at 16000 Hz, found 8"),
        (LogMelParams, {"hop_ms": 0.01}, "expected at least 1 samples at 16000 Hz, found 0"),
    ],
)
def test_keys_that_cannot_be_are_refused(cls, keys, words):
    with pytest.raises(ValidationError, match=words):
        cls(**keys)


# --- WAV files -------------------------------------------------------------------------------------------------------


TOLD = "convert it: ffmpeg -i IN -ac 1 -ar 16000 -c:a pcm_s16le OUT.wav"
FORMAT = 20
"""Where the description of the format begins; 16 bytes behind it stands `data`, and behind that its size."""


def read(data: bytes, stereo="refuse"):
    return read_mono(RawItem(data, "clip 7"), RATE, stereo)


def line(data: bytes) -> str:
    with pytest.raises(DataError) as caught:
        read(data)
    return str(caught.value)


@pytest.mark.quick
@pytest.mark.parametrize(("width", "step"), [(1, 2**-7), (2, 2**-15), (3, 2**-23), (4, 2**-23)])
def test_pcm_of_every_width_is_the_signal_within_a_step(width, step):
    signal = tone(0.05)
    samples = read(wav_bytes(signal, width=width))
    assert samples.dtype == np.float32
    np.testing.assert_allclose(samples, signal, atol=1.5 * step)


@pytest.mark.quick
@pytest.mark.parametrize("width", [2, 3, 4])
def test_the_extremes_of_pcm_are_minus_one_and_almost_one(width):
    low, high = read(wav_bytes(np.array([-1.0, 1.0], np.float32), width=width))
    assert low == pytest.approx(-1.0, abs=2.0 ** (1 - 8 * min(width, 3)))
    assert high == pytest.approx(1.0, abs=2.0 ** (2 - 8 * min(width, 3))) and high <= 1.0


@pytest.mark.quick
def test_floating_point_is_read_to_the_bit():
    np.testing.assert_array_equal(read(float_wav_bytes(tone(0.05))), tone(0.05))


@pytest.mark.quick
def test_the_extended_header_of_other_programs_is_understood():
    plain = wav_bytes(tone(0.05), width=3)
    described = plain[FORMAT : FORMAT + 16]
    extended = struct.pack("<H", 0xFFFE) + described[2:] + struct.pack("<HHIH", 22, 24, 4, 1) + bytes(14)
    data = plain[:16] + struct.pack("<I", len(extended)) + extended + plain[FORMAT + 16 :]
    np.testing.assert_array_equal(read(data), read(plain))


@pytest.mark.quick
def test_other_parts_of_the_file_are_passed_over():
    plain = wav_bytes(tone(0.05))
    note = b"LIST" + struct.pack("<I", 5) + b"INFO!" + b"\0"  # parts of odd size have a byte more
    np.testing.assert_array_equal(read(plain[:36] + note + plain[36:]), read(plain))


@pytest.mark.quick
def test_sound_of_unknown_size_extends_to_the_end():
    plain = wav_bytes(tone(0.05))
    piped = plain[:40] + struct.pack("<I", 0xFFFFFFFF) + plain[44:] + b"\x01"
    np.testing.assert_array_equal(read(piped), read(plain))


@pytest.mark.quick
def test_several_channels_are_refused_unless_they_are_to_be_averaged():
    left = tone(0.05)
    data = wav_bytes(np.stack([left, 0 * left], axis=1), width=4)
    np.testing.assert_allclose(read(data, "mean"), left / 2, atol=1e-6)
    assert line(data) == f"clip 7: expected one channel (or stereo: mean), found 2; {TOLD}"


@pytest.mark.quick
def test_another_rate_is_reported_with_the_command_that_converts():
    assert line(wav_bytes(tone(0.1), rate=44_100)) == f"clip 7: expected 16000 Hz, found 44100 Hz; {TOLD}"


@pytest.mark.quick
def test_a_truncated_file_is_reported():
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


@pytest.mark.quick
@pytest.mark.parametrize("fault", BAD)
def test_each_fault_is_one_line_that_names_the_file(fault):
    data, expected = BAD[fault]
    assert line(data) == f"clip 7: {expected}; {TOLD}"


@pytest.mark.quick
def test_no_cut_and_no_flipped_byte_of_the_head_escapes_the_words():
    """With any damaged header, reading ends in samples or in an error of one line."""
    data = wav_bytes(tone(0.01))
    for place in range(46):
        for damaged in (data[:place], data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]):
            try:
                assert np.isfinite(read(damaged)).all()
            except DataError as error:
                assert "\n" not in str(error) and str(error).startswith("clip 7: expected ")
