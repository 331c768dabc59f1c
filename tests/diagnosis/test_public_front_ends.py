"""How often the forensics is right about front ends of public projects: `pytest -m figures -s`.

`public_front_ends.py` recomputes them. Each is scored three ways:

    handshake   the function as it stands, called with 24 kHz audio: probes and a clip
    diagnose    its mel at the project's own rate, on two clips
    identify    the same mel without its audio

"Right" is the right verdict and all that differs, named; "partly" leaves something out, "unknown"
included; "wrong" names what is not so, with a number that is another, or passes what the vocoder
cannot take, or fails what it can. Without `-m figures` one front end in a few is tried.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchaudio
from torch import Tensor

from melcheck.audio import load_audio
from melcheck.config import MelCheckConfig
from melcheck.diagnosis.causes import PROFILE_PREFIX, Explanation
from melcheck.diagnosis.diagnose import diagnose
from melcheck.diagnosis.handshake import handshake
from melcheck.diagnosis.identify import identify
from melcheck.profiles import PROFILES
from melcheck.recipes import MelRecipe
from tests.diagnosis.public_front_ends import FRONT_ENDS, FrontEnd

pytestmark = [
    pytest.mark.figures,
    # Some filters hold no bin at 24 kHz, of which torchaudio warns.
    pytest.mark.filterwarnings("ignore:At least one mel filterbank:UserWarning"),
]

AUDIO = Path(__file__).parents[2] / "fixtures" / "audio"
CLIPS = ("austen-0870.flac", "kokoro-kumo-en.wav")
RATE = 24_000
SAMPLED = 7
# Below this an addend under the root changes nothing that is heard.
AUDIBLE_EPS = 9e-7
# What is seen of these depends on the clip: its silence, its ends, its last band.
SEEN_OR_NOT = {"floor", "magnitude-eps", "pad-mode", "window", "length", "band-limited"}
CODES = {
    "n_fft": "n-fft",
    "win_length": "win-length",
    "hop_length": "hop-length",
    "padding": "padding",
    "pre_emphasis": "pre-emphasis",
    "power": "power",
    "n_mels": "n-mels",
    "f_min": "f-min",
    "f_max": "f-max",
    "mel_scale": "mel-scale",
    "norm": "filter-norm",
}
REFERENCE = MelRecipe()

Verdict = tuple[str, str]


def clip(name: str) -> Tensor:
    return load_audio(MelCheckConfig(AUDIO / name, RATE, 3.0)).waveform[0]


def numbers_of(front: FrontEnd) -> dict[str, Any]:
    return {
        "n_fft": front.n_fft,
        "win_length": front.window_length,
        "hop_length": front.hop_length,
        "padding": front.padding,
        "pre_emphasis": front.pre_emphasis,
        "power": front.power,
        "n_mels": front.n_mels,
        "f_min": front.f_min,
        "f_max": front.highest,
        "mel_scale": front.mel_scale,
        "norm": front.norm,
        "magnitude_eps": front.magnitude_eps,
    }


def truth(front: FrontEnd, *, own_rate: bool) -> tuple[set[str], set[str]]:
    """Return the codes that have to be named, and those that may be."""
    if front.harmless:
        return set(), SEEN_OR_NOT | {"profile:zipvoice"}
    if front.whole:
        named = {front.whole} | ({"axes-transposed"} if front.frames_first and own_rate else set())
        return named, named | SEEN_OR_NOT | set(front.may)
    numbers = numbers_of(front)
    must = {code for name, code in CODES.items() if numbers[name] != getattr(REFERENCE, name)}
    may = SEEN_OR_NOT | set(front.may)
    if front.window_length == front.n_fft:
        must.discard("win-length")
    if front.rate != RATE:
        must.add("sample-rate" if own_rate else "rate")
        if not own_rate and front.highest == front.rate / 2:
            must.discard("f-max")
        may.add("f-max")
    if "log10" in front.compress.__qualname__:
        must.add("log-base")
    if "decimal" in front.name:
        must.add("log-base")
    if front.magnitude_eps > AUDIBLE_EPS:
        may.add("magnitude-eps")
    if front.frames_first and own_rate:
        must.add("axes-transposed")  # of a function they are adapted, with a note
    must |= set(front.after)
    if "own_bands" in front.compress.__qualname__:
        may.add("filter-norm")  # a constant of each band, which the band's own mean takes away
    return must - may, may | must


def expanded(causes: Iterable[Explanation], *, own_rate: bool) -> set[str]:
    """Return the codes of causes, those of a profile taken apart."""
    found = set()
    for cause in causes:
        if not cause.code.startswith(PROFILE_PREFIX):
            found.add(cause.code)
            continue
        recipe = PROFILES[cause.code.removeprefix(PROFILE_PREFIX)].recipe
        for name, code in CODES.items():
            if getattr(recipe, name) != getattr(REFERENCE, name):
                found.add(code)
        if recipe.win_length == recipe.n_fft:
            found.discard("win-length")
        if recipe.sample_rate != RATE:
            found.add("sample-rate")
        if recipe.log_scale != 1:
            found.add("decibels")
        elif recipe.log_base == "10":
            found.add("log-base")
        if (recipe.mean, recipe.std) != (0, 1):
            found.add("normalisation")
    if not own_rate and found & {"sample-rate", "filterbank-rate"}:
        found = found - {"sample-rate", "filterbank-rate"} | {"rate"}
    return found


NUMBER = re.compile(r"\b([a-z_]+)=('?[\w.+-]+'?)")


def false_numbers(causes: Iterable[Explanation], front: FrontEnd) -> list[str]:
    """Return the numbers in the evidence, and in a profile, that the front end does not have."""
    true, found = numbers_of(front), []
    for cause in causes:
        stated = dict(NUMBER.findall(cause.evidence))
        if cause.code.startswith(PROFILE_PREFIX):
            recipe = PROFILES[cause.code.removeprefix(PROFILE_PREFIX)].recipe
            stated = {name: repr(getattr(recipe, name)) for name in CODES}
        for name, value in stated.items():
            if name not in true or name == "magnitude_eps":
                continue
            given = value.strip("'")
            same = given == str(true[name])
            if not same and given.replace(".", "", 1).isdigit() and true[name] is not None:
                same = abs(float(given) - float(true[name])) <= 1e-3 * abs(float(given)) + 1e-9
            if not same:
                found.append(f"{name}={value}")
    return found


def judged(
    front: FrontEnd, kind: str, causes: tuple[Explanation, ...], *, own_rate: bool
) -> Verdict:
    must, may = truth(front, own_rate=own_rate)
    passed = kind in ("identical", "benign")
    codes = set() if passed else expanded(causes, own_rate=own_rate)
    false = [] if passed else false_numbers(causes, front)
    said = f"{kind} {', '.join(f'{c.code} ({c.evidence})' for c in causes)}"
    if passed != front.harmless and (passed or kind == "fault"):
        return "wrong", said
    if codes - must - may or false:
        return "wrong", f"{said}; false: {sorted(codes - must - may)} {false}"
    if kind == "unknown" or must - codes:
        return "partly", f"{said}; missing: {sorted(must - codes)}"
    return "right", said


def of_handshake(front: FrontEnd) -> list[Verdict]:
    try:
        found = handshake(lambda w: front(w[0].numpy()), speech=[clip(CLIPS[0])])
    except ValueError as error:
        return [("wrong", f"raised {error}")]
    if found.diagnosis is None:
        return [("wrong", found.message())]
    kind = found.diagnosis.kind
    if found.compatible != (kind in ("identical", "benign")):
        return [("wrong", f"{found.verdict} and {kind} in one answer")]
    return [judged(front, kind, found.diagnosis.causes, own_rate=False)]


def own_mel(front: FrontEnd, waveform: Tensor) -> np.ndarray:
    return front(torchaudio.functional.resample(waveform, RATE, front.rate).numpy())


def of_diagnose(front: FrontEnd) -> list[Verdict]:
    found = []
    for name in CLIPS:
        waveform = clip(name)
        diagnosis = diagnose(waveform, own_mel(front, waveform))
        found.append(judged(front, diagnosis.kind, diagnosis.causes, own_rate=True))
    return found


def of_identify(front: FrontEnd) -> list[Verdict]:
    identity = identify(own_mel(front, clip(CLIPS[0])), sample_rate=front.rate)
    must, may = truth(front, own_rate=True)
    allowed = must | may | {"decibels", "log-base", "clamped"}
    problems = sorted(set(identity.codes) - allowed)
    if identity.n_mels != front.n_mels:
        problems.append(f"{identity.n_mels} bands")
    numbers = numbers_of(front)
    if not (set(front.after) & {"no-log", "decibels"}):
        for name, entry in PROFILES.items():
            same = all(getattr(entry.recipe, key) == value for key, value in numbers.items())
            same = same and entry.recipe.sample_rate == front.rate
            same = same and "decimal" not in front.name
            same = same and (entry.recipe.std != 1) == ("normalisation" in front.after)
            if same and name not in identity.profiles:
                problems.append(f"not {name}: {identity.contradictions[name]}")
    return [("wrong" if problems else "right", f"{identity}; {problems}")]


WAYS = {"handshake": of_handshake, "diagnose": of_diagnose, "identify": of_identify}
# Shares of right answers; none may be wrong.
LEAST_RIGHT = {"handshake": 0.9, "diagnose": 0.9, "identify": 0.95}


@pytest.mark.parametrize("way", WAYS)
def test_public_front_ends_are_named(
    way: str, pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    everything = pytestconfig.getoption("markexpr") == "figures"
    fronts = FRONT_ENDS if everything else FRONT_ENDS[::SAMPLED]
    results = [(front.name, *verdict) for front in fronts for verdict in WAYS[way](front)]
    counts = Counter(verdict for _, verdict, _ in results)
    with capsys.disabled():
        line = pytestconfig.get_terminal_writer().line
        line(
            f"\n{way} of {len(fronts)} public front ends: {counts['right']} right, "
            f"{counts['partly']} partly, {counts['wrong']} wrong of {len(results)}"
        )
        for name, verdict, said in results:
            if verdict != "right":
                line(f"  {verdict}: {name}: {said}")
    assert counts["right"] >= LEAST_RIGHT[way] * len(results)
    assert counts["wrong"] == 0


def test_the_set_is_large_and_its_names_are_its_own() -> None:
    assert len(FRONT_ENDS) >= 40
    assert len({front.name for front in FRONT_ENDS}) == len(FRONT_ENDS)
