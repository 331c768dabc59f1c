"""Named recipes: the log-mels that other projects extract, each with the file that defines it.

A profile describes what the project feeds its model or vocoder. Where the project's function is
only part of the way (F5-TTS and ZipVoice share the vocoder of `vocos`), the note says so.

Every number was read in the file that `source` names, at the release or the revision that it gives.
Two were read second-hand: HiFi-GAN's configuration in the copy that Matcha-TTS releases, and the
statistics of LJ Speech in the README of Matcha-TTS. `tests/core/test_profiles.py` compares `vocos`,
`librosa-default` and `torchaudio-default` with the libraries themselves, and those that use
librosa's transform and filters with librosa.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from melcheck.recipes import VOCOS, MelRecipe


@dataclass(frozen=True, slots=True)
class Profile:
    """A recipe with its name and where it was read.

    Attributes:
        name: As in `profile:<name>`.
        recipe: All its numbers.
        source: Project, release or revision, and files.
        note: What else to know, in one line.
    """

    name: str
    recipe: MelRecipe
    source: str
    note: str = ""


# HiFi-GAN's mel and those that descend from it: 1e-9 under the root, librosa's filters.
_HIFIGAN = MelRecipe(
    sample_rate=22_050,
    padding="same",
    magnitude_eps=1e-9,
    n_mels=80,
    f_max=8_000.0,
    mel_scale="slaney",
    norm="slaney",
    floor=1e-5,
)
_MATCHA_MEAN, _MATCHA_STD = -5.536622, 2.116101
# (x + 12) / 14 * 2 - 1
_SOVITS_MEAN, _SOVITS_STD = -5.0, 7.0

_PROFILES = (
    Profile("vocos", VOCOS, "vocos 0.1.0, vocos/feature_extractors.py and vocos/modules.py"),
    Profile(
        "f5-tts",
        MelRecipe(floor=1e-5),
        "f5-tts 1.1.22, f5_tts/model/modules.py",
        "decoded with the Vocos of `vocos` although its floor is higher",
    ),
    Profile(
        "zipvoice",
        MelRecipe(tail="round"),
        "ZipVoice, zipvoice/utils/feature.py; lhotse 1.33.0, lhotse/utils.py (compute_num_frames)",
        "the model sees it times feat_scale = 0.1, which is undone before the vocoder",
    ),
    Profile(
        "bigvgan-24k",
        MelRecipe(
            padding="same",
            magnitude_eps=1e-9,
            mel_scale="slaney",
            norm="slaney",
            floor=1e-5,
        ),
        "BigVGAN 169ffbe, meldataset.py and configs/bigvgan_24khz_100band.json",
        "the rate, hop and number of bands of `vocos`, but a different mel",
    ),
    Profile(
        "matcha-22k",
        dataclasses.replace(_HIFIGAN, mean=_MATCHA_MEAN, std=_MATCHA_STD),
        "matcha-tts 0.0.7.2, matcha/utils/audio.py; its README for the statistics",
        "normalised with the statistics of LJ Speech",
    ),
    Profile(
        "hifigan-22k",
        _HIFIGAN,
        "HiFi-GAN 1198d8c, meldataset.py; its config_v1.json as in matcha-tts 0.0.7.2, "
        "matcha/hifigan/config.py",
    ),
    Profile(
        "vits-22k",
        dataclasses.replace(_HIFIGAN, magnitude_eps=1e-6, f_max=11_025.0),
        "VITS 427afd7, mel_processing.py and configs/ljs_base.json",
        "Piper and WeTTS extract the same",
    ),
    Profile(
        "cosyvoice2",
        dataclasses.replace(
            _HIFIGAN, sample_rate=24_000, n_fft=1920, win_length=1920, hop_length=480
        ),
        "CosyVoice 1c062ab, examples/libritts/cosyvoice2/conf/cosyvoice2.yaml (feat_extractor)",
    ),
    Profile(
        "gpt-sovits-v3",
        dataclasses.replace(
            _HIFIGAN,
            sample_rate=24_000,
            n_mels=100,
            f_max=12_000.0,
            magnitude_eps=1e-8,
            mean=_SOVITS_MEAN,
            std=_SOVITS_STD,
        ),
        "GPT-SoVITS 0690743, GPT_SoVITS/module/mel_processing.py; mel_fn of inference_webui.py",
        "[-12, 2] is scaled to [-1, 1], which is undone before the vocoder, BigVGAN at 24 kHz",
    ),
    Profile(
        "gpt-sovits-v4",
        dataclasses.replace(
            _HIFIGAN,
            sample_rate=32_000,
            n_fft=1280,
            win_length=1280,
            hop_length=320,
            n_mels=100,
            f_max=16_000.0,
            magnitude_eps=1e-8,
            mean=_SOVITS_MEAN,
            std=_SOVITS_STD,
        ),
        "GPT-SoVITS 0690743, GPT_SoVITS/module/mel_processing.py; mel_fn_v4 of inference_webui.py",
        "[-12, 2] is scaled to [-1, 1], which is undone before the vocoder",
    ),
    Profile(
        "nsf-hifigan-44k",
        dataclasses.replace(
            _HIFIGAN,
            sample_rate=44_100,
            n_fft=2048,
            win_length=2048,
            hop_length=512,
            n_mels=128,
            f_min=40.0,
            f_max=16_000.0,
            magnitude_eps=0.0,
        ),
        "DiffSinger edd1a1a, lib/feature/nvSTFT.py; 06af544, configs/acoustic.yaml",
        "DiffSinger stores it times 0.434294, a decimal logarithm, where mel_base is 10",
    ),
    Profile(
        "fish-speech",
        dataclasses.replace(
            _HIFIGAN,
            sample_rate=44_100,
            n_fft=2048,
            win_length=2048,
            hop_length=512,
            n_mels=160,
            f_max=22_050.0,
            magnitude_eps=1e-6,
        ),
        "fish-speech 9bbf513, fish_speech/utils/spectrogram.py; 072e9ac, "
        "fish_speech/configs/firefly_gan_vq.yaml",
    ),
    Profile(
        "tacotron2",
        MelRecipe(
            sample_rate=22_050,
            n_mels=80,
            f_max=8_000.0,
            mel_scale="slaney",
            norm="slaney",
            floor=1e-5,
        ),
        "Tacotron 2 of NVIDIA 09bbec0, layers.py and stft.py; 02daa00, hparams.py",
    ),
    Profile(
        "librosa-default",
        MelRecipe(
            sample_rate=22_050,
            n_fft=2048,
            win_length=2048,
            hop_length=512,
            pad_mode="constant",
            power=2.0,
            n_mels=128,
            f_max=11_025.0,
            mel_scale="slaney",
            norm="slaney",
            floor=1e-10,
            log_base="10",
            log_scale=10.0,
            dynamic_range=80.0,
        ),
        "librosa 0.11, feature/spectral.py (melspectrogram) and core/spectrum.py (power_to_db)",
    ),
    Profile(
        "torchaudio-default",
        MelRecipe(
            sample_rate=16_000,
            n_fft=400,
            win_length=400,
            hop_length=200,
            power=2.0,
            n_mels=128,
            f_max=8_000.0,
            floor=1e-10,
            log_base="10",
            log_scale=10.0,
        ),
        "torchaudio 2.11, transforms/_transforms.py (MelSpectrogram, then AmplitudeToDB)",
    ),
    Profile(
        "whisper",
        MelRecipe(
            sample_rate=16_000,
            n_fft=400,
            win_length=400,
            hop_length=160,
            tail="drop_last",
            power=2.0,
            n_mels=80,
            f_max=8_000.0,
            mel_scale="slaney",
            norm="slaney",
            floor=1e-10,
            log_base="10",
            dynamic_range=8.0,
            mean=-4.0,
            std=4.0,
        ),
        "whisper 06dc24a, whisper/audio.py",
    ),
)

PROFILES = {entry.name: entry for entry in _PROFILES}
"""Every profile by its name."""


def profile(name: str) -> MelRecipe:
    """Return the recipe of a named profile.

    Raises:
        ValueError: There is none of this name.

    Example:
        >>> profile("f5-tts").log_floor
        -11.512925464970229
    """
    if name not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {name!r}.")
    return PROFILES[name].recipe
