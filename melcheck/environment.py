"""Say in one sentence what this environment lacks, with the command that mends it.

torchaudio loads only beside the torch that it was built for: the same release, and the same build
(CPU, or one version of CUDA). Its last release, 2.11, also loads beside later ones of torch until
their CUDA differs, which is why pip cannot keep the two together: it names no torch. So whether
they fit is not guessed from versions but tried: they are imported.

Nothing here imports torch before it is asked to.

References:
    Each release of torchaudio from 2.4 to 2.10 requires the torch of the same version (its package
    metadata). TorchCodec and torch: TorchCodec's README, "Compatibility with torch versions",
    https://github.com/meta-pytorch/torchcodec (2026).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re

_FIRST_TORCH, _LAST_TORCH = (2, 4), (2, 14)
_LAST_TORCHAUDIO, _LAST_TORCHAUDIO_VERSION = (2, 11), "2.11.0"

_PAIR = 'pip install "torch==2.11.*" "torchaudio==2.11.*"'
_VOCOS = 'pip install "vocos>=0.1,<0.2"'

# The builds that PyTorch's own index has a folder for: 2.8.0+cu128.
_BUILD = re.compile(r"cpu|cu\d+|rocm[\d.]+|xpu")
_INDEX = "https://download.pytorch.org/whl/"

# Releases of TorchCodec that have an audio decoder, by the torch that they are for. From 0.11 on
# one release is for torch 2.11 and all that follow.
_TORCHCODEC = {
    (2, 7): ("0.3", "0.4", "0.5"),
    (2, 8): ("0.6", "0.7"),
    (2, 9): ("0.8", "0.9"),
    (2, 10): ("0.10",),
}
_TORCHCODEC_SINCE = ((2, 11), (0, 11))


class UnfitEnvironmentError(ImportError):
    """Packages that are missing, or that cannot be imported beside each other."""


class PackageNeededError(ImportError):
    """A format or a place needs a package that is not installed; the message says which."""


def require_torch() -> None:
    """Import torch and torchaudio, and look for vocos.

    Raises:
        UnfitEnvironmentError: One of them is missing, or they do not fit each other.
    """
    fault = torch_fault()
    if fault is not None:
        raise UnfitEnvironmentError(fault)


def torch_fault() -> str | None:
    """Return what does not fit of torch, torchaudio and vocos, or None: one sentence and a command.

    Example:
        >>> torch_fault() is None
        True
    """
    try:
        torch = importlib.import_module("torch")
        version = str(torch.__version__)
    except Exception as error:
        return _torch_missing(error)
    try:
        importlib.import_module("torchaudio")
    except Exception as error:
        return _torchaudio_unfit(version, error)
    if importlib.util.find_spec("vocos") is None:
        return f"vocos must be installed, got none. Install it: {_VOCOS}"
    return None


def missing_package(error: ImportError) -> str:
    """Return what to do about a package that cannot be imported."""
    name = f" {error.name}" if error.name else ""
    return f"the package{name} cannot be imported: {error}\nInstall it with pip."


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, by its metadata."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def torchcodec_fault() -> str:
    """Return why TorchCodec does not decode here, and the release of it that would.

    For an environment where torch can be imported and TorchCodec has turned out not to decode.
    """
    torch, codec = installed_version("torch"), installed_version("torchcodec")
    release = _release(torch or "")
    wanted = _TORCHCODEC.get(release)
    if release >= _TORCHCODEC_SINCE[0]:
        fits = codec is not None and _release(codec) >= _TORCHCODEC_SINCE[1]
        command = 'pip install "torchcodec>=0.11"'
    elif wanted is None:
        return f"TorchCodec decodes audio beside torch 2.7 and later, got torch {torch}"
    else:
        fits = codec is not None and ".".join(map(str, _release(codec))) in wanted
        command = f'pip install "torchcodec=={wanted[-1]}.*"'
    if fits:
        return f"TorchCodec {codec} finds no FFmpeg 4 to 8: install FFmpeg with its libraries"
    got = "is not installed" if codec is None else f"is {codec}"
    return f"TorchCodec {got}; the one for torch {torch}: {command}"


def _torch_missing(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name == "torch":
        return f"torch must be installed, got none. Install it with its torchaudio: {_PAIR}"
    version = installed_version("torch") or "of unknown version"
    return (
        f"torch must be importable, got torch {version}, which ends with {_reason(error)}. "
        f"Install it again, with its torchaudio: {_PAIR} --force-reinstall"
    )


def _torchaudio_unfit(torch: str, error: Exception) -> str:
    release = _release(torch)
    if not _FIRST_TORCH <= release <= _LAST_TORCH:
        return (
            f"torch must be one that has a torchaudio, 2.4 to 2.14, got {torch}. In an environment "
            f"of its own: {_PAIR} melcheck"
        )
    public, _, build = torch.partition("+")
    wanted = public if release <= _LAST_TORCHAUDIO else _LAST_TORCHAUDIO_VERSION
    command = f"pip install --force-reinstall --no-deps torchaudio=={wanted}"
    # What comes from PyPI has no build in its metadata, though torch itself reports one.
    if build and installed_version("torch") != public:
        if not _BUILD.fullmatch(build):
            return (
                f"torch must be a build that has a torchaudio, got {torch}: none is published for "
                f"it. In an environment of its own: {_PAIR} melcheck"
            )
        command += f" --index-url {_INDEX}{build}"
    if isinstance(error, ModuleNotFoundError) and error.name == "torchaudio":
        return f"torchaudio must be installed beside torch {torch}, got none. Install it: {command}"
    version = installed_version("torchaudio") or "of unknown version"
    return (
        f"torchaudio must be the one for torch {torch}, got torchaudio {version}, which ends with "
        f"{_reason(error)}. Install the one that fits: {command}"
    )


def _release(version: str) -> tuple[int, int]:
    """Return (2, 11) of "2.11.0+cu130", (0, 0) of what is no version."""
    match = re.match(r"(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _reason(error: BaseException) -> str:
    """Return the kind of an error and the first line of its text, without a full stop."""
    lines = str(error).strip().splitlines()
    return ": ".join([type(error).__name__, *lines[:1]]).rstrip(".")
