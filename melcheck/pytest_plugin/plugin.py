"""The hooks of the pytest plugin: markers, the plan of a run, its cases.

A test that uses `mel_round_trip` (or another fixture of `melcheck.pytest_plugin.fixtures`) runs
once for each clip, vocoder and device of the plan, which the options of
`melcheck.pytest_plugin.options` or their ini keys describe. What cannot be used ends the run before
its first test, with pytest's usage error (exit code 4). Nothing heavy is imported before that.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from melcheck.environment import (
    PackageNeededError,
    UnfitEnvironmentError,
    missing_package,
    require_torch,
    torch_fault,
)
from melcheck.files import error_text, failed_allocation, plain_text
from melcheck.pytest_plugin import reports as report_plugin
from melcheck.pytest_plugin.cases import FOUND, PLAN, REFUSED, is_worker, plan_of
from melcheck.pytest_plugin.end_of_run import EndOfRun
from melcheck.pytest_plugin.options import (
    OPTIONS,
    add_options,
    check_keys,
    overlooked_configuration,
    texts,
)
from melcheck.pytest_plugin.terminal import (
    CASE_PROPERTY,
    KIND_PROPERTY,
    PLACE_PROPERTY,
    Annotations,
    Notes,
    Summary,
    send_planned_cases,
)

if TYPE_CHECKING:
    from melcheck.clips import Clip
    from melcheck.plan import Plan


pytest_plugins = ["melcheck.pytest_plugin.fixtures"]

_MARKERS = {
    "sanity": "the gate: the round trip of each clip stays within the thresholds, your loader, "
    "front end, vocoder and saver do what the reference does, and stored mels are fresh",
    "shapes": "tensors have the shapes that the recipe gives",
    "golden": "statistics of the mels equal those on record",
    "artifacts": "pictures and files of a run",
    "mel_clips(which)": "run only on clips that the thresholds apply to ('gated'), or on 'others'",
    "mel_needs(option)": "run only where this option was given: 'loader', 'frontend', "
    "'vocoder-reference', 'saver' or 'cache'",
    "cuda": "runs on a CUDA device",
    "official": "runs the official weights, charactr/vocos-mel-24khz",
}
_PARAMETRIZED = {"mel_clip": "clips", "mel_vocoder": "vocoders", "mel_device": "devices"}
# Options about the output of a run and the size of its benchmarks make no plan by themselves.
_NO_PLAN = (
    "artifacts",
    "report",
    "baseline",
    "bench",
    "accept",
    "strict-input",
    "keep-runs",
    "column",
    "cache-pattern",
)
_PLANNED = tuple(option.name for option in OPTIONS if option.name not in _NO_PLAN)
# The environment lacks something, as on the command line.
_ENVIRONMENT = 3
_ARTIFACTS_INPUT = "melcheck_artifacts"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the `--mel-...` options and the `mel_...` ini keys."""
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, the report and the sections at the end of the output."""
    for name, meaning in _MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")
    try:
        check_keys(config)
    except ValueError as error:
        raise pytest.UsageError(plain_text(f"melcheck: {error}")) from None
    summary = None if is_worker(config) else Summary()
    if summary is not None:
        config.pluginmanager.register(Annotations(config), "melcheck-annotations")
        config.pluginmanager.register(summary, "melcheck-summary")
        config.pluginmanager.register(Notes(config), "melcheck-notes")
        config.pluginmanager.register(EndOfRun(config, summary), "melcheck-end")
    report_plugin.register(config, lambda: config.stash.get(PLAN, None), summary)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Make the plan, so that what cannot be used is reported before anything runs."""
    config = session.config
    if not any(texts(config, name) for name in _PLANNED):
        return
    overlooked = overlooked_configuration(config)
    if overlooked is not None:
        told = (
            f"melcheck: {overlooked} was not read, since pytest looks for its configuration beside "
            "every path on the command line. Write --mel-audio=PATH with an equals sign, and so "
            f"for the other options, or add -c {overlooked}."
        )
        raise pytest.UsageError(plain_text(told))
    artifacts = getattr(config, "workerinput", {}).get(_ARTIFACTS_INPUT)
    try:
        require_torch()
        from melcheck.pytest_plugin.plan import make_plan

        config.stash[PLAN] = make_plan(
            config, check_clips=not is_worker(config), artifacts=artifacts
        )
    except UnfitEnvironmentError as error:
        raise pytest.UsageError(plain_text(f"melcheck: {error}")) from None
    except PackageNeededError as error:
        raise pytest.UsageError(plain_text(f"melcheck: {error}")) from None
    except ImportError as error:
        raise pytest.UsageError(plain_text(f"melcheck: {missing_package(error)}")) from None
    except (ValueError, TypeError, OSError) as error:
        raise pytest.UsageError(plain_text(f"melcheck: {error_text(error)}")) from None
    except (MemoryError, RuntimeError) as error:
        wanted = failed_allocation(error)
        if not wanted:
            raise
        fix = "Check less at once, as with --mel-duration 3."
        pytest.exit(plain_text(f"melcheck: {wanted}. {fix}"), returncode=_ENVIRONMENT)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Send the folder for pictures to a worker of pytest-xdist: a temporary one is shared."""
    plan = node.config.stash.get(PLAN, None)
    if plan is not None:
        node.workerinput[_ARTIFACTS_INPUT] = str(plan.artifacts)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Print what will be checked."""
    plan = config.stash.get(PLAN, None)
    return [] if plan is None else [plain_text(f"melcheck: {line}") for line in plan.described()]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test once for each clip, vocoder and device whose fixtures it uses."""
    names = [name for name in _PARAMETRIZED if name in metafunc.fixturenames]
    if not names:
        return
    stash = metafunc.config.stash
    marker = metafunc.definition.get_closest_marker("mel_clips")
    refused = ""
    if PLAN not in stash:
        refused = "no clips to check. Name some with --mel-audio PATH."
    elif marker and marker.args not in (("gated",), ("others",)):
        refused = f"the marker mel_clips takes 'gated' or 'others', got {marker.args}."
    if refused:
        # Raised once collection is over: here it would be shown as an error of that file.
        stash[REFUSED] = refused
        for name in {*names, "mel_bench_case"} & set(metafunc.fixturenames):
            metafunc.parametrize(name, [None], indirect=True)
        return
    plan = plan_of(metafunc.config)
    if "mel_bench_case" in metafunc.fixturenames:
        names.remove("mel_device")
        _parametrize_benchmark(metafunc, plan)
    for name in names:
        values = getattr(plan, _PARAMETRIZED[name])
        if name == "mel_clip" and marker:
            values = [clip for clip in values if clip.gated == (marker.args == ("gated",))]
        params = [_param(plan, value) for value in values]
        if not params:
            reason = "the thresholds apply to every clip of this run"
            params = [pytest.param(None, id="none", marks=pytest.mark.skip(reason))]
        metafunc.parametrize(name, params, indirect=True)


def _parametrize_benchmark(metafunc: pytest.Metafunc, plan: Plan) -> None:
    """Run a test once for each case of the benchmark, which depends on the device."""
    from melcheck.benchmark.cases import FULL_SIZES, SHORT_SIZES, cases

    full = texts(metafunc.config, "bench") == ["full"]
    params = [
        pytest.param(case.device, case, id=str(case), marks=_param(plan, case.device).marks)
        for case in cases(plan.devices, FULL_SIZES if full else SHORT_SIZES)
    ]
    metafunc.parametrize(("mel_device", "mel_bench_case"), params, indirect=True)


def _param(plan: Plan, value: Any) -> Any:
    if not isinstance(value, str):
        return pytest.param(value, id=value.name)
    kind = value.split(":")[0]
    marks = [getattr(pytest.mark, kind)] if kind in ("official", "cuda") else []
    return pytest.param(value, id=plan.label(value), marks=marks)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Refuse a run without a plan whose tests import melcheck where torch does not fit.

    A run with a plan was refused at its start.
    """
    report = yield
    call = getattr(report, "call", None)
    if report.failed and call is not None and _through_melcheck(call.excinfo.value):
        fault = torch_fault()
        if fault is not None:
            collector.config.stash[REFUSED] = fault
            report.outcome, report.longrepr, report.result = "passed", None, []
    return report


def _through_melcheck(error: BaseException) -> bool:
    """Return whether an error, or what it was raised from, came through a module of melcheck."""
    package = Path(__file__).parents[1]
    return any(
        Path(frame.f_code.co_filename).is_relative_to(package)
        for each in (error, error.__cause__)
        if each is not None
        for frame, _ in traceback.walk_tb(each.__traceback__)
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests of options that were not given, and note the case of each test.

    The summary counts every case so noted, with or without a result.
    """
    kept = [item for item in items if _applies(config, item)]
    if len(kept) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept
    if REFUSED in config.stash and not is_worker(config):
        raise pytest.UsageError(plain_text(f"melcheck: {config.stash[REFUSED]}"))
    for item in items:
        params = getattr(getattr(item, "callspec", None), "params", {})
        clip = params.get("mel_clip")
        _note_kind(config, item, clip)
        if clip is None:  # no test of a clip, or all clips of the run are gated
            continue
        item.user_properties.append((PLACE_PROPERTY, str(clip.source)))
        if "mel_record" in getattr(item, "fixturenames", ()):
            vocoder, device = params["mel_vocoder"], params["mel_device"]
            case = [clip.name, plan_of(config).label(vocoder), device]
            item.user_properties.append((CASE_PROPERTY, json.dumps(case)))


def _note_kind(config: pytest.Config, item: pytest.Item, clip: Clip | None) -> None:
    """Note that a test is about the front end or a stored mel, for tables of their own."""
    needs = item.get_closest_marker("mel_needs")
    frontend = config.stash[PLAN].frontend if PLAN in config.stash else None
    if needs is None:
        return
    if "cache" in needs.args and clip is not None:
        kind = ["stored mel", clip.name]
    elif "frontend" in needs.args and frontend is not None:
        kind = ["front end", frontend.name]
    else:
        return
    item.user_properties.append((KIND_PROPERTY, json.dumps(kind)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail what cannot run in a worker of pytest-xdist, which has no usage errors of its own."""
    refused = item.config.stash.get(REFUSED, "")
    if refused and set(_PARAMETRIZED) & set(getattr(item, "fixturenames", ())):
        pytest.fail(f"melcheck: {refused}", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let what a fixture found of a clip or a stored mel be a failure, not an error.

    What our tests report, and the user's code printed meanwhile, becomes plain text.
    """
    report = yield
    if report.when == "setup" and report.failed and FOUND in item.stash:
        report.when = "call"
    if not any(name.startswith("mel_") for name in getattr(item, "fixturenames", ())):
        return report
    told = report.longrepr
    if isinstance(told, tuple):  # of a skip: file, line, reason
        report.longrepr = (*told[:-1], plain_text(str(told[-1])))
    elif told is not None and plain_text(str(told)) != str(told):
        report.longrepr = plain_text(str(told))
    report.sections = [(name, plain_text(content)) for name, content in report.sections]
    return report


def _applies(config: pytest.Config, item: pytest.Item) -> bool:
    needs = item.get_closest_marker("mel_needs")
    if needs is None or PLAN not in config.stash:
        return True
    return all(plan_of(config).has(name) for name in needs.args)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Send the cases of this worker to pytest-xdist's controller."""
    if is_worker(session.config):
        send_planned_cases(session)
