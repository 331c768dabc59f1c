"""Run the suite that users get on a project, in this process, and say which of its tests fail.

The tests are those of `melcheck.suite`, with the plugin's own fixtures and the plan of the project,
loaded as from its options. What is left out is what no verdict depends on: pictures, and
Griffin-Lim's row.
"""

from __future__ import annotations

import contextlib
import inspect
import shutil
import sys
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from melcheck import suite
from melcheck.clips import Clip
from melcheck.pipeline import RoundTrip
from melcheck.plan import Plan, load_plan
from melcheck.pytest_plugin.cases import PLAN, TRIPS, plan_of
from melcheck.vocoders.base import Vocoder
from melcheck.vocoders.weights import VocoderError
from tests.faults.model import Project

GATES: Mapping[str, Callable[..., None] | None] = MappingProxyType(
    {
        "start": None,
        "loader": suite.test_loader_reads_what_is_in_the_file,
        "front-end": suite.test_front_end_makes_the_vocoders_mel,
        "front-end-again": suite.test_front_end_gives_the_same_mel_again_and_in_a_batch,
        "cache": suite.test_stored_mel_is_fresh,
        "vocoder": suite.test_vocoder_decodes_as_its_reference,
        "saver": suite.test_saver_writes_what_was_decoded,
        "sanity": suite.test_mel_survives_the_loop,
        "shapes": suite.test_every_tensor_has_the_shape_of_the_recipe,
        "values": suite.test_every_value_is_finite_and_no_mel_goes_below_its_floor,
        "batch": suite.test_a_batch_gives_what_its_items_give_alone,
        "golden-extracted": suite.test_extracted_mel_is_on_record,
        "golden-reconstructed": suite.test_reconstructed_mel_is_on_record,
    }
)
"""The tests of the suite by short names; "start" is a run that ends before its first test."""

_PACKAGE = "small_project"
_CLIP = pytest.StashKey[Clip]()


class SuiteRun:
    """Runs the suite once, in the test that asks for the fixture `suite_run`."""

    def __init__(self, request: pytest.FixtureRequest, folder: Path) -> None:
        self._request = request
        self._folder = folder

    def __call__(
        self,
        project: Project,
        clip: Clip,
        reference: Vocoder,
        *,
        goldens: Path | None = None,
        gates: Collection[str] | None = None,
    ) -> dict[str, str]:
        """Return the message of each gate that fails, by the gate's name.

        Args:
            project: What is checked.
            clip: Its clip: name, and whether the thresholds apply.
            reference: The healthy vocoder, which "embedded" stands for.
            goldens: Folder of goldens of the clip, of which a copy is used: one that is absent
                would be written. None leaves their tests out.
            gates: Names of those to run; None for all.
        """
        config = self._request.config
        try:
            with project.environment(), _modules(project):
                copied = goldens and shutil.copytree(goldens, self._folder / "goldens")
                config.stash[PLAN] = self._plan(project, clip, reference, copied)
        except (ValueError, OSError, VocoderError) as error:  # exit code 4
            return {"start": str(error)}
        _forget(config, TRIPS)
        config.stash[_CLIP] = Clip(clip.name, project.clip, clip.kind)
        noted = self._request.node.user_properties
        before = len(noted)
        found = {}
        for name, test in GATES.items():
            if test is None or (gates is not None and name not in gates):
                continue
            if not self._applies(name, test, clip):
                continue
            told = self._outcome(test)
            if told is not None:
                found[name] = told
        # Cases and notes of this run are not those of the run that it is part of.
        del noted[before:]
        return found

    def _plan(self, project: Project, clip: Clip, reference: Vocoder, goldens: Path | None) -> Plan:
        own = project.decode is not None
        plan = Plan(
            clips=(Clip(clip.name, project.clip, clip.kind),),
            vocoders=(f"{_PACKAGE}:vocoder",) if own else (project.vocoder,),
            devices=(project.device,),
            required=frozenset([project.vocoder, project.device]),
            artifacts=self._folder,
            goldens=goldens,
            vocoder_reference="embedded" if own else None,
        )
        plan._loaded["embedded", "cpu"] = project.library or reference
        stages = {
            stage: f"{_PACKAGE}:{stage}"
            for stage, code in (
                ("loader", project.load),
                ("frontend", project.extract),
                ("saver", project.save),
            )
            if code is not None
        }
        plan = load_plan(plan, cache=project.stored, prefix="--mel-", **stages)
        plan.check_clips(
            Clip(each.name, each.path, "user") for each in plan.clips if project.clip != clip.path
        )
        return plan

    def _applies(self, name: str, test: Any, clip: Clip) -> bool:
        plan = plan_of(self._request.config)
        if name == "sanity" and not clip.gated:
            return False
        if name.startswith("golden") and plan.goldens is None:
            return False
        needs = [mark.args for mark in test.pytestmark if mark.name == "mel_needs"]
        return all(plan.has(option) for args in needs for option in args)

    def _outcome(self, test: Callable[..., None]) -> str | None:
        """Return how a test fails; None where it passes or is skipped."""
        try:
            values = {
                name: self._request.getfixturevalue(name)
                for name in inspect.signature(test).parameters
            }
            test(**values)
        except pytest.skip.Exception:
            return None
        except (pytest.fail.Exception, AssertionError) as failure:
            return str(failure) or type(failure).__name__
        # What a stage of the user's raises is the failure of a test, with its traceback.
        except (ValueError, RuntimeError) as error:
            return f"{type(error).__name__}: {error}"
        return None


@contextlib.contextmanager
def _modules(project: Project) -> Iterator[None]:
    """Let the stages of a project be imported by name."""
    module = types.ModuleType(_PACKAGE)
    stages: dict[str, object] = {
        "loader": project.load,
        "frontend": project.extract,
        "vocoder": project.decode,
        "saver": project.save,
    }
    if project.decode_batch is not None:
        stages["vocoder"] = types.SimpleNamespace(
            decode=project.decode, decode_batch=project.decode_batch
        )
    vars(module).update(stages)
    sys.modules[_PACKAGE] = module
    try:
        yield
    finally:
        del sys.modules[_PACKAGE]


def _forget(config: pytest.Config, key: pytest.StashKey[Any]) -> None:
    if key in config.stash:
        del config.stash[key]


# Fixtures of the plugin that stand for a parameter of a run, or that no verdict depends on.


@pytest.fixture
def mel_clip(request: pytest.FixtureRequest) -> Clip:
    """The clip of the project."""
    return request.config.stash[_CLIP]


@pytest.fixture
def mel_device(request: pytest.FixtureRequest) -> str:
    """The device of the project."""
    return plan_of(request.config).devices[0]


@pytest.fixture
def mel_vocoder(request: pytest.FixtureRequest, mel_device: str) -> Vocoder:
    """The vocoder of the project, which must be available."""
    plan = plan_of(request.config)
    try:
        return plan.vocoder(plan.vocoders[0], mel_device)
    except VocoderError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def mel_griffin_lim() -> Callable[[], RoundTrip | None]:
    """No row of Griffin-Lim."""
    return lambda: None


@pytest.fixture
def suite_run(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SuiteRun]:
    """A function that runs the suite on a project."""
    stash = request.config.stash
    before = stash.get(PLAN, None)
    monkeypatch.setattr("melcheck.suite.save_artifacts", lambda *_, **__: ())
    monkeypatch.setattr(request.config.option, "force_regen", False)
    monkeypatch.setattr(request.config.option, "regen_all", False)
    folder = tmp_path / "artifacts"
    yield SuiteRun(request, folder)
    _forget(request.config, TRIPS)
    if before is None:
        _forget(request.config, PLAN)
    else:
        stash[PLAN] = before
