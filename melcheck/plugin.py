"""The pytest plugin: options, fixtures, markers and the table at the end of a run.

A test asks for `mel_round_trip` (or any of the fixtures below) and is run once for each clip,
vocoder and device of the plan. The plan comes from the command line, or from the manifest that the
ini key `mel_manifest` names. A path or a number that cannot be used ends the run before its first
test, with pytest's usage error (exit code 4).

Nothing heavy is imported until a plan is made.
"""

from __future__ import annotations

import os
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import pytest

if TYPE_CHECKING:
    from melcheck.clips import Clip
    from melcheck.config import MelCheckConfig
    from melcheck.pipeline import MelPipeline, RoundTrip
    from melcheck.report import CaseRow, Outcome
    from melcheck.sanity import Verdict
    from melcheck.vocoders import Vocoder, VocoderError

__all__ = ["Golden", "Plan"]

_MARKERS = {
    "sanity": "the gate: each clip of speech, and each of your own, survives the loop",
    "shapes": "tensors have the shapes that the recipe promises",
    "golden": "statistics of the mels are those on record",
    "artifacts": "pictures and files that a run leaves behind",
    "mel_clips(which)": "only the clips that the thresholds apply to ('gated'), or the 'others'",
    "cuda": "runs on a CUDA device",
    "official": "runs the official weights, charactr/vocos-mel-24khz",
}
_REQUIRABLE = ("official", "cuda")
_BASELINE = "griffin-lim"
_ROW_PROPERTY = "melcheck"
_CASE_PROPERTY = "melcheck-case"
_SPEED_PROPERTY = "melcheck-speed"
# Round trips kept for the tests that share them; one of 3 s takes about 1 MB.
_CACHED_TRIPS = 64
_LISTED_PATHS = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run checks: every clip with every vocoder on every device.

    Attributes:
        clips: The audio files.
        vocoders: Names for `melcheck.vocoders.load_vocoder`.
        devices: Names of torch devices.
        required: Vocoders and devices whose absence fails a test; others are skipped. What is
            named on the command line is required.
        sample_rate: Hz that audio is read at; None takes the rate of each vocoder's recipe.
        duration_seconds: Seconds of each clip.
        artifacts: Folder that pictures are written to.
        goldens: Folder that goldens are kept in; None where there is none.
    """

    clips: tuple[Clip, ...]
    vocoders: tuple[str, ...]
    devices: tuple[str, ...]
    required: frozenset[str]
    sample_rate: int | None
    duration_seconds: float
    artifacts: Path
    goldens: Path | None

    def label(self, vocoder: str) -> str:
        """Return a short name for a vocoder of this plan: of a path, its last part.

        It stands in test ids, artifact paths and the table; where two would get the same, each
        keeps its full name.
        """
        short = [name.rstrip("/").rsplit("/", 1)[-1] for name in self.vocoders]
        label = vocoder.rstrip("/").rsplit("/", 1)[-1]
        return label if short.count(label) <= 1 else vocoder

    def config(self, clip: Clip, vocoder: Vocoder | None = None) -> MelCheckConfig:
        """Return the configuration that reads a clip of this plan for a vocoder."""
        from melcheck.config import DEFAULT_SAMPLE_RATE, MelCheckConfig

        rate = DEFAULT_SAMPLE_RATE if vocoder is None else vocoder.recipe.sample_rate
        return MelCheckConfig(clip.path, self.sample_rate or rate, self.duration_seconds)


_PLAN = pytest.StashKey[Plan]()
_VOCODERS = pytest.StashKey[dict[tuple[str, str], "Vocoder | VocoderError"]]()
_TRIPS = pytest.StashKey[OrderedDict[tuple[str, str, str], "RoundTrip"]]()


# Options and the plan.


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
        help="folder for pictures and measurements (default: %(default)s)",
    )
    group.addoption(
        "--mel-goldens",
        metavar="DIR",
        help="folder of goldens for your own clips; the first run writes them and fails",
    )
    group.addoption(
        "--mel-duration",
        metavar="SECONDS",
        help="seconds to check of each clip (default: 3)",
    )
    group.addoption(
        "--mel-sample-rate",
        metavar="HZ",
        help="rate to read audio at; must be that of the vocoder (default: the vocoder's, 24000)",
    )
    parser.addini("mel_manifest", "YAML manifest of the clips to check without --mel-audio")
    parser.addini("mel_goldens", "folder that the goldens of the manifest's clips are kept in")


@pytest.hookimpl
def pytest_configure(config: pytest.Config) -> None:
    """Register the markers and the summary."""
    for name, meaning in _MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")
    if not _is_worker(config):
        config.pluginmanager.register(_Summary(config), "melcheck-summary")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Make the plan, so that what cannot be used is said before anything runs."""
    config = session.config
    named = any(
        config.getoption(f"mel_{name}")
        for name in ("audio", "vocoder", "device", "require", "goldens", "duration", "sample_rate")
    )
    if named or config.getini("mel_manifest"):
        try:
            plan = config.stash[_PLAN] = _make_plan(config)
            _check_vocoders(config, plan)
            if not _is_worker(config):
                _check_clips(plan)
        except (ValueError, TypeError, OSError) as error:
            raise pytest.UsageError(f"melcheck: {error}") from None


def _make_plan(config: pytest.Config) -> Plan:
    from melcheck.clips import find_clips, load_manifest
    from melcheck.config import DEFAULT_DURATION_SECONDS

    paths = config.getoption("mel_audio")
    manifest = config.getini("mel_manifest")
    goldens = config.getoption("mel_goldens")
    if paths:
        clips = find_clips([config.invocation_params.dir / path for path in paths])
    elif manifest:
        clips = load_manifest(config.rootpath / manifest)
        goldens = goldens or config.rootpath / config.getini("mel_goldens")
    else:
        raise pytest.UsageError("melcheck: no clips to check. Name some with --mel-audio PATH.")

    if not any(clip.gated for clip in clips):
        raise ValueError(f"{manifest}: no clip of speech, so that the gate would check nothing.")

    required = _names(config.getoption("mel_require"))
    for name in required:
        if name not in _REQUIRABLE:
            raise ValueError(f"--mel-require takes {' and '.join(_REQUIRABLE)}, got {name!r}.")
    vocoders = _names(config.getoption("mel_vocoder")) or ["embedded", "official"]
    devices = _devices(_names(config.getoption("mel_device")), required)
    rate = _number(config, "mel_sample_rate", int, "a whole number of Hz", None)
    duration = _number(config, "mel_duration", float, "seconds", DEFAULT_DURATION_SECONDS)
    return Plan(
        clips=clips,
        vocoders=tuple(vocoders),
        devices=tuple(devices),
        required=frozenset(
            [
                *required,
                *_names(config.getoption("mel_vocoder")),
                *_names(config.getoption("mel_device")),
            ]
        ),
        sample_rate=rate,
        duration_seconds=duration,
        artifacts=_writable_folder(
            config.invocation_params.dir / config.getoption("mel_artifacts")
        ),
        goldens=Path(goldens) if goldens else None,
    )


def _names(values: Iterable[str] | None) -> list[str]:
    # A directory may have a comma in its name; then it is one name.
    names: list[str] = []
    for value in values or ():
        parts = [value] if Path(value).is_dir() else value.split(",")
        names += [name for part in parts if (name := part.strip()) and name not in names]
    return names


def _devices(named: list[str], required: list[str]) -> list[str]:
    import torch

    available = torch.cuda.is_available()
    for name in named:
        if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
            raise ValueError(f"--mel-device must be cpu, cuda or cuda:N, got {name!r}.")
        if name != "cpu" and not available:
            raise ValueError(
                f"--mel-device {name}: torch {torch.__version__} sees no CUDA device. Check the "
                "driver with nvidia-smi, or leave the option out."
            )
    if named:
        return named
    return ["cpu", "cuda"] if available or "cuda" in required else ["cpu"]


def _number(
    config: pytest.Config, option: str, convert: Callable[[str], Any], expected: str, default: Any
) -> Any:
    text = config.getoption(option)
    if text is None:
        return default
    try:
        return convert(text)
    except ValueError:
        name = option.replace("_", "-")
        raise ValueError(f"--{name} must be {expected}, got {text!r}.") from None


def _writable_folder(path: Path) -> Path:
    # Made only when the first picture is written; here it is only asked whether it could be.
    nearest = next(folder for folder in (path, *path.parents) if folder.exists())
    if not nearest.is_dir():
        raise ValueError(f"--mel-artifacts must be a folder, but {nearest} is a file.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(
            f"--mel-artifacts {path}: {nearest} cannot be written. Name another folder."
        )
    return path


def _check_clips(plan: Plan) -> None:
    from melcheck.audio import load_audio
    from melcheck.recipes import VOCOS

    problems = []
    for clip in plan.clips:
        config = plan.config(clip)
        if clip.kind != "user":
            continue  # a manifest's clips are held to their hashes
        try:
            load_audio(config, min_samples=VOCOS.min_round_trip_samples)
        except (ValueError, OSError) as error:
            problems.append(str(error))
    if problems:
        listed = "\n".join(problems[:_LISTED_PATHS])
        more = len(problems) - _LISTED_PATHS
        raise ValueError(listed + (f"\n... and {more} more files" if more > 0 else ""))


def _check_vocoders(config: pytest.Config, plan: Plan) -> None:
    from melcheck.vocoders import VocoderError, VocoderUnavailable

    for name in plan.vocoders:
        try:
            vocoder = _vocoder(config, plan, name, plan.devices[0])
        except VocoderUnavailable:
            continue  # its tests are skipped, or fail where it is required, each with the reason
        except VocoderError as error:
            raise ValueError(error) from None
        rate = vocoder.recipe.sample_rate
        if plan.sample_rate not in (None, rate):
            raise ValueError(
                f"--mel-sample-rate must be {rate}, the rate of the mels of {name!r}, got "
                f"{plan.sample_rate}. Audio of any other rate is resampled to it."
            )


# The cases.


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test once for each clip, vocoder and device whose fixtures it uses."""
    names = [name for name in _PARAMETRIZED if name in metafunc.fixturenames]
    if not names:
        return
    plan = _plan(metafunc.config)
    marker = metafunc.definition.get_closest_marker("mel_clips")
    for name in names:
        values = getattr(plan, _PARAMETRIZED[name])
        if name == "mel_clip" and marker:
            values = [clip for clip in values if clip.gated == (marker.args == ("gated",))]
        params = [_param(plan, value) for value in values]
        if not params:
            reason = "the thresholds apply to every clip of this run"
            params = [pytest.param(None, id="none", marks=pytest.mark.skip(reason))]
        metafunc.parametrize(name, params, indirect=True)


_PARAMETRIZED = {"mel_clip": "clips", "mel_vocoder": "vocoders", "mel_device": "devices"}


def _param(plan: Plan, value: Any) -> Any:
    if not isinstance(value, str):
        return pytest.param(value, id=value.name)
    marks = [getattr(pytest.mark, name) for name in _REQUIRABLE if value.split(":")[0] == name]
    return pytest.param(value, id=plan.label(value), marks=marks)


def _plan(config: pytest.Config) -> Plan:
    if _PLAN not in config.stash:
        raise pytest.UsageError("melcheck: no clips to check. Name some with --mel-audio PATH.")
    return config.stash[_PLAN]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Note on each test with a row which case it is, so that none goes missing from the summary."""
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec and "mel_record" in getattr(item, "fixturenames", ()):
            clip, vocoder, device = (callspec.params[name] for name in _PARAMETRIZED)
            if clip is not None:
                item.user_properties.append((_CASE_PROPERTY, f"{clip.name} {vocoder} {device}"))


# Fixtures.


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
        _absent(request, "cuda", f"torch {torch.__version__} sees no CUDA device")
    return device


@pytest.fixture
def mel_vocoder(request: pytest.FixtureRequest, mel_device: str) -> Vocoder:
    """The loaded vocoder of this case; skips, or fails where it is required, when absent."""
    from melcheck.vocoders import VocoderError, VocoderUnavailable

    try:
        return _vocoder(request.config, _plan(request.config), request.param, mel_device)
    except VocoderUnavailable as error:
        _absent(request, request.param, str(error))
    except VocoderError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def mel_config(
    request: pytest.FixtureRequest, mel_clip: Clip, mel_vocoder: Vocoder
) -> MelCheckConfig:
    """How the clip of this case is read."""
    return _plan(request.config).config(mel_clip, mel_vocoder)


@pytest.fixture
def mel_pipeline(mel_config: MelCheckConfig, mel_vocoder: Vocoder) -> MelPipeline:
    """The pipeline of this case."""
    from melcheck.pipeline import MelPipeline

    return MelPipeline(mel_config, vocoder=mel_vocoder)


@pytest.fixture
def mel_round_trip(
    request: pytest.FixtureRequest, mel_clip: Clip, mel_pipeline: MelPipeline
) -> RoundTrip:
    """The round trip of this case, made once and shared by the tests that look at it."""
    return _round_trip(request.config, mel_clip, mel_pipeline)


@pytest.fixture
def mel_artifacts(
    request: pytest.FixtureRequest, mel_clip: Clip, mel_round_trip: RoundTrip
) -> Path:
    """The folder of this case's pictures and measurements, which exists."""
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
        outcome: Outcome, *, verdict: Verdict | None = None, artifacts: Path | None = None
    ) -> CaseRow:
        from melcheck.report import case_row

        row = case_row(
            mel_clip.name,
            _plan(request.config).label(mel_round_trip.vocoder.name),
            mel_round_trip,
            outcome=outcome,
            verdict=verdict,
            artifacts="" if artifacts is None else str(artifacts),
        )
        request.node.user_properties.append((_ROW_PROPERTY, row.to_json()))
        return row

    return record


@pytest.fixture
def mel_baseline(
    request: pytest.FixtureRequest, mel_clip: Clip, mel_device: str
) -> Callable[[], None]:
    """A function that puts Griffin-Lim's row for this clip into the table, once a run."""

    def record() -> None:
        from melcheck.pipeline import MelPipeline
        from melcheck.report import case_row

        plan = _plan(request.config)
        trips = request.config.stash.setdefault(_TRIPS, OrderedDict())
        key = (mel_clip.name, _BASELINE, mel_device)
        if _BASELINE in plan.vocoders or key in trips:
            return
        vocoder = _vocoder(request.config, plan, _BASELINE, mel_device)
        pipeline = MelPipeline(plan.config(mel_clip, vocoder), vocoder=vocoder)
        trip = _round_trip(request.config, mel_clip, pipeline)
        row = case_row(mel_clip.name, _BASELINE, trip, outcome="baseline")
        request.node.user_properties.append((_ROW_PROPERTY, row.to_json()))

    return record


class Golden:
    """Holds statistics of a mel against what is on record for this case.

    `pytest --force-regen` rewrites what differs and fails, as always with pytest-regressions; a
    golden that is absent is written and fails.
    """

    def __init__(self, folder: Path, provenance: Any, statistics: Any) -> None:
        self._folder = folder
        self._provenance = provenance
        self._statistics = statistics

    def recorded(self, name: str) -> bool:
        """Return whether there is a golden of this name."""
        return (self._folder / f"{name}.csv").is_file()

    def check(
        self,
        name: str,
        *,
        provenance: dict[str, Any],
        statistics: dict[str, list[float]],
        tolerances: Mapping[str, float],
    ) -> None:
        """Compare provenance first, then each statistic within its own tolerance.

        Args:
            name: Of the golden, without suffix.
            provenance: What the statistics depend on; any difference is reported before a number.
            statistics: As `melcheck.goldens.mel_statistics` gives them.
            tolerances: Absolute, for each statistic.

        Raises:
            AssertionError: A statistic outside its tolerance.
            pytest.fail.Exception: Another provenance, or a golden that was absent or regenerated.
        """
        missing = set(statistics) - set(tolerances)
        if missing:
            raise ValueError(f"tolerances must cover every statistic, got none for {missing}.")
        failures = []
        try:
            self._provenance.check(dict(provenance), fullpath=self._folder / f"{name}.yml")
        except AssertionError as error:
            pytest.fail(
                f"golden {name} was recorded under other conditions; its numbers were not "
                "compared. If the change is meant, run with --force-regen and commit why.\n"
                f"{error}",
                pytrace=False,
            )
        except pytest.fail.Exception as written:
            failures.append(str(written))
        try:
            # float64 throughout: the columns have different lengths and are padded with NaN.
            self._statistics.check(
                dict(statistics),
                fullpath=self._folder / f"{name}.csv",
                tolerances={key: {"atol": atol, "rtol": 0.0} for key, atol in tolerances.items()},
            )
        except pytest.fail.Exception as written:
            failures.append(str(written))
        if failures:
            pytest.fail("\n".join(failures), pytrace=False)


@pytest.fixture
def mel_golden(request: pytest.FixtureRequest, data_regression: Any, num_regression: Any) -> Golden:
    """The goldens of this run's clips; skips where there is no folder for them."""
    folder = _plan(request.config).goldens
    if folder is None:
        pytest.skip("clips of your own have no goldens yet: name a folder with --mel-goldens DIR")
    return Golden(folder, data_regression, num_regression)


@pytest.fixture
def mel_speed(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """A function that puts a line into the list of speeds at the end of the run."""

    def record(line: str) -> None:
        request.node.user_properties.append((_SPEED_PROPERTY, line))

    return record


def _absent(request: pytest.FixtureRequest, name: str, reason: str) -> NoReturn:
    required = _plan(request.config).required
    if name in required or name.split(":")[0] in required:
        pytest.fail(f"{name} is required and missing: {reason}", pytrace=False)
    hint = " `--mel-vocoder official` downloads it." if name == "official" else ""
    pytest.skip(f"{name}: {reason}{hint}")


def _vocoder(config: pytest.Config, plan: Plan, name: str, device: str) -> Vocoder:
    """Return a vocoder that is loaded once; what failed once fails again without a new try."""
    from melcheck.vocoders import VocoderError, load_vocoder

    loaded = config.stash.setdefault(_VOCODERS, {})
    key = (name, device)
    if key not in loaded:
        try:
            # Only what was asked for by name may take the time and the traffic of a download.
            loaded[key] = load_vocoder(name, device=device, download=name in plan.required)
        except VocoderError as error:
            loaded[key] = error
    found = loaded[key]
    if isinstance(found, VocoderError):
        raise found
    return found


def _round_trip(config: pytest.Config, clip: Clip, pipeline: MelPipeline) -> RoundTrip:
    trips = config.stash.setdefault(_TRIPS, OrderedDict())
    key = (clip.name, pipeline.vocoder.info.name, str(pipeline.device))
    if key not in trips:
        try:
            trips[key] = pipeline.round_trip()
        except (ValueError, OSError) as error:
            pytest.fail(str(error), pytrace=False)
        while len(trips) > _CACHED_TRIPS:
            trips.popitem(last=False)
    return trips[key]


# The summary.


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")  # of pytest-xdist


class _Summary:
    """Gathers the rows that tests record, in any process, and prints them at the end."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.rows: dict[tuple[str, str, str], CaseRow] = {}
        self.planned: set[str] = set()
        self.skipped: dict[str, set[str]] = {}
        self.speeds: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the row and the case out of a test's report."""
        for name, value in report.user_properties:
            if name == _CASE_PROPERTY:
                self.planned.add(str(value))
                if report.skipped and report.when == "setup":
                    _, _, reason = cast("tuple[str, int, str]", report.longrepr)
                    reason = reason.removeprefix("Skipped: ")
                    self.skipped.setdefault(reason, set()).add(str(value))
            elif name == _ROW_PROPERTY and report.when == "call":
                from melcheck.report import CaseRow

                row = CaseRow.from_json(str(value))
                self.rows[row.clip, row.vocoder, row.device] = row
            elif name == _SPEED_PROPERTY and report.when == "call":
                self.speeds.append(str(value))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table, what was skipped and why, and where the pictures are."""
        if self.speeds:
            terminalreporter.section("melcheck: speed, from the median of each benchmark")
            for line in self.speeds:
                terminalreporter.write_line(line)
        if not self.planned:
            return
        from melcheck.audio import decoder_name
        from melcheck.report import legend, table_text
        from melcheck.sanity import Thresholds

        write = terminalreporter.write_line
        terminalreporter.section("melcheck: audio -> mel -> audio -> mel")
        if self.rows:
            rows = list(self.rows.values())
            width = max(80, terminalreporter._tw.fullwidth)
            write(table_text(rows, width=width, colour=terminalreporter.hasmarkup))
            write(legend(Thresholds()))
            for line in sorted({f"{row.vocoder}: {row.provenance}" for row in rows}):
                write(line)
            write(f"decoder: {decoder_name()} (MP3: always soundfile)")
        for reason, cases in self.skipped.items():
            write(f"skipped, {len(cases)} of {len(self.planned)} cases: {reason}")
        pictures = [row.artifacts for row in self.rows.values() if row.artifacts]
        if pictures:
            write("pictures:")
        for folder in pictures[:_LISTED_PATHS]:
            write(f"  {folder}")
        if len(pictures) > _LISTED_PATHS:
            write(f"  ... and {len(pictures) - _LISTED_PATHS} more folders beside them")
        counts: Counter[str] = Counter(
            row.outcome for row in self.rows.values() if row.outcome != "baseline"
        )
        counts["skipped"] = sum(map(len, self.skipped.values()))
        missing = len(self.planned) - counts.total()
        if missing:
            counts["without a result (see the errors)"] = missing
        told = ", ".join(f"{number} {outcome}" for outcome, number in counts.items() if number)
        write(f"{len(self.planned)} cases planned: {told}")
