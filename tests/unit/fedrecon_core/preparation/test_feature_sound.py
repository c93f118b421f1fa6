"""log_mel and mfcc against a computation of their own, by the definition alone."""

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.fft import dct

from fedrecon_core.errors import DataError
from fedrecon_core.preparation.features.base import RawItem
from fedrecon_core.preparation.features.log_mel import LogMel, LogMelParams
from fedrecon_core.preparation.features.mfcc import Mfcc, MfccParams
from tests.helpers.contents import RATE, float_wav_bytes, tone, wav_bytes

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
def test_log_mel_is_what_its_formula_says(signal):
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
    told = "expected fewer, found 300, of which some contain no frequency of a window of 25.0 ms"
    assert str(caught.value) == f"log_mel: bins: {told}; lower bins or raise window_ms"


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
