"""The speed gate: what it catches and what it passes, in simulated time.

The simulated machine is as noisy as those that were recorded (ratios of successive times of one
decoding, by the thread clock, beside a process that spins on the same core: they spread by 5 %,
with tails of +-30 %): its speed drifts, other processes come in bursts, and now and then a call
takes long. MELCHECK_FIGURES=full runs in real time, too.
"""

from __future__ import annotations

import collections
import contextlib
import gc
import itertools
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from melcheck.benchmark import paired_timing, speed_gate
from melcheck.benchmark.paired_timing import thread_clock
from melcheck.benchmark.speed_gate import SpeedComparison, compare_speed
from melcheck.vocoders.load import load_vocoder

ALLOWED = 1.10
SLOWDOWN = 1.15
FULL = os.environ.get("MELCHECK_FIGURES") == "full"


@pytest.fixture(scope="module", autouse=True)
def frozen_garbage() -> None:
    """Keep what other tests imported from being searched for garbage in each simulated run."""
    gc.freeze()


class Machine:
    """A clock, and calls that move it on, with all the noise of a shared machine.

    `first_pays` is how much longer the first of two calls takes, as one that finds cold caches.
    """

    def __init__(self, seed: int, *, first_pays: float = 0.0) -> None:
        self.now = 0.0
        self.random = random.Random(seed)
        self.drift = 0.0
        self.busy = False
        self.first_pays = first_pays
        self.count = 0

    def clock(self) -> float:
        return self.now

    def call(self, seconds: float) -> Callable[[], None]:
        def run() -> None:
            draw = self.random
            # Drift with a memory of 50 calls, 8 % in all; bursts of 20 calls, a sixth of the time.
            self.drift = 0.98 * self.drift + 0.016 * draw.gauss(0, 1)
            self.busy = draw.random() < (0.95 if self.busy else 0.01)
            taken = seconds * math.exp(self.drift + 0.03 * draw.gauss(0, 1))
            if self.busy:
                taken += seconds * draw.expovariate(1 / 0.15)
            if draw.random() < 0.03:  # a tail without a mean
                taken += 0.1 * seconds * draw.paretovariate(1)
            if self.count % 2 == 0:
                taken *= 1 + self.first_pays
            self.count += 1
            self.now += taken

        return run


def simulated(ratio: float, seed: int, **numbers: float) -> SpeedComparison:
    machine = Machine(seed, **numbers)
    return compare_speed(
        machine.call(ratio * 0.01),
        machine.call(0.01),
        allowed_ratio=ALLOWED,
        clock=machine.clock,
        pairs=20,
        seed=seed,
    )


def slower(ratio: float, runs: int = 100, **numbers: float) -> int:
    return sum(simulated(ratio, seed, **numbers).outcome == "slower" for seed in range(runs))


def test_the_simulated_machine_is_no_better_than_the_recorded_ones() -> None:
    logs = torch.tensor(simulated(ALLOWED, 0).ratios).log()
    lower, upper = torch.quantile(logs, torch.tensor([0.25, 0.75])).tolist()
    assert (upper - lower) / 1.349 > 0.055
    assert float(logs.abs().max()) > 0.3


def test_a_slowdown_of_15_percent_is_caught_in_95_of_100_simulated_runs() -> None:
    assert slower(SLOWDOWN) >= 95


def test_equal_code_raises_at_most_one_alarm_in_100_simulated_runs() -> None:
    assert slower(1.0) <= 1


def test_code_as_slow_as_is_just_allowed_raises_no_more() -> None:
    assert slower(ALLOWED) <= 1


def test_an_interval_without_a_width_is_caught_by_the_simulation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def point(ratios: Any, **rest: object) -> tuple[float, float, float]:
        return (paired_timing.ratio_interval(ratios, confidence=0.9)[0],) * 3

    monkeypatch.setattr(speed_gate, "ratio_interval", point)
    assert slower(ALLOWED, 20) >= 5


def test_an_interval_of_the_plain_mean_is_caught_by_the_simulation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(paired_timing, "_QUARTER", 1e-9)
    monkeypatch.setattr(speed_gate, "_LOOKS", 2)
    assert slower(SLOWDOWN, 20) < 19


def test_ratios_upside_down_are_caught_by_the_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    def inverse(ratios: Any, **numbers: Any) -> tuple[float, float, float]:
        return paired_timing.ratio_interval([1 / ratio for ratio in ratios], **numbers)

    monkeypatch.setattr(speed_gate, "ratio_interval", inverse)
    assert slower(SLOWDOWN, 5) == 0


def test_what_the_first_of_two_calls_pays_is_no_slowdown() -> None:
    assert slower(1.0, 5, first_pays=0.3) == 0


def test_without_drawn_orders_it_would_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paired_timing, "_orders", lambda generator: itertools.repeat(True))
    assert slower(1.0, 5, first_pays=0.3) == 5


def test_every_look_leaves_out_a_fifth_of_what_the_confidence_leaves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = []

    def never_sure(ratios: Any, *, confidence: float) -> tuple[float, float, float]:
        looks.append((len(ratios), confidence))
        return 1.0, 0.0, 2.0

    monkeypatch.setattr(speed_gate, "ratio_interval", never_sure)
    found = simulated(1.0, 0)
    assert looks == [(pairs, pytest.approx(0.998)) for pairs in (20, 40, 80, 160, 320)]
    assert (found.outcome, found.passed, found.pairs) == ("undecided", True, 320)


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (ALLOWED, 1.3, "undecided"),
        (math.nextafter(ALLOWED, 2), 1.3, "slower"),
        (1.0, math.nextafter(ALLOWED, 2), "undecided"),
        (1.0, ALLOWED, "within"),
    ],
)
def test_only_the_whole_interval_decides(
    monkeypatch: pytest.MonkeyPatch, low: float, high: float, outcome: str
) -> None:
    monkeypatch.setattr(speed_gate, "ratio_interval", lambda ratios, **numbers: (1.05, low, high))
    found = simulated(1.0, 0)
    assert (found.outcome, found.passed) == (outcome, outcome != "slower")
    assert str(found).startswith(f"{outcome}: the candidate takes 1.050 times as long")


def test_a_spent_budget_ends_it_with_the_fewest_pairs() -> None:
    machine = Machine(0)
    call = machine.call(0.01)
    found = compare_speed(call, call, allowed_ratio=1, clock=machine.clock, budget_seconds=1e-9)
    assert (found.outcome, found.pairs) == ("undecided", 8)
    assert "nothing was shown" in found.message()


def test_short_calls_are_timed_several_at_once() -> None:
    machine = Machine(0)
    found = compare_speed(machine.call(1e-5), machine.call(1e-5), clock=machine.clock)
    assert 150 < found.calls_per_sample < 400
    assert found.reference_seconds == pytest.approx(1e-5, rel=0.2)


def test_both_halves_of_a_pair_get_the_same_input_which_is_not_timed() -> None:
    machine = Machine(0)
    work = machine.call(0.01)
    got: list[tuple[str, object]] = []

    def make() -> object:
        machine.now += 1_000
        return object()

    def take(name: str) -> Callable[[object], None]:
        return lambda value: (got.append((name, value)), work())[1]

    found = compare_speed(
        take("candidate"), take("reference"), inputs=make, clock=machine.clock, allowed_ratio=1.5
    )
    pairs = list(zip(got[::2], got[1::2], strict=True))
    assert all({one[0], other[0]} == {"candidate", "reference"} for one, other in pairs)
    assert all(one[1] is other[1] for one, other in pairs)
    assert len({id(one[1]) for one, _ in pairs}) == len(pairs)
    assert found.outcome == "within"
    assert found.reference_seconds < 0.1


def test_the_garbage_collector_rests_while_something_is_timed() -> None:
    machine = Machine(0)
    work = machine.call(0.01)
    seen = set()
    compare_speed(lambda: (seen.add(gc.isenabled()), work()), work, clock=machine.clock)
    assert (seen, gc.isenabled()) == ({False}, True)


def test_an_error_of_the_candidate_comes_through_and_wakes_the_collector() -> None:
    with pytest.raises(ZeroDivisionError):
        compare_speed(lambda: 1 / 0, lambda: None)
    assert gc.isenabled()


def test_the_queue_of_a_device_is_empty_at_each_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(0)
    queued: list[float] = []

    def launch() -> None:
        queued.append(0.01)

    def synchronise(device: torch.device) -> None:
        machine.now += sum(queued) + 1e-6
        queued.clear()

    monkeypatch.setattr(torch.cuda, "synchronize", synchronise)
    found = compare_speed(
        lambda: (launch(), launch()), launch, device="cuda", clock=machine.clock, pairs=8
    )
    assert found.ratio == pytest.approx(2, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"allowed_ratio": 0.0}, "allowed_ratio must be above 0, got 0.0"),
        ({"allowed_ratio": math.nan}, "allowed_ratio must be above 0, got nan"),
        ({"confidence": 99}, "confidence must be from 0.5 to 0.995, got 99"),
        ({"pairs": 7}, "pairs must be at least 8, got 7"),
        ({"budget_seconds": 0}, "budget_seconds must be above 0, got 0"),
        ({"device": "meta"}, "device must be cpu or cuda, got 'meta'"),
        ({"clock": lambda: 1.0}, "clock must move while the callables run, but stood still"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_bad_argument_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare_speed(lambda: None, lambda: None, **arguments)


def test_the_interval_holds_the_true_ratio_as_often_as_it_says() -> None:
    draw = random.Random(0)
    # Student's t with 2 degrees of freedom, which has no variance.
    noise = [
        [draw.gauss(0, 0.1) / math.sqrt(draw.expovariate(1)) for _ in range(20)] for _ in range(150)
    ]
    found = [
        paired_timing.ratio_interval([math.exp(x) for x in row], confidence=0.9) for row in noise
    ]
    held = sum(low <= 1 <= high for _, low, high in found)
    # 135 are expected, with a standard deviation of 4.
    assert 127 <= held <= 143


def test_a_quarter_of_wild_ratios_moves_the_location_only_within_the_rest() -> None:
    calm = [1.0 + 0.01 * number for number in range(15)]
    assert 1.0 <= paired_timing.ratio_interval([*calm, *[1e6] * 5], confidence=0.9)[0] < 1.15


@pytest.mark.parametrize("ratios", [[1.0] * 7, [1.0] * 8 + [0.0], [1.0] * 8 + [math.nan]])
def test_ratios_that_have_no_interval_are_refused(ratios: list[float]) -> None:
    with pytest.raises(ValueError, match="ratios must be"):
        paired_timing.ratio_interval(ratios, confidence=0.9)


def test_the_thread_clock_passes_while_a_call_sleeps() -> None:
    begin = thread_clock()
    time.sleep(0.05)
    assert thread_clock() - begin >= 0.05


def test_the_thread_clock_leaves_out_what_was_waited_for_a_core(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits = iter([0, 0, 7 * 10**9, 7 * 10**9])
    walls = iter([5 * 10**9, 15 * 10**9])
    monkeypatch.setattr(paired_timing, "_waited_ns", lambda: next(waits))
    monkeypatch.setattr(time, "perf_counter_ns", lambda: next(walls))
    begin = thread_clock()
    assert thread_clock() - begin == 3.0


def test_a_wait_between_two_readings_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = iter([0, 10**9, 10**9])
    walls = iter([5 * 10**9, 6 * 10**9])
    monkeypatch.setattr(paired_timing, "_waited_ns", lambda: next(waits))
    monkeypatch.setattr(time, "perf_counter_ns", lambda: next(walls))
    assert thread_clock() == 5.0


def test_without_a_record_of_waits_the_clock_is_wall_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(paired_timing, "_STATISTICS", str(tmp_path / "none"))
    assert paired_timing.thread_clock_is_wall_time()
    before = time.perf_counter()
    assert before <= thread_clock() <= time.perf_counter()
    assert simulated(1.0, 0).clock == "clock"
    found = compare_speed(spin, spin, allowed_ratio=2, pairs=8, budget_seconds=1e-9)
    assert found.clock == "wall time"


def spin() -> None:
    sum(range(20_000))


# In real time, beside a process that spins on the same core.

real = [
    pytest.mark.figures,
    pytest.mark.skipif(not FULL, reason="takes minutes: set MELCHECK_FIGURES=full"),
]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Two threads on one busy core wait for each other: see `melcheck.benchmark.paired_timing`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


SPIN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(10_000))"


@contextlib.contextmanager
def busy_process() -> Iterator[None]:
    """Another process that never pauses, and ends with this one."""
    with subprocess.Popen([sys.executable, "-c", SPIN]) as process:
        try:
            yield
        finally:
            process.kill()


def encoding() -> Callable[[], object]:
    vocoder = load_vocoder("embedded")
    waveform = 0.1 * torch.randn(1, 24_000, generator=torch.Generator().manual_seed(0))
    return lambda: vocoder.encode(waveform)


def with_more_work(call: Callable[[], object], share: float) -> Callable[[], object]:
    """Return the call followed by matrix products that take this share of its time."""
    matrix = torch.rand(48, 48, generator=torch.Generator().manual_seed(0))
    product = torch.empty_like(matrix)

    def more(times: int) -> None:
        for _ in range(times):
            torch.mm(matrix, matrix, out=product)

    # The shortest times are those without cold caches.
    count = round(share * shortest(call) / (shortest(lambda: more(50)) / 50))
    return lambda: (call(), more(count))


def shortest(call: Callable[[], object]) -> float:
    def once() -> float:
        begin = thread_clock()
        call()
        return thread_clock() - begin

    return min(once() for _ in range(100))


def outcomes(
    more: float, runs: int, *, budget_seconds: float, allowed_ratio: float = ALLOWED
) -> Iterator[str]:
    reference = encoding()
    with busy_process():
        candidate = with_more_work(reference, more) if more else encoding()
        for seed in range(runs):
            yield compare_speed(
                candidate,
                reference,
                allowed_ratio=allowed_ratio,
                budget_seconds=budget_seconds,
                seed=seed,
            ).outcome


@pytest.fixture(params=[pytest.param(None, marks=real)])
def in_real_time() -> None:
    """Tests of this fixture are figures of one machine."""


def test_the_thread_clock_is_not_moved_by_a_process_on_the_same_core(in_real_time: None) -> None:
    assert not paired_timing.thread_clock_is_wall_time()
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        with busy_process():
            begin, own = time.perf_counter(), thread_clock()
            while time.perf_counter() - begin < 0.5:
                spin()
            own = thread_clock() - own
    finally:
        os.sched_setaffinity(0, cores)
    # The two share the core: half of it each.
    assert own < 0.4


def test_figures_of_100_real_runs_each(
    in_real_time: None,
    one_thread: None,
    capsys: pytest.CaptureFixture[str],
    pytestconfig: pytest.Config,
) -> None:
    caught = collections.Counter(outcomes(SLOWDOWN - 1, 100, budget_seconds=10))
    same = collections.Counter(outcomes(0, 100, budget_seconds=10))
    with capsys.disabled():
        pytestconfig.get_terminal_writer().line(
            f"\nbeside a busy process, {ALLOWED:.2f} allowed: 15 % more work "
            f"{dict(caught)}, the same work {dict(same)}"
        )
    assert caught["slower"] >= 95
    assert same["slower"] <= 1


GATED = """
import pytest
from melcheck.benchmark import speed_gate

now = 0.0

@pytest.fixture(autouse=True)
def simulated(monkeypatch):
    monkeypatch.setattr(speed_gate, "thread_clock", lambda: now)

def work(seconds):
    def run():
        global now
        now += seconds
    return run

def test_slower(mel_speed_gate):
    mel_speed_gate(work(0.02), work(0.01), allowed_ratio=1.10)

def test_within(mel_speed_gate):
    found = mel_speed_gate(work(0.01), work(0.02), allowed_ratio=1.10)
    assert found.high < 1.10

def test_undecided(mel_speed_gate):
    same = work(0.01)
    mel_speed_gate(same, same, allowed_ratio=1.0, pairs=8, budget_seconds=1e-9)

def test_inputs(mel_speed_gate):
    call = lambda run: run()
    mel_speed_gate(call, call, inputs=lambda: work(0.01))
"""


def test_the_fixture_fails_a_slower_candidate_and_notes_what_is_undecided(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyprojecttoml("[tool.pytest.ini_options]\n")
    pytester.makepyfile(GATED)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*slower: the candidate takes * times as long as the reference (99% interval * to *",
            "All of the interval lies above the allowed ratio*",
            "*melcheck: notes*",
            "*::test_undecided: undecided: the candidate takes *",
            "That passes, but nothing was shown*",
        ]
    )
