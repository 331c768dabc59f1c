"""The embedded vocoder, Griffin-Lim, directories, and every reason to refuse one."""

from __future__ import annotations

import os
import pickle
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor
from vocos import Vocos
from vocos.feature_extractors import MelSpectrogramFeatures

from melcheck.config import MelCheckConfig
from melcheck.pipeline import MelPipeline
from melcheck.profiles import PROFILES
from melcheck.recipes import VOCOS, MelRecipe, filterbank
from melcheck.vocoders import weights
from melcheck.vocoders.base import Vocoder, VocoderInfo
from melcheck.vocoders.griffin_lim import GriffinLimVocoder
from melcheck.vocoders.load import load_vocoder
from melcheck.vocoders.phase_head import ConsistentISTFTHead
from melcheck.vocoders.vocos import VocosVocoder
from melcheck.vocoders.weights import EMBEDDED_SHA256, VocoderError, VocoderUnavailable

_PHASE_HEAD = "melcheck.vocoders.phase_head.ConsistentISTFTHead"
_EMBEDDED = Path(weights.__file__).parents[1] / "data" / "embedded"
_HERE = Path(__file__).parent
SPEECH = _HERE.parents[1] / "fixtures" / "audio" / "kokoro-kumo-en.wav"

Config = dict[str, dict[str, Any]]
State = dict[str, Any]


@pytest.fixture(scope="module")
def embedded() -> Vocoder:
    return load_vocoder("embedded")


@pytest.fixture(scope="module")
def griffin_lim() -> Vocoder:
    return load_vocoder("griffin-lim")


@pytest.fixture(scope="module")
def waveform() -> Tensor:
    """Three seconds of ten harmonics of 150 Hz in noise, `[1, 72000]`, peak below 0.35."""
    seconds = torch.arange(72_000) / 24_000
    harmonics = sum(torch.sin(2 * torch.pi * 150 * k * seconds) / k for k in range(1, 11))
    noise = torch.randn(72_000, generator=torch.Generator().manual_seed(0))
    return (0.1 * harmonics + 0.005 * noise)[None]


@pytest.fixture(scope="module")
def small() -> tuple[Config, dict[str, Tensor]]:
    """A tiny Vocos of the same recipe, for what must be written to disk often."""
    config: Config = {
        "feature_extractor": {
            "class_path": "vocos.feature_extractors.MelSpectrogramFeatures",
            "init_args": {
                "sample_rate": 24_000,
                "n_fft": 1024,
                "hop_length": 256,
                "n_mels": 100,
                "padding": "center",
            },
        },
        "backbone": {
            "class_path": "vocos.models.VocosBackbone",
            "init_args": {
                "input_channels": 100,
                "dim": 8,
                "intermediate_dim": 16,
                "num_layers": 2,
            },
        },
        "head": {
            "class_path": "vocos.heads.ISTFTHead",
            "init_args": {"dim": 8, "n_fft": 1024, "hop_length": 256, "padding": "center"},
        },
    }
    return config, _random_state(config)


def _parts(config: Config) -> list[torch.nn.Module]:
    from vocos.pretrained import instantiate_class

    parts = []
    for section in config.values():
        # In a configuration the head bears a name; no module of that name is imported.
        if section["class_path"] == _PHASE_HEAD:
            parts.append(ConsistentISTFTHead(**section["init_args"]))
        else:
            parts.append(instantiate_class((), section))
    return parts


def _random_state(config: Config) -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Vocos(*_parts(config)).state_dict()


@pytest.fixture
def directory(tmp_path: Path, small: tuple[Config, dict[str, Tensor]]) -> Path:
    """The tiny Vocos as a directory with config.yaml and model.safetensors."""
    config, state = small
    _write_config(tmp_path, config)
    save_file(state, tmp_path / "model.safetensors")
    return tmp_path


def _write_config(directory: Path, config: object) -> None:
    (directory / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def _edit_config(directory: Path, edit: Callable[[Config], object]) -> None:
    config = yaml.safe_load((directory / "config.yaml").read_text())
    edit(config)
    _write_config(directory, config)


def _save_pickle(directory: Path, content: object) -> None:
    (directory / "model.safetensors").unlink(missing_ok=True)
    torch.save(content, directory / "pytorch_model.bin")


# The embedded vocoder.


def test_embedded_is_the_pinned_one_of_the_package(embedded: VocosVocoder) -> None:
    assert embedded.recipe == VOCOS
    assert embedded.info == VocoderInfo(
        name="embedded",
        source="melcheck package",
        revision=None,
        weights_sha256=EMBEDDED_SHA256["model.safetensors"],
        config_sha256=EMBEDDED_SHA256["config.yaml"],
        num_parameters=sum(p.numel() for p in embedded.model.parameters()),
    )


@pytest.mark.parametrize("name", ["embedded", "griffin-lim"])
def test_three_seconds_give_282_frames(name: str, waveform: Tensor) -> None:
    assert load_vocoder(name).encode(waveform).shape == (1, 100, 282)


@pytest.mark.parametrize(
    ("name", "batch", "frames"),
    [("embedded", 1, 2), ("embedded", 3, 31), ("griffin-lim", 1, 4), ("griffin-lim", 3, 31)],
)
def test_frames_give_a_hop_less_than_their_number(name: str, batch: int, frames: int) -> None:
    mel = torch.full((batch, 100, frames), -5.0)
    assert load_vocoder(name).decode(mel).shape == (batch, (frames - 1) * 256)


def test_embedded_equals_a_vocos_built_by_hand(embedded: Vocoder, waveform: Tensor) -> None:
    by_hand = Vocos(*_parts(yaml.safe_load((_EMBEDDED / "config.yaml").read_text())))
    state = load_file(_EMBEDDED / "model.safetensors")
    by_hand.load_state_dict({key: tensor.float() for key, tensor in state.items()})
    ours = embedded.decode(embedded.encode(waveform))
    assert torch.equal(ours, by_hand.eval()(waveform))


@pytest.mark.parametrize("name", ["embedded", "griffin-lim"])
def test_decoding_is_deterministic_and_draws_no_random_numbers(name: str, waveform: Tensor) -> None:
    before = torch.get_rng_state()
    vocoder = load_vocoder(name)
    mel = vocoder.encode(waveform[:, :24_000])
    assert torch.equal(vocoder.decode(mel), vocoder.decode(mel))
    assert torch.equal(torch.get_rng_state(), before)


def test_embedded_infers_in_float32_without_gradients(embedded: VocosVocoder) -> None:
    assert not any(module.training for module in embedded.model.modules())
    assert not any(parameter.requires_grad for parameter in embedded.model.parameters())
    assert {tensor.dtype for tensor in embedded.model.state_dict().values()} == {torch.float32}


def test_each_load_gives_a_model_of_its_own(embedded: VocosVocoder) -> None:
    again = load_vocoder("embedded")
    assert isinstance(again, VocosVocoder)
    assert again.model is not embedded.model


@pytest.mark.parametrize("name", ["config.yaml", "model.safetensors"])
def test_a_flipped_bit_in_the_package_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    copy = Path(shutil.copytree(_EMBEDDED, tmp_path / "embedded"))
    data = bytearray((copy / name).read_bytes())
    data[-1] ^= 1
    (copy / name).write_bytes(data)
    monkeypatch.setattr(weights, "_EMBEDDED_DIR", copy)
    with pytest.raises(VocoderError, match=rf"{name} must have sha256(?s:.*)reinstall melcheck"):
        load_vocoder("embedded")


def test_a_package_without_its_weights_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(weights, "_EMBEDDED_DIR", tmp_path)
    with pytest.raises(VocoderError, match=r"config\.yaml cannot be read(?s:.*)reinstall"):
        load_vocoder("embedded")


# Griffin-Lim.


def test_griffin_lim_has_no_parameters(griffin_lim: Vocoder) -> None:
    assert (griffin_lim.info.num_parameters, griffin_lim.info.weights_sha256) == (0, None)


def test_griffin_lim_extracts_the_mel_of_vocos(griffin_lim: Vocoder, waveform: Tensor) -> None:
    # Not the embedded vocoder's: its filterbank is stored, and was computed by another processor.
    extractor = MelSpectrogramFeatures(24_000, 1024, 256, 100, "center")
    assert torch.equal(griffin_lim.encode(waveform), extractor(waveform))


def test_griffin_lim_inverts_the_filterbank_on_mels_that_it_can_make(
    griffin_lim: GriffinLimVocoder,
) -> None:
    # F^T pinv(F^T) is the identity where the 100 filters are independent. Measured: 1.2e-7.
    filters = filterbank(VOCOS)
    torch.testing.assert_close(
        filters.T @ griffin_lim.inverse, torch.eye(VOCOS.n_mels), rtol=0, atol=1e-5
    )


def test_griffin_lim_keeps_the_mel(griffin_lim: Vocoder, waveform: Tensor) -> None:
    # MAE, measured: 0.142 on this signal, 0.111 on speech; 0.79 if the mel is off by three bands.
    mel = griffin_lim.encode(waveform)
    again = griffin_lim.encode(griffin_lim.decode(mel))
    assert (mel - again).abs().mean() < 0.2


def test_griffin_lim_gives_an_item_of_a_batch_what_it_gives_it_alone(
    griffin_lim: Vocoder, waveform: Tensor
) -> None:
    mel = griffin_lim.encode(waveform[:1])
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # which divide a batch otherwise than one item
    try:
        batch = griffin_lim.decode(torch.cat([mel, mel - 0.7, mel + 0.1]))
        assert torch.equal(batch[:1], griffin_lim.decode(mel))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ["embedded", "griffin-lim"])
def test_silence_stays_silent(name: str) -> None:
    # Peak, measured: 2e-9 for the embedded model, 1.3e-8 for Griffin-Lim.
    vocoder = load_vocoder(name)
    decoded = vocoder.decode(vocoder.encode(torch.zeros(1, 24_000)))
    assert decoded.abs().max() < 1e-6


# Directories.


def test_safetensors_and_pickle_give_the_same_waveform(directory: Path, waveform: Tensor) -> None:
    one = load_vocoder(directory)
    mel = one.encode(waveform)
    _save_pickle(directory, load_file(directory / "model.safetensors"))
    assert torch.equal(load_vocoder(directory).decode(mel), one.decode(mel))


def test_safetensors_are_preferred_to_a_pickle(directory: Path) -> None:
    (directory / "pytorch_model.bin").write_bytes(b"not read")
    assert load_vocoder(directory).info.name == str(directory)


def test_a_directory_reports_the_hashes_of_its_files(tmp_path: Path) -> None:
    copy = shutil.copytree(_EMBEDDED, tmp_path / "copy")
    assert load_vocoder(copy).info.weights_sha256 == EMBEDDED_SHA256["model.safetensors"]


def test_a_directory_of_another_recipe_carries_that_recipe(directory: Path) -> None:
    def edit(config: Config) -> None:
        config["feature_extractor"]["init_args"].update(sample_rate=22_050, n_mels=80)
        config["backbone"]["init_args"]["input_channels"] = 80
        for section in ("feature_extractor", "head"):
            config[section]["init_args"]["padding"] = "same"

    _edit_config(directory, edit)
    config = yaml.safe_load((directory / "config.yaml").read_text())
    save_file(_random_state(config), directory / "model.safetensors")
    expected = MelRecipe(sample_rate=22_050, n_mels=80, f_max=11_025.0, padding="same")
    assert load_vocoder(directory).recipe == expected


@pytest.mark.parametrize("removed", ["config.yaml", "model.safetensors"])
def test_an_incomplete_directory_says_what_it_must_hold(directory: Path, removed: str) -> None:
    (directory / removed).unlink()
    with pytest.raises(VocoderError, match=r"must hold config\.yaml and model\.safetensors or"):
        load_vocoder(directory)


# Names and devices.


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("offical", "Did you mean 'official'"),
        ("griffinlim", "Did you mean 'griffin-lim'"),
        ("Embedded", "Did you mean 'embedded'"),
        ("", "an existing directory, a repository"),
        ("./nowhere", "an existing directory, a repository"),
        ("a/b/c", "an existing directory, a repository"),
        ("../up/there", "an existing directory, a repository"),
        (
            str(_EMBEDDED / "config.yaml"),
            "That is a file. Give the directory that holds it: .*embedded",
        ),
    ],
)
def test_an_unknown_name_lists_what_is_accepted(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"'official', 'embedded', 'griffin-lim'.*{message}"):
        load_vocoder(name)


@pytest.mark.parametrize("name", ["official", "embedded", "griffin-lim", str(_HERE)])
def test_a_revision_belongs_to_repositories_only(name: str) -> None:
    with pytest.raises(ValueError, match="revision must be None"):
        load_vocoder(name, revision="main")


def test_two_revisions_are_refused() -> None:
    with pytest.raises(ValueError, match="revision must be 'v1' as in 'a/b@v1', got 'v2'"):
        load_vocoder("a/b@v1", revision="v2")


def test_an_unknown_device_is_a_value_error() -> None:
    with pytest.raises(ValueError, match=r"device must be one that torch knows.*'banana'"):
        load_vocoder("embedded", device="banana")


@pytest.mark.parametrize("device", ["cuda:99", "meta"])
def test_an_absent_device_is_unavailable(device: str) -> None:
    with pytest.raises(VocoderUnavailable, match=f"device must exist.*'{device}'"):
        load_vocoder("embedded", device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_without_a_gpu_is_unavailable() -> None:
    with pytest.raises(VocoderUnavailable, match=r"'cuda'(?s:.*)Use device='cpu'"):
        load_vocoder("griffin-lim", device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["embedded", "griffin-lim"])
def test_cuda_agrees_with_the_cpu_on_the_mel(name: str, waveform: Tensor) -> None:
    on_gpu = load_vocoder(name, device="cuda").encode(waveform.cuda()).cpu()
    torch.testing.assert_close(on_gpu, load_vocoder(name).encode(waveform), rtol=0, atol=1e-2)


# Shapes.


# GriffinLimVocoder, VocosVocoder and CallableVocoder check their input by the same two functions.
@pytest.mark.parametrize("name", ["embedded", "griffin-lim"])
@pytest.mark.parametrize("shape", [(72_000,), (1, 512)], ids=str)
def test_encode_refuses_what_is_no_batch_of_waveforms(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="waveform must"):
        load_vocoder(name).encode(torch.zeros(shape))


@pytest.mark.parametrize("name", ["embedded", "griffin-lim"])
@pytest.mark.parametrize("shape", [(100, 282), (1, 80, 282), (1, 100, 1)], ids=str)
def test_decode_refuses_what_is_no_batch_of_mels(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="mel must"):
        load_vocoder(name).decode(torch.zeros(shape))


def test_griffin_lim_refuses_less_than_one_reflection(griffin_lim: Vocoder) -> None:
    with pytest.raises(ValueError, match="mel must have at least 4 frames, got 3"):
        griffin_lim.decode(torch.zeros(1, 100, 3))


def test_a_transposed_mel_is_recognised(embedded: Vocoder) -> None:
    with pytest.raises(ValueError, match="looks transposed"):
        embedded.decode(torch.zeros(1, 282, 100))


# Configurations that are refused.


def _set(section: str, **values: object) -> Callable[[Config], object]:
    return lambda config: config[section]["init_args"].update(values)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_set("head", padding="same"), "head.padding must equal feature_extractor.padding"),
        (_set("head", hop_length=300), "head.hop_length must equal feature_extractor.hop"),
        (_set("head", n_fft=2048), "head.n_fft must equal feature_extractor.n_fft"),
        (_set("head", dim=16), "head.dim must equal backbone.dim"),
        (_set("backbone", input_channels=80), "backbone.input_channels must equal"),
        (lambda c: c["head"]["init_args"].pop("padding"), "got 'same' and 'center'"),
        (lambda c: c["head"]["init_args"].pop("dim"), "head.dim must be .* got nothing"),
        (_set("backbone", dim=10**9), "backbone.dim must be a whole number from 1 to 8,192"),
        (_set("backbone", num_layers=0), "num_layers must be a whole number from 1 to 128"),
        (_set("backbone", num_layers=True), r"got True \(bool\)"),
        (_set("backbone", dim="8"), r"got '8' \(str\)"),
        (_set("backbone", dim=8.0), r"got 8.0 \(float\)"),
        (_set("backbone", layer_scale_init_value=-1), r"must be in \(0, 1\], or null"),
        (_set("backbone", adanorm_num_embeddings=4), "adanorm_num_embeddings must be null"),
        (_set("feature_extractor", padding="valid"), "padding must be center or same"),
        (_set("feature_extractor", f_max=8000), r"must be among .* got \['f_max'\]"),
        (lambda c: c["head"].update(init_args=[1]), "head.init_args must hold numbers by name"),
        (lambda c: c["head"].update(extra=1), "head must hold class_path and init_args"),
        (lambda c: c.update(head=None), "head must hold class_path and init_args"),
        (lambda c: c.pop("head"), "must hold the sections feature_extractor, backbone, head"),
        (lambda c: c.update(more={}), "must hold the sections feature_extractor, backbone, head"),
    ],
)
def test_a_bad_configuration_names_the_file_and_the_setting(
    directory: Path, edit: Callable[[Config], object], message: str
) -> None:
    _edit_config(directory, edit)
    with pytest.raises(VocoderError, match=rf"config\.yaml.*{message}"):
        load_vocoder(directory)


def test_windows_too_far_apart_are_refused(directory: Path) -> None:
    def edit(config: Config) -> None:
        for section in ("feature_extractor", "head"):
            config[section]["init_args"]["hop_length"] = 1024

    _edit_config(directory, edit)
    with pytest.raises(VocoderError, match=r"hop_length must be at most half of n_fft"):
        load_vocoder(directory)


@pytest.mark.parametrize(
    ("section", "class_path"),
    [
        ("feature_extractor", "vocos.feature_extractors.EncodecFeatures"),
        ("backbone", "os.system"),
        ("head", "vocos.heads.IMDCTCosHead"),
        ("head", None),
    ],
)
def test_another_class_is_refused(directory: Path, section: str, class_path: str | None) -> None:
    _edit_config(directory, lambda config: config[section].update(class_path=class_path))
    with pytest.raises(VocoderError, match=rf"{section}\.class_path must be vocos\."):
        load_vocoder(directory)


def test_a_class_that_a_file_names_is_not_imported(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (directory / "trap.py").write_text("from pathlib import Path\nPath(__file__).unlink()\n")
    monkeypatch.syspath_prepend(str(directory))
    _edit_config(directory, lambda config: config["head"].update(class_path="trap.Head"))
    with pytest.raises(VocoderError, match="imports nothing that a file names"):
        load_vocoder(directory)
    assert (directory / "trap.py").exists()


_BOMB = "\n".join(
    ["a0: &a0 [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]"]
    + [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, 12)]
    + ["feature_extractor: {class_path: *a11}", "backbone: {}", "head: {}"]
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("!!python/object/apply:os.system ['true']", "is not plain YAML"),
        ("a: [", "is not plain YAML"),
        ("when: 2001-99-99", "is not plain YAML"),
        ("[" * 1_000, "is not plain YAML"),
        ("\x00", "is not plain YAML"),
        ("just a sentence", "must hold the sections"),
        ("model:\n  init_args: {}", r"must hold the sections(?s:.*)model\.init_args"),
        (_BOMB, "must hold the sections"),
        ("#" * 70_000, "must be at most 65,536 bytes"),
    ],
    ids=["tag", "syntax", "date", "nesting", "nul", "text", "training", "bomb", "size"],
)
def test_what_is_no_plain_yaml_is_refused(directory: Path, text: str, message: str) -> None:
    (directory / "config.yaml").write_text(text)
    with pytest.raises(VocoderError, match=rf"config\.yaml {message}"):
        load_vocoder(directory)


# Weights that are refused.

_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:ab5b\nsize 5872708\n"


@pytest.mark.parametrize("name", ["config.yaml", "model.safetensors"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_POINTER, r"is a Git LFS pointer of \d+ bytes(?s:.*)git lfs pull"),
        (b"<html><body>404</body></html>", "is an HTML page of 29 bytes"),
        (b"", "is empty"),
    ],
    ids=["pointer", "page", "empty"],
)
def test_an_impostor_is_recognised(
    directory: Path, name: str, content: bytes, message: str
) -> None:
    (directory / name).write_bytes(content)
    with pytest.raises(VocoderError, match=f"{name} {message}"):
        load_vocoder(directory)


def test_truncated_safetensors_are_named_with_both_sizes(directory: Path) -> None:
    path = directory / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1000])
    sizes = f"{len(data) - 1000:,} bytes of {len(data):,}"
    with pytest.raises(VocoderError, match=rf"model\.safetensors is cut short or damaged: {sizes}"):
        load_vocoder(directory)


@pytest.mark.parametrize("content", [b"\xff" * 4, b"\xff" * 4000, b"\2\0\0\0\0\0\0\0[]"])
def test_damaged_safetensors_are_named(directory: Path, content: bytes) -> None:
    (directory / "model.safetensors").write_bytes(content)
    with pytest.raises(VocoderError, match=r"model\.safetensors is cut short or damaged"):
        load_vocoder(directory)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_truncated_pickle_is_named_with_its_size(
    directory: Path, small: tuple[Config, State], share: float
) -> None:
    _save_pickle(directory, small[1])
    path = directory / "pytorch_model.bin"
    data = path.read_bytes()[: int(path.stat().st_size * share)]
    path.write_bytes(data)
    message = rf"pytorch_model\.bin is cut short or damaged: {len(data):,} bytes"
    with pytest.raises(VocoderError, match=message):
        load_vocoder(directory)


class _Payload:
    """Unpickles into a call that leaves a directory behind."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.witness),)


@pytest.mark.parametrize("saver", ["torch", "pickle"])
def test_code_in_a_pickle_does_not_run(directory: Path, tmp_path: Path, saver: str) -> None:
    content = {"backbone.embed.weight": _Payload(tmp_path / "witness")}
    _save_pickle(directory, content)
    if saver == "pickle":
        (directory / "pytorch_model.bin").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(VocoderError, match=r"pytorch_model\.bin .*was not executed"):
        load_vocoder(directory)
    assert not (tmp_path / "witness").exists()


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda state: {"state_dict": state, "epoch": 3}, r"torch\.save\(checkpoint\['state_dict'"),
        (lambda state: list(state.values()), "must hold tensors by name, got"),
        (lambda state: {}, "must hold tensors by name, got"),
        (lambda state: {**state, "step": 3}, "must hold tensors by name, got a dictionary"),
    ],
    ids=["nested", "list", "empty", "extra"],
)
def test_what_is_no_state_dict_is_refused(
    directory: Path,
    small: tuple[Config, State],
    wrap: Callable[[State], object],
    message: str,
) -> None:
    _save_pickle(directory, wrap(small[1]))
    with pytest.raises(VocoderError, match=rf"pytorch_model\.bin (?s:.*){message}"):
        load_vocoder(directory)


def _without(key: str) -> Callable[[State], State]:
    return lambda state: {name: tensor for name, tensor in state.items() if name != key}


def _prefixed(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


def _with(key: str, change: Callable[[Tensor], Tensor]) -> Callable[[State], State]:
    return lambda state: {**state, key: change(state[key])}


def _poked(value: float) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        poked = tensor.clone()
        poked.view(-1)[0] = value
        return poked

    return change


_BIAS = "head.out.bias"
_FILTERS = "feature_extractor.mel_spec.mel_scale.fb"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_without(_BIAS), rf"1 missing \({_BIAS}\), 0 unexpected \(none\)"),
        (_without(_FILTERS), rf"1 missing \({_FILTERS}\)"),
        (lambda s: {**s, "extra": s[_BIAS].clone()}, r"0 missing \(none\), 1 unexpected \(extra\)"),
        (_prefixed("module."), "'module.' in the names comes from DataParallel"),
        (_prefixed("_orig_mod."), "'_orig_mod.' in the names comes from torch.compile"),
        (_prefixed("generator."), "'generator.' in the names comes from a GAN"),
        (_prefixed("ema_model."), "'ema' in the names comes from a moving average"),
        (_prefixed("x."), r"missing \(.*, and \d+ more\), \d+ unexpected \(x\..*, and \d+ more\)"),
        (_with(_BIAS, lambda t: t[:-1].clone()), rf"{_BIAS} expected \[1026\], got \[1025\]"),
        (_with(_BIAS, _poked(float("nan"))), rf"NaN or infinity in 1 tensors \({_BIAS}\)"),
        (_with(_BIAS, _poked(float("inf"))), rf"NaN or infinity in 1 tensors \({_BIAS}\)"),
        (_with(_BIAS, lambda t: t.to(torch.int8)), rf"must hold floating.*\({_BIAS}\)"),
        (_with(_FILTERS, lambda t: 2 * t), f"{_FILTERS} must be what the configuration defines"),
        (_with("head.istft.window", torch.sqrt), "head.istft.window must be what the config"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    directory: Path,
    small: tuple[Config, State],
    edit: Callable[[State], State],
    message: str,
) -> None:
    save_file(edit(small[1]), directory / "model.safetensors")
    with pytest.raises(VocoderError, match=rf"model\.safetensors(?s:.*){message}"):
        load_vocoder(directory)


def test_a_configuration_of_another_size_is_named(directory: Path) -> None:
    _edit_config(directory, _set("backbone", intermediate_dim=32_768))
    with pytest.raises(VocoderError, match=r"tensors of a different shape .*pwconv1"):
        load_vocoder(directory)


def test_decoding_allows_no_tf32_and_leaves_the_setting_as_it_was() -> None:
    vocoder = load_vocoder("embedded")
    assert isinstance(vocoder, VocosVocoder)
    allowed: list[bool] = []
    vocoder.model.head.register_forward_hook(
        lambda *_: allowed.append(torch.backends.cudnn.allow_tf32)
    )
    before = torch.backends.cudnn.allow_tf32
    vocoder.decode(torch.zeros(1, 100, 8))
    assert (allowed, torch.backends.cudnn.allow_tf32) == ([False], before)


def test_a_thread_that_leaves_first_allows_no_tf32_in_the_other() -> None:
    vocoder = load_vocoder("embedded")
    assert isinstance(vocoder, VocosVocoder)
    both_inside = threading.Barrier(2, timeout=60)
    allowed: list[bool] = []

    def hold(*_: object) -> None:
        both_inside.wait()
        if threading.current_thread() is threading.main_thread():
            other.result(60)
            allowed.append(torch.backends.cudnn.allow_tf32)

    vocoder.model.head.register_forward_hook(hold)
    before = torch.backends.cudnn.allow_tf32
    mel = torch.zeros(1, 100, 8)
    with ThreadPoolExecutor(1) as executor:
        other = executor.submit(vocoder.decode, mel)
        vocoder.decode(mel)
    assert (allowed, torch.backends.cudnn.allow_tf32) == ([False], before)


def test_a_configuration_far_larger_than_its_file_is_refused(directory: Path) -> None:
    # The largest layers that a configuration may name: 10^9 numbers.
    _edit_config(directory, _set("backbone", dim=8_192, intermediate_dim=32_768))
    _edit_config(directory, _set("head", dim=8_192))
    with pytest.raises(
        VocoderError, match="must hold the 1,087,881,216 numbers of its configuration"
    ):
        load_vocoder(directory)


# The embedded vocoder's own head.


@pytest.fixture
def with_phase_head(directory: Path) -> Path:
    """The tiny Vocos with the embedded vocoder's head."""
    _edit_config(directory, _use_phase_head)
    config = yaml.safe_load((directory / "config.yaml").read_text())
    save_file(_random_state(config), directory / "model.safetensors")
    return directory


def _use_phase_head(config: Config) -> None:
    config["head"]["class_path"] = _PHASE_HEAD
    config["head"]["init_args"].update(
        sample_rate=24_000,
        n_mels=100,
        num_projections=2,
        num_quarter_projections=1,
        num_eighth_projections=0,
        num_descent_steps=1,
    )


def test_a_phase_head_is_loaded_as_its_own_class(with_phase_head: Path, waveform: Tensor) -> None:
    vocoder = load_vocoder(with_phase_head)
    assert isinstance(vocoder, VocosVocoder)
    assert type(vocoder.model.head) is ConsistentISTFTHead
    assert vocoder.decode(vocoder.encode(waveform)).shape == (1, 71_936)


def _set_stft(config: Config) -> None:
    for section in ("feature_extractor", "head"):
        config[section]["init_args"].update(n_fft=1020, hop_length=510)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_set("head", n_mels=80), "head.n_mels must equal feature_extractor.n_mels"),
        (_set("head", sample_rate=22_050), "head.sample_rate must equal feature_extractor"),
        (
            _set("head", num_projections=65),
            "num_projections must be a whole number from 0 to 64, got 65",
        ),
        (
            lambda c: c["head"]["init_args"].pop("num_eighth_projections"),
            "num_eighth_projections must be .* got nothing",
        ),
        (_set_stft, "n_fft and hop_length must be multiples of 4, got 1020 and 510"),
    ],
    ids=["bands", "rate", "steps", "no-steps", "sizes"],
)
def test_a_phase_head_that_contradicts_its_extractor_is_refused(
    with_phase_head: Path, edit: Callable[[Config], None], message: str
) -> None:
    _edit_config(with_phase_head, edit)
    with pytest.raises(VocoderError, match=message):
        load_vocoder(with_phase_head)


# torchaudio's default transform is too short for its 128 bands.
@pytest.mark.filterwarnings("ignore:At least one mel filterbank has all zero values")
@pytest.mark.parametrize("name", PROFILES)
def test_griffin_lim_decodes_the_mel_of_every_profile(name: str) -> None:
    recipe = PROFILES[name].recipe
    vocoder = load_vocoder("griffin-lim", recipe=recipe)
    pipeline = MelPipeline(MelCheckConfig(SPEECH, recipe.sample_rate, 1.0), vocoder=vocoder)
    # Measured: 0.98 with 128 bands of energies, 0.994 and more elsewhere.
    assert pipeline.round_trip().metrics()[0].pearson > 0.97


@pytest.mark.parametrize(
    "change",
    [
        {"padding": "none"},
        {"pre_emphasis": 0.97},
        {"normalized": "window"},
        {"floor_mode": "add"},
        {"log_base": None},
        {"window": "hamming", "win_length": 800},
    ],
    ids=str,
)
def test_griffin_lim_follows_each_number_of_a_recipe(change: dict[str, Any]) -> None:
    recipe = MelRecipe(**change)
    vocoder = load_vocoder("griffin-lim", recipe=recipe)
    pipeline = MelPipeline(MelCheckConfig(SPEECH, target_duration=1.0), vocoder=vocoder)
    assert pipeline.round_trip().metrics()[0].mae < 0.15
