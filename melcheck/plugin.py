"""The pytest plugin: options, fixtures, markers and the table at the end of a run.

A test asks for `mel_round_trip` (or any of the fixtures below) and is run once for each clip,
vocoder and device of the plan. The plan comes from the command line, or from the manifest that the
ini key `mel_manifest` names. A path or a number that cannot be used ends the run before its first
test, with pytest's usage error (exit code 4).

Nothing heavy is imported until a plan is made.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from melcheck import report_collector, report_plugin
from melcheck.summary import (
    CASE_PROPERTY,
    ROW_PROPERTY,
    SPEED_PROPERTY,
    Summary,
    send_planned_cases,
)

if TYPE_CHECKING:
    from melcheck.clips import Clip
    from melcheck.config import MelCheckConfig
    from melcheck.goldens import Golden
    from melcheck.loop_forensics import Explanation
    from melcheck.pipeline import MelPipeline, RoundTrip
    from melcheck.plan import Plan
    from melcheck.report import CaseRow, Outcome
    from melcheck.sanity import Verdict
    from melcheck.vocoders import Vocoder

__all__ = ["RoundTrips"]

RoundTrips = OrderedDict[tuple["MelCheckConfig", str, str], "RoundTrip"]
"""Round trips that tests share, by configuration, vocoder and device."""

_MARKERS = {
    "sanity": "the gate: each clip of speech, and each of your own, survives the loop",
    "shapes": "tensors have the shapes that the recipe promises",
    "golden": "statistics of the mels are those on record",
    "artifacts": "pictures and files that a run leaves behind",
    "mel_clips(which)": "only the clips that the thresholds apply to ('gated'), or the 'others'",
    "cuda": "runs on a CUDA device",
    "official": "runs the official weights, charactr/vocos-mel-24khz",
}
_PARAMETRIZED = {"mel_clip": "clips", "mel_vocoder": "vocoders", "mel_device": "devices"}
_OPTIONS = ("audio", "vocoder", "device", "require", "goldens", "duration", "sample_rate")
# One round trip of 3 s takes about 1 MB.
_CACHED_TRIPS = 64

_PLAN = pytest.StashKey["Plan"]()
_TRIPS = pytest.StashKey[RoundTrips]()
_REFUSED = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the `--mel-...` options and the `mel_...` ini keys."""
    group = parser.getgroup("melcheck", "melcheck: audio -> mel -> audio")
    group.addoption(
        "--mel-audio",
        nargs="+",
        action="extend",
        metavar="PATH",
        help="audio files or folders of your own to check, instead of the manifest's clips",
    )
    group.addoption(
        "--mel-vocoder",
        action="append",
        metavar="NAME",
        help="embedded, official, griffin-lim, a directory or a hub id; repeatable "
        "(default: embedded, and official where its weights are in the cache)",
    )
    group.addoption(
        "--mel-device",
        action="append",
        metavar="DEVICE",
        help="cpu or cuda; repeatable (default: cpu, and cuda where there is one)",
    )
    group.addoption(
        "--mel-require",
        action="append",
        metavar="NAMES",
        help="official,cuda: fail, instead of skipping, where one of these is missing",
    )
    group.addoption(
        "--mel-artifacts",
        metavar="DIR",
        default="mel-artifacts",
        help="folder for pictures and sound (default: %(default)s)",
    )
    group.addoption(
        "--mel-goldens",
        metavar="DIR",
        help="folder of goldens for your own clips; the first run writes them and fails",
    )
    group.addoption(
        "--mel-duration",
        metavar="SECONDS",
        help="seconds to check of each clip, from its start, or all (default: 3)",
    )
    group.addoption(
        "--mel-sample-rate",
        metavar="HZ",
        help="rate to read audio at; must be that of the vocoder (default: the vocoder's, 24000)",
    )
    parser.addini("mel_manifest", "YAML manifest of the clips to check without --mel-audio")
    parser.addini("mel_goldens", "folder that the goldens of the manifest's clips are kept in")
    report_plugin.add_options(group, parser)


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers and the summary."""
    for name, meaning in _MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")
    summary = None if _is_worker(config) else Summary()
    if summary is not None:
        config.pluginmanager.register(summary, "melcheck-summary")
    report_plugin.register(config, lambda: config.stash.get(_PLAN, None), summary)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Make the plan, so that what cannot be used is said before anything runs."""
    config = session.config
    named = any(config.getoption(f"mel_{name}") for name in _OPTIONS)
    if not named and not config.getini("mel_manifest"):
        return
    from melcheck.plan import make_plan

    try:
        config.stash[_PLAN] = make_plan(config, check_clips=not _is_worker(config))
    except (ValueError, TypeError, OSError) as error:
        raise pytest.UsageError(f"melcheck: {error}") from None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test once for each clip, vocoder and device whose fixtures it uses."""
    names = [name for name in _PARAMETRIZED if name in metafunc.fixturenames]
    if not names:
        return
    stash = metafunc.config.stash
    marker = metafunc.definition.get_closest_marker("mel_clips")
    refused = ""
    if _PLAN not in stash:
        refused = "no clips to check. Name some with --mel-audio PATH."
    elif marker and marker.args not in (("gated",), ("others",)):
        refused = f"the marker mel_clips takes 'gated' or 'others', got {marker.args}."
    if refused:
        # Raised once collection is over: here it would be shown as an error of that file.
        stash[_REFUSED] = refused
        for name in names:
            metafunc.parametrize(name, [None], indirect=True)
        return
    plan = _plan(metafunc.config)
    for name in names:
        values = getattr(plan, _PARAMETRIZED[name])
        if name == "mel_clip" and marker:
            values = [clip for clip in values if clip.gated == (marker.args == ("gated",))]
        params = [_param(plan, value) for value in values]
        if not params:
            reason = "the thresholds apply to every clip of this run"
            params = [pytest.param(None, id="none", marks=pytest.mark.skip(reason))]
        metafunc.parametrize(name, params, indirect=True)


def _param(plan: Plan, value: Any) -> Any:
    if not isinstance(value, str):
        return pytest.param(value, id=value.name)
    kind = value.split(":")[0]
    marks = [getattr(pytest.mark, kind)] if kind in ("official", "cuda") else []
    return pytest.param(value, id=plan.label(value), marks=marks)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Note on each test with a row which case it is, so that none goes missing from the summary."""
    if _REFUSED in config.stash:
        raise pytest.UsageError(f"melcheck: {config.stash[_REFUSED]}")
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec and "mel_record" in getattr(item, "fixturenames", ()):
            clip, vocoder, device = (callspec.params[name] for name in _PARAMETRIZED)
            if clip is not None:  # all clips of the run are gated
                case = [clip.name, _plan(config).label(vocoder), device]
                item.user_properties.append((CASE_PROPERTY, json.dumps(case)))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Tell pytest-xdist's controller which cases this worker has."""
    if _is_worker(session.config):
        send_planned_cases(session)


@pytest.fixture
def mel_clip(request: pytest.FixtureRequest) -> Clip:
    """The clip of this case: its name, path and kind."""
    clip: Clip = request.param
    return clip


@pytest.fixture
def mel_device(request: pytest.FixtureRequest) -> str:
    """The device of this case; skips, or fails where it is required, when there is none."""
    import torch

    device: str = request.param
    if device != "cpu" and not torch.cuda.is_available():
        _absent(request, (device,), f"torch {torch.__version__} sees no CUDA device")
    return device


@pytest.fixture
def mel_vocoder(request: pytest.FixtureRequest, mel_device: str) -> Vocoder:
    """The loaded vocoder of this case; skips, or fails where it is required, when absent."""
    from melcheck.vocoders import VocoderError, VocoderUnavailable

    try:
        return _plan(request.config).vocoder(request.param, mel_device)
    except VocoderError as error:
        # Looked at after the block, so that the report shows no chain of exceptions.
        absent, reason = isinstance(error, VocoderUnavailable), str(error)
    if absent:
        _absent(request, (request.param, mel_device), reason)
    pytest.fail(reason, pytrace=False)


@pytest.fixture
def mel_config(
    request: pytest.FixtureRequest, mel_clip: Clip, mel_vocoder: Vocoder
) -> MelCheckConfig:
    """How the clip of this case is read."""
    return _plan(request.config).config(mel_clip, mel_vocoder.recipe)


@pytest.fixture
def mel_pipeline(mel_config: MelCheckConfig, mel_vocoder: Vocoder) -> MelPipeline:
    """The pipeline of this case."""
    from melcheck.pipeline import MelPipeline

    return MelPipeline(mel_config, vocoder=mel_vocoder)


@pytest.fixture
def mel_round_trip(request: pytest.FixtureRequest, mel_pipeline: MelPipeline) -> RoundTrip:
    """The round trip of this case, made once and shared by the tests that look at it."""
    return _round_trip(request.config, mel_pipeline)


@pytest.fixture
def mel_artifacts(
    request: pytest.FixtureRequest, mel_clip: Clip, mel_round_trip: RoundTrip
) -> Path:
    """The folder of this case's pictures and sound, which exists."""
    from melcheck.clips import file_name

    plan = _plan(request.config)
    case = f"{mel_clip.name}-{plan.label(mel_round_trip.vocoder.name)}-{mel_round_trip.device}"
    folder = plan.artifacts / file_name(case)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def mel_record(
    request: pytest.FixtureRequest, mel_clip: Clip, mel_round_trip: RoundTrip
) -> Callable[..., CaseRow]:
    """A function that puts this case into the table at the end of the run."""

    def record(
        outcome: Outcome,
        *,
        verdict: Verdict | None = None,
        cause: Explanation | None = None,
        artifacts: Path | None = None,
    ) -> CaseRow:
        from melcheck.report import case_row

        label = _plan(request.config).label(mel_round_trip.vocoder.name)
        row = case_row(
            mel_clip.name,
            label,
            mel_round_trip,
            outcome=report_collector.collect(
                request.node,
                mel_round_trip,
                clip=mel_clip,
                vocoder=label,
                outcome=outcome,
                verdict=verdict,
                cause=cause,
            ),
            verdict=verdict,
            artifacts="" if artifacts is None else str(artifacts),
        )
        request.node.user_properties.append((ROW_PROPERTY, row.to_json()))
        request.node.user_properties.extend(report_collector.case_properties(row))
        return row

    return record


@pytest.fixture
def mel_baseline(
    request: pytest.FixtureRequest, mel_clip: Clip, mel_vocoder: Vocoder, mel_device: str
) -> Callable[[], RoundTrip | None]:
    """A function that makes Griffin-Lim's round trip of this clip and puts it into the table.

    It returns None for a vocoder of another recipe than Griffin-Lim's, with which there is nothing
    to compare.
    """

    def make() -> RoundTrip | None:
        from melcheck.pipeline import MelPipeline
        from melcheck.plan import BASELINE
        from melcheck.report import case_row

        plan = _plan(request.config)
        baseline = plan.vocoder(BASELINE, mel_device)
        if baseline.recipe != mel_vocoder.recipe:
            return None
        pipeline = MelPipeline(plan.config(mel_clip, baseline.recipe), vocoder=baseline)
        trip = _round_trip(request.config, pipeline)
        if BASELINE not in plan.vocoders:
            row = case_row(mel_clip.name, BASELINE, trip, outcome="baseline")
            report_collector.collect(
                request.node, trip, clip=mel_clip, vocoder=BASELINE, outcome="baseline"
            )
            request.node.user_properties.append((ROW_PROPERTY, row.to_json()))
        return trip

    return make


@pytest.fixture
def mel_speed(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """A function that puts a line into the list of speeds at the end of the run."""

    def record(line: str) -> None:
        request.node.user_properties.append((SPEED_PROPERTY, line))

    return record


@pytest.fixture
def mel_golden(request: pytest.FixtureRequest, data_regression: Any, num_regression: Any) -> Golden:
    """The goldens of this run's clips; skips where there is no folder for them."""
    from melcheck.goldens import Golden

    plan = _plan(request.config)
    if plan.goldens is None:
        pytest.skip("clips of your own have no goldens yet: name a folder with --mel-goldens DIR")
    return Golden(
        plan.goldens,
        data_regression,
        num_regression,
        complete=not plan.goldens_are_ours,
        regenerating=request.config.getoption("force_regen")
        or request.config.getoption("regen_all"),
    )


def _plan(config: pytest.Config) -> Plan:
    return config.stash[_PLAN]


def _absent(request: pytest.FixtureRequest, names: tuple[str, ...], reason: str) -> NoReturn:
    required = _plan(request.config).required
    wanted = [name for name in names if name in required or name.split(":")[0] in required]
    if wanted:
        pytest.fail(f"{wanted[0]} is required and missing: {reason}", pytrace=False)
    hint = ""
    if names[0] == "official":
        from melcheck.hub import official_in_cache

        hint = "" if official_in_cache() else " `--mel-vocoder official` downloads it."
    pytest.skip(f"{names[0]}: {reason}{hint}")


def _round_trip(config: pytest.Config, pipeline: MelPipeline) -> RoundTrip:
    trips = config.stash.setdefault(_TRIPS, OrderedDict())
    key = (pipeline.config, pipeline.vocoder.info.name, str(pipeline.device))
    if key not in trips:
        try:
            trips[key] = pipeline.round_trip()
        except (ValueError, OSError) as error:
            reason = str(error)
        else:
            reason = ""
        if reason:
            pytest.fail(reason, pytrace=False)
        while len(trips) > _CACHED_TRIPS:
            trips.popitem(last=False)
    return trips[key]


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")  # of pytest-xdist
