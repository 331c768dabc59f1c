"""The tests that a project runs on its own clips, stored mels, and the four stages of its loop.

A stage that a project has not named (`mel_loader`, `mel_frontend`, `mel_vocoder_reference`,
`mel_saver`) is melcheck's own, and its tests are left out.

One line in a test file of the project brings them all:

    from melcheck.suite import *  # noqa: F403

or no file at all:

    pytest --pyargs melcheck.suite -m sanity --mel-audio data/samples

`-m sanity` is the gate; the markers `shapes`, `golden`, `artifacts` and `benchmark` are the rest.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from melcheck.artifacts import case_title, save_artifacts
from melcheck.caches import CacheResult
from melcheck.clips import Clip
from melcheck.config import MelCheckConfig
from melcheck.diagnosis.causes import Explanation
from melcheck.diagnosis.handshake import Handshake
from melcheck.diagnosis.recipe_search.mel_values import magnitude_rounding
from melcheck.diagnosis.stage_handshake import StageHandshake
from melcheck.file_stages import Loader, Saver
from melcheck.files import file_name, one_line, plain_text, unwritten
from melcheck.frontends import Frontend, VocoderWithFrontend
from melcheck.goldens import (
    ENCODED_TOLERANCES,
    RECONSTRUCTED_TOLERANCES,
    mel_statistics,
    provenance,
)
from melcheck.pipeline import MelPipeline, RoundTrip
from melcheck.plan import Judged, Plan
from melcheck.probe_clips import probe
from melcheck.pytest_plugin.goldens import Golden
from melcheck.recipes import BENIGN_FLOORS, VOCOS
from melcheck.report.model import CaseResult
from melcheck.vocoders.agreement import disagreement
from melcheck.vocoders.base import Vocoder

if TYPE_CHECKING:
    from melcheck.benchmark.cases import Case
    from melcheck.benchmark.measure import Sweep

__all__ = [
    "test_a_batch_gives_what_its_items_give_alone",
    "test_a_clip_outside_the_gate_is_measured_and_drawn",
    "test_every_tensor_has_the_shape_of_the_recipe",
    "test_every_value_is_finite_and_no_mel_goes_below_its_floor",
    "test_extracted_mel_is_on_record",
    "test_front_end_gives_the_same_mel_again_and_in_a_batch",
    "test_front_end_makes_the_vocoders_mel",
    "test_loader_reads_what_is_in_the_file",
    "test_mel_survives_the_loop",
    "test_reconstructed_mel_is_on_record",
    "test_saver_writes_what_was_decoded",
    "test_speed_of_the_loop",
    "test_stored_mel_is_fresh",
    "test_vocoder_decodes_as_its_reference",
]

# Nats by which a front end's mel may change with the batch, where sums run in another order.
_SAME_NATS = 1e-3


# The gate.


@pytest.mark.sanity
@pytest.mark.mel_clips("gated")
def test_mel_survives_the_loop(
    mel_clip: Clip,
    mel_round_trip: RoundTrip,
    mel_artifacts: Path,
    mel_record: Callable[..., CaseResult],
    mel_judge: Callable[[RoundTrip], Judged],
    mel_griffin_lim: Callable[[], RoundTrip | None],
    mel_explain: Callable[..., Explanation],
    mel_say_once: Callable[[Explanation], str],
) -> None:
    """The mel of each clip survives audio -> mel -> audio -> mel."""
    trip = mel_round_trip
    metrics = trip.metrics()[0]
    title = case_title(mel_clip.name, trip.vocoder.name, trip.device, metrics)
    problem = _saved(trip, mel_artifacts, f"{title}\n{trip.part}".rstrip())
    baseline = mel_griffin_lim()
    judged = mel_judge(trip)
    outcome, verdict = judged.outcome, judged.verdict
    wrong = outcome == "failed" and (not verdict.passed or judged.known is None)
    cause = mel_explain(trip, baseline=baseline) if wrong else None
    case = mel_record(
        outcome, verdict=verdict, cause=cause, artifacts=mel_artifacts, problem=judged.problem
    )
    if problem and outcome != "failed":
        pytest.fail(plain_text(f"{mel_clip.name}: {verdict}, but {problem}"), pytrace=False)
    if outcome == "known miss" and judged.known is not None:
        pytest.xfail(f"{case.title}: {verdict}; accepted on {judged.known.date}")
    if outcome == "failed":
        first = judged.problem or (case.reason if cause is None else cause.title)
        # pytest's summary has room for little more than the first words of the first line.
        lines = [f"{mel_clip.name}: {first}", f"{one_line(mel_clip.source)}: {verdict}"]
        lines += [] if cause is None else [f"likely cause: {mel_say_once(cause)}"]
        lines += [problem] if problem else []
        pytest.fail(plain_text("\n".join(lines)), pytrace=False)


def _saved(trip: RoundTrip, folder: Path, title: str) -> str:
    """Write pictures and audio; return why that failed, "" where it did not."""
    try:
        save_artifacts(trip, folder, title=title)
    except OSError as error:
        return unwritten("pictures and audio", error)
    return ""


@pytest.mark.sanity
@pytest.mark.mel_needs("loader")
def test_loader_reads_what_is_in_the_file(
    mel_loader: Loader,
    mel_loader_handshake: StageHandshake,
    mel_note: Callable[[str], None],
    mel_blame: Callable[..., None],
) -> None:
    """The loader gives the samples of a file: all of them, one channel, at the rate it says."""
    _judge_stage(mel_loader_handshake, mel_loader.place, mel_note, mel_blame)


@pytest.mark.sanity
@pytest.mark.mel_needs("vocoder-reference")
def test_vocoder_decodes_as_its_reference(
    mel_vocoder: Vocoder,
    mel_vocoder_handshake: StageHandshake,
    mel_note: Callable[[str], None],
    mel_blame: Callable[..., None],
) -> None:
    """Code that claims to be a checkpoint makes its waveform of a mel, alone and in a batch."""
    place = getattr(mel_vocoder, "place", None)
    _judge_stage(mel_vocoder_handshake, place, mel_note, mel_blame)


@pytest.mark.sanity
@pytest.mark.mel_needs("saver")
def test_saver_writes_what_was_decoded(
    mel_saver: Saver,
    mel_saver_handshake: StageHandshake,
    mel_note: Callable[[str], None],
    mel_blame: Callable[..., None],
) -> None:
    """What is read back from the file is what was decoded, at the rate of the recipe."""
    _judge_stage(mel_saver_handshake, mel_saver.place, mel_note, mel_blame)


def _judge_stage(
    found: StageHandshake,
    place: tuple[Path, int] | None,
    note: Callable[[str], None],
    blame: Callable[..., None],
) -> None:
    if not found.passed:
        if place is not None:
            blame(*place)
        pytest.fail(found.message(), pytrace=False)
    for each in found.notes:
        note(f"{found.stage} {found.name}, harmless: {each}")


@pytest.mark.sanity
@pytest.mark.mel_needs("frontend")
def test_front_end_makes_the_vocoders_mel(
    mel_frontend: Frontend,
    mel_vocoder: Vocoder,
    mel_handshake: Handshake,
    mel_note: Callable[[str], None],
    mel_blame: Callable[..., None],
) -> None:
    """The mel that training will see is the one that the vocoder was trained on."""
    if mel_handshake.verdict == "identical":
        return
    if mel_handshake.compatible:
        mel_note(
            f"{mel_frontend.name} differs from the vocoder's mel, which can take it as it is: "
            f"{'. '.join(filter(None, mel_handshake.cause()))}"
        )
        return
    cause, fix = mel_handshake.cause()
    where = ""
    if mel_frontend.place is not None:
        mel_blame(*mel_frontend.place)
        where = f" ({mel_frontend.place[0]}:{mel_frontend.place[1]})"
    pytest.fail(
        f"{mel_frontend.name}: {cause.partition(' (')[0]}\n"
        f"{mel_frontend.name}{where} does not make the mel of {mel_vocoder.info.name}.\n"
        f"likely cause: {cause}. {fix}\n{mel_handshake.message()}",
        pytrace=False,
    )


@pytest.mark.sanity
@pytest.mark.mel_needs("frontend")
def test_front_end_gives_the_same_mel_again_and_in_a_batch(
    mel_frontend: Frontend, mel_plan: Plan, mel_blame: Callable[..., None]
) -> None:
    """A mel depends on its own clip alone: no dither, no dropout, no statistics of the batch."""
    rate = mel_plan.recipe.sample_rate
    clip = probe(3 * rate, sample_rate=rate)
    first = mel_frontend(clip[None])
    # Louder and quieter companions: what a batch is divided by is one clip's or the other's.
    others = [gain * clip.flip(0) for gain in (0.1, 2.5)]
    batches = [torch.stack([clip, other]) for other in others]
    alone = [torch.cat([first, mel_frontend(other[None])]) for other in others]
    for found, expected, when in (
        (mel_frontend(clip[None]), first, "the second time"),
        (mel_frontend(batches[0]), alone[0], "in a batch with a quieter clip"),
        (mel_frontend(batches[1]), alone[1], "in a batch with a louder clip"),
    ):
        if found.shape == expected.shape and _agree(found, expected):
            continue
        if mel_frontend.place is not None:
            mel_blame(*mel_frontend.place)
        same = found.shape == expected.shape
        moved = (found - expected).abs().max().item() if same else math.nan
        pytest.fail(
            f"{mel_frontend.name} gives a different mel of the same clip {when}, by up to "
            f"{moved:.3g}. Look for dither, dropout, or normalisation over the batch.",
            pytrace=False,
        )


def _agree(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Return whether mels are the same but for the order of summation."""
    magnitudes = [each.double().exp() for each in (found, expected)]
    rounding = magnitude_rounding(float(magnitudes[1].nan_to_num(0.0).max()))
    near = (magnitudes[0] - magnitudes[1]).abs() <= rounding
    close = torch.isclose(found, expected, rtol=0, atol=_SAME_NATS, equal_nan=True)
    return bool((near | close).all())


@pytest.mark.sanity
@pytest.mark.mel_needs("cache")
def test_stored_mel_is_fresh(
    mel_cache_result: CacheResult,
    mel_note: Callable[[str], None],
    mel_blame: Callable[..., None],
) -> None:
    """Each clip has stored mels, and each is the one that the front end makes of it now."""
    for note in mel_cache_result.notes:
        mel_note(note)
    for path in mel_cache_result.files:
        mel_blame(path)
    if not mel_cache_result.passed:
        lines = [mel_cache_result.summary, *mel_cache_result.problems]
        pytest.fail("\n".join(lines), pytrace=False)


# Shapes and values.


@pytest.mark.shapes
def test_every_tensor_has_the_shape_of_the_recipe(
    mel_pipeline: MelPipeline, mel_round_trip: RoundTrip, mel_frontend: Frontend | None
) -> None:
    """Frames = 1 + samples // hop and samples = (frames - 1) * hop, for the recipe of Vocos.

    A front end may give a frame less or more, as those of HiFi-GAN and ZipVoice do; the loop
    compares what both mels have, and the front end's own test notes it.
    """
    trip, recipe, target = mel_round_trip, mel_round_trip.recipe, mel_pipeline.config.target_samples
    samples = trip.waveform.shape[-1]
    assert recipe.min_samples <= samples <= (samples if target is None else target)
    frames = recipe.frames(samples)
    own = trip.mel.shape[-1]
    decoded_samples = recipe.num_samples(own)
    assert list(trip.waveform.shape) == [1, samples]
    assert list(trip.mel.shape) == [1, recipe.n_mels, own]
    assert abs(own - frames) <= (0 if mel_frontend is None else 1)
    assert list(trip.reconstructed_waveform.shape) == [1, decoded_samples]
    if recipe.tail == "keep" and own == frames:
        assert 0 <= samples - decoded_samples < recipe.hop_length
        assert trip.reconstructed_mel.shape == trip.mel.shape


@pytest.mark.shapes
def test_every_value_is_finite_and_no_mel_goes_below_its_floor(
    mel_round_trip: RoundTrip, mel_frontend: Frontend | None
) -> None:
    """Mels are clipped at the floor of the recipe; that of a front end may be lower."""
    trip = mel_round_trip
    tensors = (trip.waveform, trip.mel, trip.reconstructed_waveform, trip.reconstructed_mel)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
    lowest = min(trip.mel.min().item(), trip.reconstructed_mel.min().item())
    floor = trip.recipe.log_floor
    if mel_frontend is not None:
        floor = min(floor, trip.recipe.normalised(trip.recipe.logarithm(BENIGN_FLOORS[0])))
    assert lowest >= floor - 1e-5  # float32 resolves 2e-6 at -16


@pytest.mark.shapes
def test_a_batch_gives_what_its_items_give_alone(
    mel_pipeline: MelPipeline, mel_round_trip: RoundTrip, mel_vocoder: Vocoder
) -> None:
    """An item does not depend on what else is in the batch, but for the order of summation."""
    waveform = mel_round_trip.waveform
    batch = torch.cat([waveform, 0.5 * waveform, torch.zeros_like(waveform)])
    trip = mel_pipeline.round_trip(batch)
    assert list(trip.mel.shape) == [3, *mel_round_trip.mel.shape[1:]]
    together = trip.reconstructed_waveform[:1]
    alone = mel_round_trip.reconstructed_waveform
    apart = disagreement(mel_vocoder, alone, together, mel=mel_round_trip.mel)
    assert not apart, apart


# Goldens.


@pytest.mark.golden
def test_extracted_mel_is_on_record(
    mel_clip: Clip,
    mel_config: MelCheckConfig,
    mel_round_trip: RoundTrip,
    mel_loader: Loader | None,
    mel_frontend: Frontend | None,
    mel_golden: Golden,
) -> None:
    """The statistics of the clip's mel equal those of its golden."""
    _skip_a_part(mel_round_trip)
    # One golden for all vocoders of a recipe: their extractors must agree.
    recipe = mel_round_trip.recipe
    stage = "encoded" if recipe == VOCOS else f"encoded-{recipe.digest()}"
    mel_golden.check(
        f"{mel_clip.name}.{stage}",
        provenance=provenance(mel_clip, mel_config, recipe) | _stages(mel_loader, mel_frontend),
        statistics=mel_statistics(mel_round_trip.mel[0], recipe),
        tolerances=ENCODED_TOLERANCES,
    )


@pytest.mark.golden
def test_reconstructed_mel_is_on_record(
    mel_clip: Clip,
    mel_config: MelCheckConfig,
    mel_round_trip: RoundTrip,
    mel_loader: Loader | None,
    mel_frontend: Frontend | None,
    mel_golden: Golden,
) -> None:
    """The statistics of the reconstructed mel equal those of its golden."""
    _skip_a_part(mel_round_trip)
    trip = mel_round_trip
    depends = provenance(mel_clip, mel_config, trip.recipe, trip.vocoder)
    mel_golden.check(
        f"{mel_clip.name}.{file_name(trip.vocoder.name)}",
        provenance=depends | _stages(mel_loader, mel_frontend),
        statistics=mel_statistics(trip.reconstructed_mel[0], trip.recipe),
        tolerances=RECONSTRUCTED_TOLERANCES,
    )


def _skip_a_part(trip: RoundTrip) -> None:
    if trip.whole is not None:
        pytest.skip("goldens are of whole clips, and this one is so long that it ran in chunks")


def _stages(loader: Loader | None, frontend: Frontend | None) -> dict[str, str]:
    """Return the names of the user's stages that the extracted mel depends on."""
    stages = {"loader": loader, "front_end": frontend}
    return {stage: code.name for stage, code in stages.items() if code is not None}


# Beyond the gate.


@pytest.mark.artifacts
@pytest.mark.mel_clips("others")
def test_a_clip_outside_the_gate_is_measured_and_drawn(
    mel_clip: Clip,
    mel_round_trip: RoundTrip,
    mel_artifacts: Path,
    mel_record: Callable[..., CaseResult],
) -> None:
    """Music and percussion of a manifest get a row of the table and pictures, but no verdict."""
    problem = _saved(mel_round_trip, mel_artifacts, mel_clip.name)
    case = mel_record("measured", artifacts=mel_artifacts)
    assert math.isfinite(case.metrics["mae"])
    if problem:
        pytest.fail(plain_text(problem), pytrace=False)


@pytest.mark.benchmark
def test_speed_of_the_loop(
    benchmark: Any,
    mel_bench: Sweep,
    mel_bench_case: Case,
    mel_vocoder: Vocoder,
    mel_frontend: Frontend | None,
    mel_speed: Callable[[str], None],
) -> None:
    """Encode, decode and round trip are timed; no time fails the test."""
    case, vocoder = mel_bench_case, mel_vocoder
    if mel_frontend is not None:
        vocoder = VocoderWithFrontend(mel_frontend, vocoder)
    reason = mel_bench.left_out(vocoder, case)
    if reason is not None:
        mel_speed(f"{vocoder.info.name} {case}: left out, {reason}")
        pytest.skip(reason)
    benchmark.group = case.stage
    if benchmark.disabled:  # by --benchmark-disable, or beside pytest-xdist
        from melcheck.benchmark.measure import prepare_call  # the gate does not need it

        call, inputs = prepare_call(vocoder, case)
        benchmark.pedantic(call, (inputs[0],))
        return

    def pedantic(
        call: Callable[[torch.Tensor], object], inputs: Sequence[torch.Tensor], rounds: int
    ) -> Sequence[float]:
        turns = itertools.cycle(inputs)
        benchmark.pedantic(call, setup=lambda: ((next(turns),), {}), rounds=rounds, warmup_rounds=1)
        durations: list[float] = benchmark.stats.stats.data
        return durations

    found = mel_bench.measure(vocoder, case, time_calls=pedantic)
    benchmark.extra_info.update(found.extra_info())
    mel_speed(str(found))
