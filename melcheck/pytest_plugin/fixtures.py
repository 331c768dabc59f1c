"""The fixtures that tests ask for; `docs/plugin.md` lists them with their types.

A test that uses `mel_clip`, `mel_vocoder` or `mel_device`, or a fixture built on one of them, runs
once for each clip, vocoder and device of the plan. The fixtures about speed need no clip.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from melcheck.pytest_plugin.cases import absent, fail_case, plan_of, round_trip_of, said_once
from melcheck.pytest_plugin.options import texts
from melcheck.pytest_plugin.reports import record_case
from melcheck.pytest_plugin.terminal import NOTE_PROPERTY, PLACE_PROPERTY, SPEED_PROPERTY

if TYPE_CHECKING:
    from melcheck.benchmark.cases import Case
    from melcheck.benchmark.measure import Sweep
    from melcheck.benchmark.speed_gate import SpeedComparison
    from melcheck.caches import CacheResult
    from melcheck.clips import Clip
    from melcheck.config import MelCheckConfig
    from melcheck.diagnosis.causes import Explanation
    from melcheck.diagnosis.handshake import Handshake
    from melcheck.diagnosis.stage_handshake import StageHandshake
    from melcheck.diagnosis.stored_mels import FreshMel, Matches
    from melcheck.file_stages import Loader, Saver
    from melcheck.frontends import Frontend
    from melcheck.mel_files import StoredMel
    from melcheck.pipeline import MelPipeline, RoundTrip
    from melcheck.plan import Judged, Plan
    from melcheck.pytest_plugin.goldens import Golden
    from melcheck.report.model import CaseOutcome, CaseResult
    from melcheck.sanity import Verdict
    from melcheck.vocoders.base import Vocoder


@pytest.fixture
def mel_clip(request: pytest.FixtureRequest) -> Clip:
    """The clip of this case: its name, path and kind."""
    clip: Clip = request.param
    return clip


@pytest.fixture
def mel_device(request: pytest.FixtureRequest) -> str:
    """The device of this case; skips, or fails where it is required, when it is not available."""
    import torch

    device: str = request.param
    if device != "cpu" and not torch.cuda.is_available():
        absent(request, (device,), f"torch {torch.__version__} sees no CUDA device")
    return device


@pytest.fixture
def mel_vocoder(request: pytest.FixtureRequest, mel_device: str) -> Vocoder:
    """The vocoder of this case; skips, or fails where it is required, when it is not available."""
    from melcheck.vocoders.weights import VocoderError, VocoderUnavailable

    try:
        return plan_of(request.config).vocoder(request.param, mel_device)
    except VocoderError as error:
        # Looked at after the block, so that the report shows no chain of exceptions.
        missing, reason = isinstance(error, VocoderUnavailable), str(error)
    if missing:
        absent(request, (request.param, mel_device), reason)
    pytest.fail(reason, pytrace=False)


@pytest.fixture
def mel_frontend(request: pytest.FixtureRequest) -> Frontend | None:
    """The front end of `--mel-frontend`; None where the vocoder's own extractor is used."""
    return plan_of(request.config).frontend


@pytest.fixture
def mel_loader(request: pytest.FixtureRequest) -> Loader | None:
    """The loader of `--mel-loader`; None where melcheck reads the clips itself."""
    return plan_of(request.config).loader


@pytest.fixture
def mel_saver(request: pytest.FixtureRequest) -> Saver | None:
    """The saver of `--mel-saver`; None where there is none."""
    return plan_of(request.config).saver


@pytest.fixture
def mel_config(
    request: pytest.FixtureRequest, mel_clip: Clip, mel_vocoder: Vocoder
) -> MelCheckConfig:
    """How the clip of this case is read."""
    return plan_of(request.config).config(mel_clip, mel_vocoder.recipe)


@pytest.fixture
def mel_pipeline(
    request: pytest.FixtureRequest, mel_config: MelCheckConfig, mel_vocoder: Vocoder
) -> MelPipeline:
    """The pipeline of this case, with the loader and the front end where there are some."""
    from melcheck.pipeline import MelPipeline

    plan = plan_of(request.config)
    return MelPipeline(mel_config, vocoder=plan.with_frontend(mel_vocoder), load=plan.load)


@pytest.fixture
def mel_round_trip(
    request: pytest.FixtureRequest, mel_clip: Clip, mel_pipeline: MelPipeline
) -> RoundTrip:
    """The round trip of this case, made once and shared by the tests that look at it."""
    return round_trip_of(request.node, mel_pipeline, mel_clip)


@pytest.fixture
def mel_handshake(request: pytest.FixtureRequest, mel_vocoder: Vocoder) -> Handshake:
    """The front end compared with the recipe of the vocoder, on probes and the first clips."""
    plan = plan_of(request.config)
    if plan.frontend is None:
        pytest.fail("no front end to try. Name one with --mel-frontend MODULE:NAME.", pytrace=False)
    return plan.handshake(mel_vocoder.recipe)


@pytest.fixture
def mel_loader_handshake(request: pytest.FixtureRequest, mel_vocoder: Vocoder) -> StageHandshake:
    """The loader compared with the files: probes, and a clip of each format of the run."""
    plan = plan_of(request.config)
    if plan.loader is None:
        pytest.fail("no loader to try. Name one with --mel-loader MODULE:NAME.", pytrace=False)
    return plan.loader_handshake(mel_vocoder.recipe)


@pytest.fixture
def mel_vocoder_handshake(
    request: pytest.FixtureRequest, mel_vocoder: Vocoder, mel_device: str
) -> StageHandshake:
    """The vocoder compared with its reference, on probes and the first clips."""
    plan = plan_of(request.config)
    if plan.vocoder_reference is None:
        pytest.fail("no reference. Name one with --mel-vocoder-reference NAME.", pytrace=False)
    if not plan.has_reference(mel_vocoder.info.name):
        pytest.skip(f"{mel_vocoder.info.name} claims to be no other vocoder")
    return plan.vocoder_handshake(mel_vocoder, mel_device)


@pytest.fixture
def mel_saver_handshake(request: pytest.FixtureRequest, mel_vocoder: Vocoder) -> StageHandshake:
    """What the saver writes compared with what it is given: probes, and the first clips decoded."""
    plan = plan_of(request.config)
    if plan.saver is None:
        pytest.fail("no saver to try. Name one with --mel-saver MODULE:NAME.", pytrace=False)
    return plan.saver_handshake(mel_vocoder)


@pytest.fixture
def mel_cache_result(request: pytest.FixtureRequest, mel_clip: Clip) -> CacheResult:
    """What became of the stored mels of this clip in `--mel-cache`, compared with fresh ones."""
    from melcheck.caches import check_cache

    _needs_cache(request)
    return check_cache(plan_of(request.config), mel_clip)


@pytest.fixture
def mel_stored(request: pytest.FixtureRequest, mel_clip: Clip) -> tuple[StoredMel, ...]:
    """The mels of this clip in `--mel-cache` that can be read; none where it has none."""
    from melcheck.mel_files import read_mel

    stored = []
    for path in _needs_cache(request).mels.get(mel_clip.name, ()):
        with contextlib.suppress(ValueError, OSError):
            stored.append(read_mel(path, finite=False))
    return tuple(stored)


def _needs_cache(request: pytest.FixtureRequest) -> Matches:
    stored = plan_of(request.config).stored
    if stored is None:
        pytest.fail("no stored mels to look at. Name a folder with --mel-cache DIR.", pytrace=False)
    return stored


@pytest.fixture
def mel_fresh(request: pytest.FixtureRequest, mel_clip: Clip) -> FreshMel:
    """The mel of the whole clip, extracted now by the front end or by the vocoder's recipe."""
    from melcheck.caches import mel_of_today
    from melcheck.files import error_text, one_line, place

    try:
        return mel_of_today(plan_of(request.config), mel_clip)
    except (ValueError, OSError) as error:
        reason = error_text(error).removeprefix(f"{one_line(mel_clip.path)}: ")
    return fail_case(request.node, f"{mel_clip.name}: {reason}\nfile: {place(mel_clip.source)}")


@pytest.fixture
def mel_artifacts(
    request: pytest.FixtureRequest, mel_clip: Clip, mel_round_trip: RoundTrip
) -> Path:
    """The folder of this case's pictures and audio, which exists where it can be written."""
    from melcheck.artifacts import case_folder, make_folder

    plan = plan_of(request.config)
    assert plan.artifacts is not None  # a plan of pytest has a folder
    label = plan.label(mel_round_trip.vocoder.name)
    folder = case_folder(plan.artifacts, mel_clip.name, label, mel_round_trip.device)
    with contextlib.suppress(OSError):  # told by what is written there, after the verdict
        make_folder(plan.artifacts)
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def mel_judge(request: pytest.FixtureRequest, mel_clip: Clip) -> Callable[[RoundTrip], Judged]:
    """A function that judges this case by the project's thresholds and accepted misses."""

    def judge(trip: RoundTrip) -> Judged:
        plan = plan_of(request.config)
        return plan.judge(mel_clip, plan.label(trip.vocoder.name), trip)

    return judge


@pytest.fixture
def mel_record(
    request: pytest.FixtureRequest, mel_clip: Clip, mel_round_trip: RoundTrip
) -> Callable[..., CaseResult]:
    """A function that puts this case into the table at the end of the run."""

    def record(
        outcome: CaseOutcome,
        *,
        verdict: Verdict | None = None,
        cause: Explanation | None = None,
        artifacts: Path | None = None,
        problem: str = "",
    ) -> CaseResult:
        return record_case(
            request.node,
            mel_round_trip,
            clip=mel_clip,
            vocoder=plan_of(request.config).label(mel_round_trip.vocoder.name),
            outcome=outcome,
            verdict=verdict,
            cause=cause,
            artifacts=artifacts,
            problem=problem,
        )

    return record


@pytest.fixture
def mel_plan(request: pytest.FixtureRequest) -> Plan:
    """What the run checks: clips, vocoders, devices, thresholds, the expected recipe."""
    return plan_of(request.config)


@pytest.fixture
def mel_say_once(request: pytest.FixtureRequest) -> Callable[[Explanation], str]:
    """A function that returns a cause with its fix the first time, and without it afterwards."""
    return functools.partial(said_once, request.config)


@pytest.fixture
def mel_note(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """A function that puts a line into the notes at the end of the run."""

    def note(text: str) -> None:
        request.node.user_properties.append((NOTE_PROPERTY, text))

    return note


@pytest.fixture
def mel_blame(request: pytest.FixtureRequest) -> Callable[[Path, int | None], None]:
    """A function that says which file, and which line of it, a failure is about."""

    def blame(path: Path, line: int | None = None) -> None:
        place = f"{path}" if line is None else f"{path}:{line}"
        request.node.user_properties.append((PLACE_PROPERTY, place))

    return blame


@pytest.fixture
def mel_explain(
    request: pytest.FixtureRequest, mel_clip: Clip, mel_pipeline: MelPipeline
) -> Callable[..., Explanation]:
    """A function that names the likely cause of a bad round trip: the fault of a stage first."""

    def explain(trip: RoundTrip, *, baseline: RoundTrip | None = None) -> Explanation:
        plan = plan_of(request.config)
        return plan.explain(mel_clip, trip, mel_pipeline, baseline)

    return explain


@pytest.fixture
def mel_griffin_lim(
    request: pytest.FixtureRequest, mel_clip: Clip, mel_vocoder: Vocoder, mel_device: str
) -> Callable[[], RoundTrip | None]:
    """A function that puts Griffin-Lim's round trip of this clip into the table and returns it.

    It returns None where the vocoder of the case is Griffin-Lim itself.
    """

    def make() -> RoundTrip | None:
        from melcheck.pipeline import MelPipeline
        from melcheck.vocoders.griffin_lim import BASELINE

        plan = plan_of(request.config)
        if mel_vocoder.info.name == BASELINE:
            return None
        baseline = plan.baseline(mel_vocoder.recipe, mel_device)
        config = plan.config(mel_clip, baseline.recipe)
        pipeline = MelPipeline(config, vocoder=plan.with_frontend(baseline), load=plan.load)
        trip = round_trip_of(request.node, pipeline, mel_clip)
        if BASELINE not in plan.vocoders:
            record_case(request.node, trip, clip=mel_clip, vocoder=BASELINE, outcome="baseline")
        return trip

    return make


@pytest.fixture
def mel_golden(request: pytest.FixtureRequest, data_regression: Any, num_regression: Any) -> Golden:
    """The goldens of this run's clips; skips where there is no folder for them."""
    from melcheck.pytest_plugin.goldens import Golden

    plan = plan_of(request.config)
    if plan.goldens is None:
        pytest.skip("clips of your own have no goldens yet: name a folder with --mel-goldens DIR")
    if importlib.util.find_spec("pandas") is None:
        pytest.fail(
            "goldens need pandas, with which pytest-regressions reads and writes them. "
            'Install it: pip install "melcheck[goldens]"',
            pytrace=False,
        )
    return Golden(
        plan.goldens,
        data_regression,
        num_regression,
        regenerating=request.config.getoption("force_regen")
        or request.config.getoption("regen_all"),
    )


@pytest.fixture(scope="session")
def mel_bench(pytestconfig: pytest.Config) -> Sweep:
    """The sweep of `--mel-bench`: it measures cases, and leaves out what exceeds its time."""
    from melcheck.benchmark.measure import sweep

    return sweep(full=texts(pytestconfig, "bench") == ["full"])


@pytest.fixture
def mel_bench_case(request: pytest.FixtureRequest) -> Case:
    """The case of the benchmark: stage, device, size, precision and mode."""
    case: Case = request.param
    return case


@pytest.fixture
def mel_speed(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """A function that puts a line into the list of speeds at the end of the run."""

    def record(line: str) -> None:
        request.node.user_properties.append((SPEED_PROPERTY, line))

    return record


@pytest.fixture
def mel_speed_gate(request: pytest.FixtureRequest) -> Callable[..., SpeedComparison]:
    """A function that fails the test when a candidate is slower than a reference may be.

    `mel_speed_gate(candidate, reference, allowed_ratio=1.10)` takes two callables that do the same
    work and runs them in turns: see `melcheck.benchmark.speed_gate.compare_speed`, which has the
    other arguments, and whose result it returns. An undecided comparison passes, with a line in
    the notes.
    """

    def gate(
        candidate: Callable[..., object],
        reference: Callable[..., object],
        *,
        allowed_ratio: float = 1.10,
        pairs: int = 40,
        budget_seconds: float = 30.0,
        inputs: Callable[[], object] | None = None,
        device: str = "cpu",
    ) -> SpeedComparison:
        from melcheck.benchmark.speed_gate import compare_speed

        found = compare_speed(
            candidate,
            reference,
            allowed_ratio=allowed_ratio,
            pairs=pairs,
            budget_seconds=budget_seconds,
            inputs=inputs,
            device=device,
        )
        if found.outcome == "undecided":
            note = f"{request.node.nodeid}: {found.message()}"
            request.node.user_properties.append((NOTE_PROPERTY, note))
        if not found.passed:
            pytest.fail(found.message(), pytrace=False)
        return found

    return gate
