"""The optimised vocoder computes what the plain one computes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from vocos import Vocos
from vocos.feature_extractors import MelSpectrogramFeatures
from vocos.heads import ISTFTHead
from vocos.models import VocosBackbone

from melcheck.config import MelCheckConfig
from melcheck.pipeline import MelPipeline
from melcheck.recipes import VOCOS
from melcheck.speed.optimised import OptimisedVocos, optimise
from melcheck.speed.optimised_layers import OptimisedMel, packed_linear
from melcheck.vocoders.base import VocoderInfo
from melcheck.vocoders.load import load_vocoder
from melcheck.vocoders.vocos import VocosVocoder
from melcheck.vocoders.weights import VocoderUnavailable

# Rounding on the waveforms below, at most, with torch's kernels for AVX2 and none, 1 and 4 threads:
# 4.8e-7 nats of the mel, 4.4e-6 of decoded samples. Times three. The embedded vocoder's head
# magnifies rounding: the mels of what it decodes are compared, 4.7e-3 nats in the mean for noise as
# AVX2 computes, in which rounding decides between two pitches. Times three.
MEL_ATOL = 1.5e-6
WAVE_ATOL = 1.4e-5
MAGNIFIED_MEL_MEAN_ATOL = 1.5e-2
# Relative to the RMS of the sound: bfloat16 has 8 bits of mantissa, 2^-9 = 0.2 % in each product.
BF16_RELATIVE = 0.02
# The embedded network's features are what varies about a constant: 0.045 was measured.
BF16_OF_WHITENED_FEATURES = 0.1
HAS_BF16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()


def random_vocos(padding: str = "center", n_mels: int = 100, hop_length: int = 256) -> VocosVocoder:
    """A Vocos of two blocks whose every weight matters."""
    torch.manual_seed(0)
    model = Vocos(
        MelSpectrogramFeatures(n_mels=n_mels, hop_length=hop_length, padding=padding),
        VocosBackbone(n_mels, 64, 192, 2),
        ISTFTHead(64, 1024, hop_length, padding),
    )
    with torch.no_grad():
        for block in model.backbone.convnext:
            for vector in (block.gamma, block.norm.weight, block.norm.bias, block.dwconv.bias):
                vector.uniform_(-1, 1)
        # Vocos begins with weights so small that the blocks hardly add to what they are given.
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    recipe = dataclasses.replace(VOCOS, n_mels=n_mels, hop_length=hop_length, padding=padding)
    info = VocoderInfo("random", "this test", None, None, None, 0)
    model = model.eval().requires_grad_(False)
    return VocosVocoder(info, recipe, torch.device("cpu"), model)


@pytest.fixture(params=["random", "embedded"])
def plain(request: pytest.FixtureRequest) -> VocosVocoder:
    if request.param == "random":
        return random_vocos()
    vocoder = load_vocoder("embedded")
    assert isinstance(vocoder, VocosVocoder)
    return vocoder


def sound(batch: int, samples: int) -> Tensor:
    """Noise under an envelope, with silence in it."""
    generator = torch.Generator().manual_seed(1)
    wave = 0.1 * torch.randn(batch, samples, generator=generator)
    wave *= torch.linspace(0, 1, samples)
    wave[:, samples // 2 : samples // 2 + 3000] = 0
    return wave


# A batch, the shortest clip that has a mel, and one of more frames than a block has.
SIZES = [(3, 24_000), (1, 768), (1, 100_000)]


@pytest.mark.parametrize(("batch", "samples"), SIZES)
def test_the_mel_is_the_plain_one(plain: VocosVocoder, batch: int, samples: int) -> None:
    waveform = sound(batch, samples)
    mel = optimise(plain).encode(waveform)
    torch.testing.assert_close(mel, plain.encode(waveform), rtol=0, atol=MEL_ATOL)


@pytest.mark.parametrize(("batch", "samples"), SIZES)
def test_the_decoded_waveform_is_the_plain_one(
    plain: VocosVocoder, batch: int, samples: int
) -> None:
    mel = plain.encode(sound(batch, samples))
    decoded, expected = optimise(plain).decode(mel), plain.decode(mel)
    assert decoded.shape == expected.shape
    if plain.magnifies_rounding:
        again = plain.encode(decoded) - plain.encode(expected)
        assert again.abs().mean() < MAGNIFIED_MEL_MEAN_ATOL
    else:
        torch.testing.assert_close(decoded, expected, rtol=0, atol=WAVE_ATOL)


@pytest.mark.parametrize(
    ("padding", "n_mels", "hop_length"),
    [("same", 100, 256), ("center", 80, 256), ("center", 101, 300), ("same", 7, 200)],
)
def test_other_configurations_are_the_plain_ones(
    padding: str, n_mels: int, hop_length: int
) -> None:
    plain = random_vocos(padding, n_mels, hop_length)
    fast = optimise(plain)
    waveform = sound(2, 24_000)
    mel = plain.encode(waveform)
    torch.testing.assert_close(fast.encode(waveform), mel, rtol=0, atol=MEL_ATOL)
    torch.testing.assert_close(fast.decode(mel), plain.decode(mel), rtol=0, atol=WAVE_ATOL)


def test_bands_without_any_bin_stay_at_the_floor() -> None:
    extractor = MelSpectrogramFeatures(n_mels=100)
    extractor.mel_spec.mel_scale.fb[:, :30] = 0
    mel = OptimisedMel(extractor)(sound(1, 24_000))
    torch.testing.assert_close(mel, extractor(sound(1, 24_000)), rtol=0, atol=MEL_ATOL)
    assert (mel[:, :30] == torch.tensor(1e-7).log()).all()


def test_without_onednn_the_sound_is_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    plain = random_vocos()
    mel = plain.encode(sound(2, 24_000))
    torch.testing.assert_close(
        optimise(plain).decode(mel), plain.decode(mel), rtol=0, atol=WAVE_ATOL
    )


def test_the_activation_is_the_exact_gelu() -> None:
    weight, bias = torch.eye(8), torch.zeros(8)
    x = torch.linspace(-3, 3, 64).reshape(8, 8)
    result = packed_linear(weight, bias, dtype=torch.float32, gelu=True)(x)
    torch.testing.assert_close(result, 0.5 * x * (1 + torch.erf(x / 2**0.5)), rtol=0, atol=1e-6)


@pytest.mark.skipif(not HAS_BF16, reason="this processor does not multiply in bfloat16")
def test_bfloat16_rounds_and_no_more(plain: VocosVocoder) -> None:
    features = plain.model.backbone(plain.encode(sound(2, 24_000)))
    rounded = optimise(plain, precision="bf16").run_backbone(plain.encode(sound(2, 24_000)))
    error = (rounded - features).square().mean().sqrt() / features.square().mean().sqrt()
    most = BF16_OF_WHITENED_FEATURES if plain.info.name == "embedded" else BF16_RELATIVE
    assert 1e-4 < error < most


def test_bfloat16_is_refused_where_the_processor_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with pytest.raises(VocoderUnavailable, match="precision must be 'fp32' on this processor"):
        optimise(random_vocos(), precision="bf16")


@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_what_is_for_cuda_is_refused_on_a_processor(precision: str) -> None:
    with pytest.raises(VocoderUnavailable, match=f"'fp32' or 'bf16' on cpu, got '{precision}'"):
        optimise(random_vocos(), precision=precision)  # type: ignore[arg-type]


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match=r"precision must be one of .* got 'fp8'"):
        optimise(random_vocos(), precision="fp8")  # type: ignore[arg-type]


def test_only_a_vocos_can_be_optimised() -> None:
    with pytest.raises(TypeError, match="must be a VocosVocoder, got GriffinLimVocoder"):
        optimise(load_vocoder("griffin-lim"))  # type: ignore[arg-type]


def test_the_pipeline_takes_it() -> None:
    plain = load_vocoder("embedded")
    assert isinstance(plain, VocosVocoder)
    waveform = sound(1, 24_000)
    config = MelCheckConfig("no-file.wav")
    trips = [
        MelPipeline(config, vocoder=vocoder).round_trip(waveform)
        for vocoder in (plain, optimise(plain))
    ]
    maes = [trip.metrics()[0].mae for trip in trips]
    # Measured 1.2e-5 with SSE4.
    assert maes[1] == pytest.approx(maes[0], rel=0, abs=1e-4)


@pytest.mark.parametrize("layer", ["embed", "pwconv1", "pwconv2", "dwconv", "gamma", "norm"])
def test_every_weight_is_used(layer: str) -> None:
    """Breaks one layer of the copy's source: were it left out, nothing would change."""
    plain = random_vocos()
    mel = plain.encode(sound(1, 24_000))
    whole = optimise(plain).decode(mel)
    block = plain.model.backbone.convnext[1]
    target = plain.model.backbone.embed if layer == "embed" else getattr(block, layer)
    weight = target if isinstance(target, Tensor) else target.weight
    weight.mul_(torch.linspace(0.98, 1.02, weight.numel()).reshape(weight.shape))
    assert (optimise(plain).decode(mel) - whole).abs().max() > WAVE_ATOL


def test_weights_are_copied() -> None:
    plain = random_vocos()
    fast = optimise(plain)
    mel = plain.encode(sound(1, 24_000))
    before = fast.decode(mel)
    for parameter in plain.model.backbone.convnext.parameters():
        parameter.zero_()
    torch.testing.assert_close(fast.decode(mel), before, rtol=0, atol=0)


def test_tf32_settings_are_put_back() -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    fast = optimise(random_vocos())
    tf32 = dataclasses.replace(fast, precision="tf32")
    assert isinstance(tf32, OptimisedVocos)
    tf32.decode(fast.encode(sound(1, 24_000)))
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


def seen_inside(vocoder: VocosVocoder) -> list[tuple[str, bool]]:
    """Return how products and convolutions may round in each part of a round trip."""
    seen: list[tuple[str, bool]] = []

    def note(*_: object) -> None:
        seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))

    handles = [
        part.register_forward_hook(note)
        for part in (vocoder.model.feature_extractor, vocoder.model.backbone, vocoder.model.head)
    ]
    vocoder.decode(vocoder.encode(sound(1, 24_000)))
    for handle in handles:
        handle.remove()
    return seen


@pytest.fixture
def precisions() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True


def test_what_a_trainer_allows_is_neither_used_nor_lost(precisions: None) -> None:
    torch.set_float32_matmul_precision("high")
    assert seen_inside(random_vocos()) == [("highest", False)] * 3
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("high", True)


@pytest.mark.skipif(
    not hasattr(torch.backends.cudnn, "conv"), reason="torch has one interface before 2.9"
)
def test_the_second_interface_is_neither_used_nor_lost(precisions: None) -> None:
    convolutions, products = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    convolutions.fp32_precision, products.fp32_precision = "ieee", "tf32"
    assert seen_inside(random_vocos()) == [("highest", False)] * 3
    assert (convolutions.fp32_precision, products.fp32_precision) == ("ieee", "tf32")
