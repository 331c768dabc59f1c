"""The parts of `benchmarks.gpu`, each a process.

    python -m benchmarks.gpu_parts NAME FILE SECONDS [--dry]

suite   the tests of the gate, of shapes, goldens and parity, and all others of CUDA
parity  how far each way to compute on the device is from plain float32 on the CPU
bench   the cases of the benchmark, and in turns with them stock Vocos, CUDA graphs, torch.compile
audit   clips per second of `melcheck audit`, and the share of the time that the device computes
fit     frames per second that the embedded vocoder's network is fitted to

A dry part does the same on the CPU, on little. What a device alone can do says so, and is left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import soundfile
import torch
from torch import Tensor

from benchmarks.gpu import ROOT
from benchmarks.peers import PEERS, Call, Maker, PeerAbsentError, measure_peers
from melcheck.benchmark.cases import (
    PAPER_SIZE,
    RANDOM,
    Case,
    Size,
    Stage,
    bench_vocoder,
    cases,
    in_mode,
)
from melcheck.benchmark.measure import Sweep, make_inputs
from melcheck.benchmark.roofline import synchronise
from melcheck.files import replacing
from melcheck.recipes import VOCOS, log_mel
from melcheck.speed.optimised import OptimisedVocos, Precision
from melcheck.vocoders.vocos import VocosVocoder
from melcheck.vocoders.weights import VocoderUnavailable
from tests.parity import inputs as parity_inputs
from tests.parity.matrix import VARIANTS, locate, measure
from tests.vocoders import untrained
from training.crops import Crops
from training.fit import BATCH, CROP_HOPS, SEED, build, fit

Outcome = tuple[str, str]
"""What `benchmarks.gpu` calls it, and the reason, "" for none."""


@dataclass(slots=True)
class Job:
    """One part at work.

    Attributes:
        file: Where it writes.
        end: When it must have ended, by `time.monotonic`.
        dry: Whether little is done.
        device: Where everything runs.
        found: What it has found so far.
    """

    file: Path
    end: float
    dry: bool
    device: torch.device
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def left_seconds(self) -> float:
        """How long it may still take."""
        return self.end - time.monotonic()

    def save(self, outcome: Outcome | None = None) -> None:
        """Write what was found so far; `outcome` once it has come to its end."""
        content: dict[str, Any] = {"found": self.found}
        if outcome is not None:
            content["outcome"], content["reason"] = outcome
        with replacing(self.file) as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")


def suite(job: Job) -> Outcome:
    """Run the tests that a device takes part in."""
    device = job.device.type
    runs = {"suite": ["tests/suite", f"--mel-device={device}"]}
    if job.dry:
        clip = ROOT / "fixtures" / "audio" / "kokoro-kumo-en.wav"
        runs["suite"] += ["-msanity", f"--mel-audio={clip}", "--mel-duration=1"]
        runs["suite"] += ["--mel-vocoder=embedded"]
    else:
        runs["suite"].append("--mel-require=cuda")
        # What the tests of other folders import need not be there.
        folders = [f"tests/{name}" for name in ("parity", "vocoders", "speed", "pytest_plugin")]
        runs["others"] = [*folders, "-kcuda and not pretended", "--mel-require=cuda"]
    workers = [] if job.dry or importlib.util.find_spec("xdist") is None else ["-n4"]
    bad = []
    for name, arguments in runs.items():
        with tempfile.TemporaryDirectory() as folder:
            # Neither a cache nor pictures in the clone.
            options = ["-q", "-pno:cacheprovider", f"--junitxml={folder}/results.xml"]
            options += [f"--mel-artifacts={folder}/artifacts", *workers]
            command = [sys.executable, "-m", "pytest", *options, *arguments]
            code = subprocess.run(command, cwd=ROOT, check=False).returncode
            counts, failures = _results(Path(folder) / "results.xml")
        job.found[name] = {"exit_code": code, **counts, "failures": failures}
        job.save()
        if code:
            bad.append(f"{name}: exit code {code}, {len(failures)} failed")
    return ("failed", "; ".join(bad)) if bad else ("passed", "")


def _results(file: Path) -> tuple[dict[str, int], dict[str, str]]:
    """Return how many tests passed, failed and were skipped, and why each failed."""
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    failures: dict[str, str] = {}
    if not file.is_file():
        return counts, failures
    for test in ElementTree.parse(file).getroot().iter("testcase"):
        wrong = next((each for each in test if each.tag in ("failure", "error")), None)
        if wrong is not None:
            failures[f"{test.get('classname')}.{test.get('name')}"] = (wrong.get("message") or "")[
                :1000
            ]
        elif test.find("skipped") is not None:
            counts["skipped"] += 1
        else:
            counts["passed"] += 1
    counts["failed"] = len(failures)
    return counts, failures


def parity(job: Job) -> Outcome:
    """Measure each variant of CUDA, on every vocoder, against plain float32 on the CPU."""
    rows: list[dict[str, Any]] = []
    job.found = {"variants": rows, "left_out": {}}
    bad = []
    variants = [variant for variant in VARIANTS if variant.device == "cuda"]
    names, count = list(parity_inputs.VOCODERS), len(parity_inputs.NAMES)
    if job.dry:
        # One that a processor computes too, and one that it refuses.
        variants, names, count = [variants[0], variants[-1]], names[:1], 1
    for variant in variants:
        assert isinstance(variant.make, functools.partial)
        here = dataclasses.replace(variant, make=functools.partial(variant.make, device=job.device))
        for name in names:
            plain = parity_inputs.vocoder(name)
            clips = parity_inputs.waveforms(name)[:count]
            # Of one clip, the whole table of references would be too much.
            known = None if job.dry else parity_inputs.references(name)
            try:
                seen = measure(here, plain, clips, references=known)
            except VocoderUnavailable as error:
                job.found["left_out"][variant.name] = str(error)
                continue
            stages = locate(here, plain, clips[0]).stages
            rows.append(
                {
                    "variant": variant.name,
                    "vocoder": name,
                    "magnifies_rounding": plain.magnifies_rounding,
                    "found": dataclasses.asdict(seen.found),
                    "allowed": dataclasses.asdict(seen.allowed),
                    "repeated": seen.repeated,
                    "failures": seen.failures,
                    "stages": {each.stage: [each.isolated, each.cumulative] for each in stages},
                }
            )
            job.save()
            bad += [f"{name}, {variant.name}: {failure}" for failure in seen.failures]
    return ("failed", "; ".join(bad)) if bad else ("passed", "")


_SIZES = (PAPER_SIZE, Size(1, 3.0), Size(64, 10.0))
_DRY_SIZES = (Size(1, 0.2),)
_COMPILED_SIZES = (*_SIZES[:2], *_DRY_SIZES)
_COMPILED: tuple[Precision, ...] = ("fp32", "bf16")

# In the part's 230 s: what is not measured after so many is left out, not cut off.
_SWEEP_SECONDS = 110.0
# What one compilation took at most elsewhere: with less left, none is begun.
_COMPILE_SECONDS = 60.0
_TURNS_SECONDS = 1.5

_FROM_OPTIMISED = {"fp32": 1e-3, "tf32": 5e-2, "bf16": 2e-1, "fp16": 5e-2}
"""How far a graph or a compiled network may be from the optimised path, over the largest value.

Rounding in that precision, carried on by phases, with a margin; not measured on a device. What
is not the same computation differs by about 1.
"""


def bench(job: Job) -> Outcome:
    """Time the cases, then stock Vocos, CUDA graphs and compiled networks in turns with them."""
    device = job.device.type
    vocoder = untrained.small() if job.dry else bench_vocoder(RANDOM, device)
    assert isinstance(vocoder, VocosVocoder)
    job.found = {"cases": [], "in_turns": [], "left_out": {}}
    sizes = _DRY_SIZES if job.dry else _SIZES
    planned = cases([device], sizes)
    sweep = Sweep(seconds=_SWEEP_SECONDS, case_seconds=0.0 if job.dry else 0.3)
    for case in planned:
        reason = sweep.left_out(vocoder, case)
        if reason is None:
            job.found["cases"].append(sweep.measure(vocoder, case).extra_info())
        else:
            job.found["left_out"][str(case)] = reason
        job.save()
    for size in sizes:
        for case in cases([device], [size], modes=["eager"]):
            if case.stage != "round_trip":
                _in_turns(job, vocoder, case)
    return "passed", ""


def _in_turns(job: Job, vocoder: VocosVocoder, case: Case) -> None:
    others: dict[str, dict[Stage, Maker]] = {}
    if case.precision == "fp32":
        others["vocos"] = PEERS["vocos"]
    others["graph"] = {case.stage: functools.partial(_graph, case=case)}
    compiled = case.stage == "decode" and case.precision in _COMPILED
    if compiled and case.size in _COMPILED_SIZES:
        make = functools.partial(_compiled, job=job, case=case)
        others["compiled"] = {"decode": make}
        others["compiled graph"] = {"decode": lambda given: _Graph(make(given), given.device)}
    try:
        times, absent = measure_peers(
            vocoder,
            case,
            make_inputs(vocoder, case),
            seconds=0.0 if job.dry else _TURNS_SECONDS,
            peers=others,
            tolerances=dict.fromkeys(others, _FROM_OPTIMISED[case.precision]),
            reference="optimised",
        )
    except torch.cuda.OutOfMemoryError as error:
        times, absent = [], {"all": str(error).splitlines()[0]}
    job.found["in_turns"] += [each.as_dict() for each in times]
    job.found["left_out"] |= {f"{case}, {name}": reason for name, reason in absent.items()}
    job.save()


class _Graph:
    """A call that is captured as a CUDA graph the first time, and replayed from then on.

    What it returns is overwritten by the next call. Inputs must keep their shape.

    Args:
        call: Must read no value back: the device's queue cannot be waited for in a capture.
        device: Must be CUDA.

    Raises:
        PeerAbsentError: Another device.
    """

    def __init__(self, call: Call, device: torch.device) -> None:
        if device.type != "cuda":
            raise PeerAbsentError(f"a CUDA graph needs a CUDA device, and this is {device}")
        self._call = call
        self._graph: torch.cuda.CUDAGraph | None = None
        self._given = self._result = torch.empty(0)

    # What is captured are inference tensors, which may be written in inference mode alone.
    @torch.inference_mode()
    def __call__(self, value: Tensor) -> Tensor:
        if self._graph is None:
            self._capture(value)
            assert self._graph is not None
        self._given.copy_(value)
        self._graph.replay()
        return self._result

    def _capture(self, value: Tensor) -> None:
        self._given = value.clone()
        # Plans of FFTs, algorithms and workspaces are made in the warm-up: none can be in a
        # capture.
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._call(self._given)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._result = self._call(self._given)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise PeerAbsentError(f"it cannot be captured: {reason}") from None
        self._graph = graph


def _graph(vocoder: VocosVocoder, *, case: Case) -> Call:
    ours = in_mode(vocoder, "optimised", case.precision)
    call: Call = getattr(ours, case.stage)
    return _Graph(call, vocoder.device)


def _compiled(vocoder: VocosVocoder, *, job: Job, case: Case) -> Call:
    if not job.dry and job.left_seconds < _COMPILE_SECONDS:
        raise PeerAbsentError(f"{job.left_seconds:.0f} s are left, too few to compile")
    ours = in_mode(vocoder, "optimised", case.precision)
    assert isinstance(ours, OptimisedVocos)
    # A dry run traces the network, and leaves out the minutes of a compiler.
    backend = "eager" if job.dry else "inductor"
    compiled: Call = torch.compile(ours.backbone, backend=backend, dynamic=False)
    decode = dataclasses.replace(ours, backbone=compiled).decode
    try:
        decode(make_inputs(vocoder, case)[0])
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise PeerAbsentError(f"it cannot be compiled: {reason}") from None
    return decode


_AUDIT_CLIPS = (40, 440)
_DRY_AUDIT_CLIPS = (1, 2)
_AUDIT_SECONDS = 3.0
_SAMPLE_MILLISECONDS = 100


def audit(job: Job) -> Outcome:
    """Audit two folders of clips, of which the difference has no start in it."""
    if importlib.util.find_spec("melcheck.cli.audit") is None:
        return "skipped", "this melcheck has no command audit"
    for count in _DRY_AUDIT_CLIPS if job.dry else _AUDIT_CLIPS:
        with tempfile.TemporaryDirectory() as folder:
            _make_clips(Path(folder) / "clips", count)
            command = [sys.executable, "-m", "melcheck", "audit", f"{folder}/clips"]
            command += ["--output", f"{folder}/audit", "--device", job.device.type]
            sampler = None if job.dry else _start_sampling()
            begin = time.monotonic()
            code = subprocess.run(command, cwd=ROOT, check=False).returncode
            seconds = time.monotonic() - begin
            job.found[str(count)] = {"clips": count, "seconds": seconds, "exit_code": code}
            if sampler is not None:
                job.found[str(count)]["busy_percent"] = _sampled(sampler)
            job.save()
        if code not in (0, 1):
            return "failed", f"melcheck audit ended with exit code {code}"
    few, many = job.found.values()
    if many["seconds"] > few["seconds"]:
        gained = many["clips"] - few["clips"]
        job.found["clips_per_second"] = gained / (many["seconds"] - few["seconds"])
    return "passed", ""


def _make_clips(folder: Path, count: int) -> None:
    """Write clips of speech, each another excerpt at another level."""
    folder.mkdir()
    source, rate = soundfile.read(ROOT / "fixtures" / "audio" / "austen-0870.flac", dtype="float32")
    length = round(_AUDIT_SECONDS * rate)
    for number in range(count):
        start = number * 997 % max(1, len(source) - length)
        gain = 1 - 0.5 * number / count
        clip = gain * source[start : start + length]
        soundfile.write(folder / f"clip-{number:05}.wav", clip, rate, subtype="PCM_16")


def _start_sampling() -> subprocess.Popen[str] | None:
    """Let nvidia-smi print for what share of each tenth of a second a kernel ran."""
    query = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    try:
        return subprocess.Popen(
            ["nvidia-smi", *query, f"--loop-ms={_SAMPLE_MILLISECONDS}"],
            stdout=subprocess.PIPE,
            text=True,
        )
    except OSError:
        return None


def _sampled(sampler: subprocess.Popen[str]) -> float | None:
    """Return the mean percentage from the first sample at work to the last; None for none."""
    sampler.terminate()
    printed, _ = sampler.communicate()
    shares = [int(line) for line in printed.split("\n") if line.strip().isdigit()]
    at_work = [place for place, share in enumerate(shares) if share]
    if not at_work:
        return None
    during = shares[at_work[0] : at_work[-1] + 1]
    return sum(during) / len(during)


_FIT_BATCHES = 10
_FIT_SECONDS = 10.0


def fit_network(job: Job) -> Outcome:
    """Fit the network again and again for ten seconds: it is a least-squares fit, and no descent.

    Crops are generated on the CPU, outside of the time; their mels are made on the device.
    """
    crops = Crops(crop_samples=CROP_HOPS * VOCOS.hop_length, seed=SEED)
    batches, size = (1, 1) if job.dry else (_FIT_BATCHES, BATCH)
    waveforms = [crops.batch(number, size).to(job.device) for number in range(batches)]
    torch.manual_seed(SEED)
    model = build().to(job.device)
    frames, fits = 0, 0
    begin = 0.0
    # The first is the warm-up.
    while fits < 2 or (not job.dry and time.perf_counter() - begin < _FIT_SECONDS):
        # What it draws, it draws where the weights are.
        with torch.device(job.device):
            mels = [log_mel(waveform, VOCOS) for waveform in waveforms]
            fit(model, mels)
        synchronise(job.device)
        if fits:
            frames += sum(mel.shape[0] * mel.shape[-1] for mel in mels)
        else:
            begin = time.perf_counter()
        fits += 1
    seconds = time.perf_counter() - begin
    job.found = {
        "fits": fits - 1,
        "seconds": seconds,
        "frames_per_second": frames / seconds,
        "frames_of_a_fit": frames // (fits - 1),
    }
    return "passed", ""


PARTS: dict[str, Callable[[Job], Outcome]] = {
    "suite": suite,
    "parity": parity,
    "bench": bench,
    "audit": audit,
    "fit": fit_network,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_parts")
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("file", type=Path)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--dry", action="store_true")
    options = parser.parse_args(arguments)
    device = torch.device("cpu" if options.dry else "cuda")
    job = Job(options.file, time.monotonic() + options.seconds, options.dry, device)
    job.save()
    job.save(PARTS[options.part](job))


if __name__ == "__main__":
    main()
