"""Parity: every way to compute the loop gives what plain float32 on the CPU gives.

`pytest -m parity` prints the deviations of each variant beside its tolerances.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from melcheck.pytest_plugin.cases import absent, plan_of
from melcheck.speed.optimised import PRECISIONS, Precision, optimise
from melcheck.vocoders.base import Vocoder
from melcheck.vocoders.vocos import VocosVocoder
from tests.parity.inputs import VOCODERS, references, vocoder, waveforms
from tests.parity.matrix import VARIANTS, Variant, describe, measure
from tests.parity.variants import RoutedVocoder, in_chunks, on_device
from tests.vocoders import untrained

pytestmark = pytest.mark.parity

BY_NAME = {variant.name: variant for variant in VARIANTS}

CASES = [
    pytest.param(
        variant,
        name,
        id=f"{variant.name}-{name}",
        marks=[pytest.mark.cuda] * (variant.device != "cpu"),
    )
    for variant in VARIANTS
    # A device that is absent is skipped, or fails where it is required, once for each variant.
    for name in VOCODERS[: None if variant.device == "cpu" or torch.cuda.is_available() else 1]
]


@pytest.mark.parametrize(("variant", "name"), CASES)
def test_a_variant_gives_what_the_plain_loop_gives(
    request: pytest.FixtureRequest, variant: Variant, name: str
) -> None:
    plain = vocoder(name)
    reason = variant.absent(plain)
    if reason:
        absent(request, (variant.device if variant.device != "cpu" else variant.name,), reason)
    parity = measure(variant, plain, waveforms(name), references=references(name))
    record = {"vocoder": name, "variant": variant.name, "repeated": parity.repeated}
    record |= {"found": dataclasses.astuple(parity.found)}
    record |= {"allowed": dataclasses.astuple(parity.allowed)}
    request.node.user_properties.append(("melcheck-parity", json.dumps(record)))
    if parity.failures:
        pytest.fail(describe(parity, variant, plain, waveforms(name)), pytrace=False)


# What the matrix must see: each of these claims to be plain float32, and is not.


def changed(change: Callable[[VocosVocoder], object]) -> Callable[[VocosVocoder], Vocoder]:
    def make(plain: VocosVocoder) -> Vocoder:
        other = dataclasses.replace(plain, model=copy.deepcopy(plain.model))
        change(other)
        return other

    return make


def noisy(tensor: Tensor, share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        tensor += share * tensor.std() * torch.randn(tensor.shape, generator=generator)


def halved(plain: VocosVocoder) -> Vocoder:
    """A vocoder whose backbone computes in half precision without reporting it."""
    dtype = torch.bfloat16
    half = copy.deepcopy(plain.model.backbone).to(dtype)

    def route(stage: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
        if stage == plain.run_backbone:
            return half(given.to(dtype)).float()
        return (
            plain.run_head(route(plain.run_backbone, given))
            if stage == plain.decode
            else stage(given)
        )

    return RoutedVocoder(plain, route, plain.device)


def filters(other: VocosVocoder) -> Tensor:
    return other.model.feature_extractor.mel_spec.mel_scale.fb


IMPOSTORS = {
    "a weight of the backbone is 1 % off": (
        changed(lambda v: noisy(v.model.backbone.embed.weight, 1e-2)),
        "backbone",
    ),
    "the backbone is in bfloat16": (halved, "backbone"),
    "the head is 1 % off": (
        changed(lambda v: noisy(v.model.head.out.weight, 1e-2)),
        "head",
    ),
    "the filterbank is 5 % off": (
        changed(lambda v: filters(v).mul_(1.05)),
        "encode",
    ),
}


@pytest.mark.parametrize("name", VOCODERS[:2])  # one head of each kind
@pytest.mark.parametrize(("make", "stage"), IMPOSTORS.values(), ids=IMPOSTORS)
def test_an_impostor_fails_and_its_stage_is_named(
    make: Callable[[VocosVocoder], Vocoder], stage: str, name: str
) -> None:
    impostor = dataclasses.replace(BY_NAME["optimised-fp32"], name="impostor", make=make)
    plain, clips = vocoder(name), waveforms()[:1]
    parity = measure(impostor, plain, clips, references=references(name)[:1])
    assert parity.failures
    assert f"first to diverge: {stage} " in describe(parity, impostor, plain, clips)


def test_a_variant_that_does_not_repeat_itself_fails() -> None:
    generator = torch.Generator().manual_seed(0)

    def route(stage: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
        output = stage(given)
        return output + 1e-9 * torch.randn(output.shape, generator=generator)

    dithered = dataclasses.replace(
        BY_NAME["float64"], make=lambda plain: RoutedVocoder(plain, route, plain.device)
    )
    parity = measure(dithered, vocoder("embedded"), waveforms()[:1])
    assert not parity.beyond
    assert parity.failures == ("a second run gave different bits",)


@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
def test_what_is_not_finite_fails(value: float) -> None:
    broken = dataclasses.replace(
        BY_NAME["float64"],
        make=lambda plain: RoutedVocoder(plain, lambda stage, x: stage(x) * value, plain.device),
    )
    assert measure(broken, vocoder("embedded"), waveforms()[:1]).beyond


def test_chunks_without_their_context_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.parity.variants.context_frames", lambda _: 4)
    parity = measure(BY_NAME["chunks"], vocoder("embedded"), waveforms()[:1])
    assert "mel_max_nats" in parity.beyond


def test_the_edge_of_a_padded_batch_is_cut_because_it_differs() -> None:
    whole = dataclasses.replace(BY_NAME["padded-batch"], cut=False)
    assert measure(whole, vocoder("embedded"), waveforms()[:1]).beyond


def test_chunks_that_carry_no_phases_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(plain: VocosVocoder) -> Callable[[Tensor, int], Tensor]:
        return lambda mel, _: plain.decode(mel)

    monkeypatch.setattr("tests.parity.variants.chunk_decoder", forgetful)
    parity = measure(BY_NAME["chunks"], untrained.consistent(), waveforms()[:1])
    assert "mel_mean_nats" in parity.beyond


@pytest.mark.parametrize("frames", [7, 40, 1000], ids="{} frames".format)
def test_chunks_have_the_length_of_the_whole(frames: int) -> None:
    plain, mel = vocoder("embedded"), references("embedded")[0].encoded
    assert in_chunks(plain, frames).decode(mel).shape == plain.decode(mel).shape


@pytest.mark.parametrize("optimised", [None, "fp32"], ids="{}".format)
def test_what_runs_on_a_device_returns_to_the_first_one(optimised: Precision | None) -> None:
    plain, clip = vocoder("embedded"), waveforms()[0]
    routed = on_device(plain, "cpu", optimised=optimised)
    same = plain if optimised is None else optimise(plain)
    assert torch.equal(routed.decode(routed.encode(clip)), same.decode(same.encode(clip)))


def test_every_precision_is_in_the_matrix_on_cuda() -> None:
    assert {f"cuda-{precision}" for precision in PRECISIONS} <= set(BY_NAME)


def test_no_clip_is_no_parity() -> None:
    with pytest.raises(ValueError, match="must hold at least one clip"):
        measure(BY_NAME["float64"], vocoder("embedded"), ())


def test_names_of_variants_are_unique() -> None:
    assert len(BY_NAME) == len(VARIANTS)


def test_a_device_that_is_required_and_absent_fails(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    plan = dataclasses.replace(plan_of(request.config), required=frozenset({"cuda"}))
    monkeypatch.setattr("melcheck.pytest_plugin.cases.plan_of", lambda _: plan)
    with pytest.raises(pytest.fail.Exception, match="cuda is required and missing: torch"):
        test_a_variant_gives_what_the_plain_loop_gives(request, BY_NAME["cuda"], "embedded")
