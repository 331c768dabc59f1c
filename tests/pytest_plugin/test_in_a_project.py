"""The plugin in a project of another: ini keys, fixtures, front end, cache, rough conditions."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from melcheck.audio import load_audio
from melcheck.config import MelCheckConfig
from melcheck.pytest_plugin.options import OPTIONS
from melcheck.pytest_plugin.terminal import annotation
from melcheck.recipes import MelRecipe, log_mel

REPOSITORY = Path(__file__).parents[2]
CLIP = REPOSITORY / "fixtures" / "audio" / "kokoro-kumo-en.wav"
SUITE = "from melcheck.suite import *  # noqa: F403\n"
FRONT = "from melcheck.recipes import MelRecipe, log_mel\n\n\ndef mel(waveform):\n    return {}\n"
NAMES = ("with space", 'it\'s "quoted"', "two\nlines", "日本語", "ガé", "$x$ <b>")

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run pytest in a project that has the suite, with the embedded vocoder, in this process."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(pytester.path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    pytester.makepyfile(test_mel=SUITE)
    (pytester.path / "clips").mkdir()
    shutil.copy(CLIP, pytester.path / "clips" / "kumo.wav")

    def call(*options: object, ini: str = "") -> pytest.RunResult:
        pytester.makepyprojecttoml(f"[tool.pytest.ini_options]\n{ini}")
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", *options)

    return call


GATE = ("-m", "sanity", "--mel-vocoder", "embedded")


# Options and ini keys.


def test_every_option_works_from_the_configuration(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(labfront=FRONT.format("log_mel(waveform)"))
    stored = pytester.path / "mels"
    stored.mkdir()
    waveform = load_audio(MelCheckConfig(CLIP, 24_000, None)).waveform
    np.save(stored / "kumo.npy", log_mel(waveform)[0].numpy())
    result = run(
        "-m",
        "sanity",
        ini="""
        mel_audio = ["clips"]
        mel_vocoder = ["embedded"]
        mel_frontend = "labfront:mel"
        mel_cache = "mels"
        mel_device = ["cpu"]
        mel_require = []
        mel_artifacts = "pictures"
        mel_goldens = "goldens"
        mel_duration = "3"
        mel_sample_rate = "24000"
        """,
    )
    result.assert_outcomes(passed=4)
    assert (pytester.path / "pictures" / "kumo-embedded-cpu" / "mels.png").is_file()


def test_the_command_line_beats_the_configuration(run: Run, pytester: pytest.Pytester) -> None:
    result = run(
        *GATE,
        "--mel-audio",
        "clips",
        "--mel-artifacts",
        "here",
        "--mel-duration",
        "3",
        ini='mel_audio = ["nowhere"]\nmel_artifacts = "there"\nmel_duration = "long"\n',
    )
    result.assert_outcomes(passed=1)
    assert (pytester.path / "here").is_dir()
    assert not (pytester.path / "there").exists()


def test_paths_of_the_configuration_belong_to_the_root(
    run: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pytester.path / "deep").mkdir()
    pytester.makepyprojecttoml('[tool.pytest.ini_options]\nmel_audio = ["clips"]\n')
    monkeypatch.chdir(pytester.path / "deep")
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", *GATE, "..")
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("form", [("--mel-audio", "{}"), ("--mel-audio={}",)], ids=["two", "one"])
def test_a_path_elsewhere_does_not_hide_the_configuration(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, form: tuple[str, ...]
) -> None:
    # pytest looks for its configuration beside every path on the command line, and knows nothing of
    # options that a plugin will add.
    here = pytester.mkdir("repository")
    (here / "pyproject.toml").write_text('[tool.pytest.ini_options]\nmel_duration = "long"\n')
    elsewhere = pytester.mkdir("elsewhere")
    shutil.copy(CLIP, elsewhere)
    monkeypatch.chdir(here)
    options = [part.format(elsewhere) for part in form]
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", *GATE, *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    overlooked = f"{here / 'pyproject.toml'} was not read" in result.stderr.str()
    assert overlooked == (len(form) == 2)


def test_audio_and_a_manifest_exclude_each_other(run: Run) -> None:
    result = run(*GATE, ini='mel_audio = ["clips"]\nmel_manifest = "clips.yaml"\n')
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "exclude each other" in result.stderr.str()


def test_what_the_configuration_names_is_required(run: Run) -> None:
    result = run("-m", "sanity", ini='mel_audio = ["clips"]\nmel_vocoder = ["official"]\n')
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "official is required and missing" in result.stdout.str()


def test_each_option_and_its_key_is_in_pytests_help(pytestconfig: pytest.Config) -> None:
    for option in OPTIONS:
        assert option.help
        assert option.keyed is bool(option.key)
        if option.keyed:
            pytestconfig.getini(option.key)
        pytestconfig.getoption(f"mel_{option.name.replace('-', '_')}")


# Fixtures.


def test_a_project_writes_its_own_tests_in_two_lines(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(labfront=FRONT.format("log_mel(waveform)"))
    pytester.makepyfile(
        test_own="""
        from pathlib import Path

        from melcheck import MelCheckConfig, MelPipeline, RoundTrip
        from melcheck.frontends import Frontend
        from melcheck.diagnosis.handshake import Handshake
        from melcheck.pytest_plugin.goldens import Golden


        def test_types(mel_config, mel_pipeline, mel_round_trip, mel_artifacts, mel_frontend):
            assert isinstance(mel_config, MelCheckConfig)
            assert isinstance(mel_pipeline, MelPipeline)
            assert isinstance(mel_round_trip, RoundTrip)
            assert isinstance(mel_frontend, Frontend)
            assert isinstance(mel_artifacts, Path) and mel_artifacts.is_dir()


        def test_handshake(mel_handshake):
            assert isinstance(mel_handshake, Handshake)
            assert mel_handshake.compatible, mel_handshake.message()


        def test_golden(mel_golden):
            assert isinstance(mel_golden, Golden)
        """
    )
    options = ("--mel-audio", "clips", "--mel-vocoder", "embedded", "--mel-goldens", "goldens")
    result = run("test_own.py", *options, "--mel-frontend", "labfront:mel")
    result.assert_outcomes(passed=3)


def test_a_handshake_without_a_front_end_fails(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_own="def test_it(mel_handshake): ...")
    result = run("test_own.py", "--mel-audio", "clips", "--mel-vocoder", "embedded")
    result.assert_outcomes(errors=1)
    assert "Name one with --mel-frontend MODULE:NAME" in result.stdout.str()


# A front end and a vocoder of the project.


def test_a_front_end_that_cannot_be_used_ends_the_run(run: Run) -> None:
    result = run(*GATE, "--mel-audio", "clips", "--mel-frontend", "nowhere.audio:mel")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "no module 'nowhere'" in result.stderr.str()
    assert "Traceback" not in result.stderr.str()


def test_what_was_adapted_stands_in_the_notes(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(labfront=FRONT.format("log_mel(waveform)[0].T.numpy()"))
    result = run(*GATE, "--mel-audio", "clips", "--mel-frontend", "labfront:mel")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        ["melcheck: front end labfront:mel (*labfront.py:4)", "*its axes are swapped*"]
    )


def test_a_wrong_front_end_fails_both_gates_with_one_cause(
    run: Run, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(labfront=FRONT.format("log_mel(waveform, MelRecipe(power=2.0))"))
    result = run(*GATE, "--mel-audio", "clips", "--mel-frontend", "labfront:mel")
    result.assert_outcomes(failed=2, passed=1)
    assert result.stdout.str().count("power: the exponent of the magnitudes differs") >= 2


@pytest.mark.parametrize("numbers", ["padding='none'", "n_mels=80, f_max=8000.0"])
def test_mels_that_do_not_fit_fail_with_the_cause(
    run: Run, pytester: pytest.Pytester, numbers: str
) -> None:
    pytester.makepyfile(labfront=FRONT.format(f"log_mel(waveform, MelRecipe({numbers}))"))
    result = run(*GATE, "--mel-audio", "clips", "--mel-frontend", "labfront:mel")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    output = result.stdout.str()
    assert "INTERNALERROR" not in output
    assert "likely cause: labfront:mel: " in output


def test_a_vocoder_of_the_project_goes_round(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        labvoc="""
        from melcheck import load_vocoder

        decode = load_vocoder("embedded").decode
        """
    )
    options = ("-m", "sanity", "--mel-audio", "clips", "--mel-vocoder", "labvoc:decode")
    result = run(*options)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["labvoc:decode names no recipe*", "*labvoc:decode*0.0??*passed*"])


# Stored mels.


def stored_mel(folder: Path, name: str = "kumo") -> Path:
    folder.mkdir(exist_ok=True)
    waveform = load_audio(MelCheckConfig(CLIP, 24_000, None)).waveform
    path = folder / f"{name}.npy"
    np.save(path, log_mel(waveform, MelRecipe(mel_scale="slaney"))[0].numpy())
    return path


def test_each_fault_of_a_cache_is_reported(run: Run, pytester: pytest.Pytester) -> None:
    stale = stored_mel(pytester.path / "mels")
    widow = stored_mel(pytester.path / "mels", "widow")
    damaged = stored_mel(pytester.path / "mels", "damaged")
    damaged.write_bytes(damaged.read_bytes()[:500])
    for name in ("lonely", "damaged"):
        shutil.copy(CLIP, pytester.path / "clips" / f"{name}.wav")
    result = run(*GATE, "--mel-audio", "clips", "--mel-cache", "mels")
    # A mel that is missing or damaged fails its clip, as a stale one does.
    result.assert_outcomes(passed=3, failed=3)
    output = result.stdout.str()
    assert f"{stale}: [100, 323] float32" in output
    assert "mel-scale: " in output
    assert "lonely: no mel in the cache\nno mel called lonely in the cache" in output
    assert f"1 stored mels belong to no clip of this run: {widow}" in output
    assert f"{damaged}: " in output
    assert "truncated or damaged" in output
    assert "::error" not in output  # that is for GitHub


def test_a_cache_of_other_clips_ends_the_run(run: Run, pytester: pytest.Pytester) -> None:
    stored_mel(pytester.path / "mels", "widow")
    result = run(*GATE, "--mel-audio", "clips", "--mel-cache", "mels")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "A mel of kumo.wav is called kumo.npy, and there is widow.npy" in result.stderr.str()


def test_a_pattern_names_the_mels_of_a_cache(run: Run, pytester: pytest.Pytester) -> None:
    waveform = load_audio(MelCheckConfig(CLIP, 24_000, None)).waveform
    stored_mel(pytester.path / "mels", "clips-mel-kumo").unlink()
    np.save(pytester.path / "mels" / "clips-mel-kumo.npy", log_mel(waveform)[0].numpy())
    keys = "mel_audio = ['clips']\nmel_cache = 'mels'\nmel_cache_pattern = '{}'\n"
    result = run(*GATE, ini=keys.format("{speaker}-mel-{stem}.npy"))
    result.assert_outcomes(passed=2)
    result = run(*GATE, ini=keys.format("{speaker}-{folder}.npy"))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    told = "--mel-cache-pattern '{speaker}-{folder}.npy' must hold {stem}, {speaker}, {name} alone"
    assert told in result.stderr.str()


def test_the_clip_that_a_mel_belongs_to_is_named(run: Run, pytester: pytest.Pytester) -> None:
    other = CLIP.with_name("kokoro-blend-en.flac")
    shutil.copy(other, pytester.path / "clips" / "blend.flac")
    for name, clip in (("kumo", other), ("blend", CLIP)):
        waveform = load_audio(MelCheckConfig(clip, 24_000, None)).waveform
        np.save(stored_mel(pytester.path / "mels", name), log_mel(waveform)[0].numpy())
    result = run(*GATE, "--mel-audio", "clips", "--mel-cache", "mels")
    result.assert_outcomes(passed=2, failed=2)
    output = result.stdout.str()
    for name, owner in (("kumo", "blend"), ("blend", "kumo")):
        assert (
            f"{name}: other-audio\nlikely cause: other-audio: it is the mel of {owner}, under"
            in output
        )


# Rough conditions.


def test_it_needs_no_file_of_the_project_whatever_that_configures(
    run: Run, pytester: pytest.Pytester
) -> None:
    (pytester.path / "test_mel.py").unlink()
    ini = """
        addopts = "--import-mode=importlib --strict-markers --strict-config --doctest-modules"
        python_files = ["*_spec.py"]
        python_functions = ["test_*"]
        filterwarnings = ["error"]
        """
    # hypothesis, where it is installed beside trio, warns at the end of a run.
    plugins = ("-p", "no:hypothesispytest")
    result = run(*plugins, "--pyargs", "melcheck.suite", *GATE, "--mel-audio", "clips", ini=ini)
    result.assert_outcomes(passed=1)


def test_workers_share_a_run_with_a_front_end_and_a_cache(
    run: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    pytester.makepyfile(labfront=FRONT.format("log_mel(waveform, MelRecipe(floor=1e-5))"))
    path = stored_mel(pytester.path / "mels")
    result = run(
        *GATE,
        "-n",
        "2",
        "--mel-audio",
        "clips",
        "--mel-frontend",
        "labfront:mel",
        "--mel-cache",
        "mels",
    )
    result.assert_outcomes(passed=3, failed=1)
    output = result.stdout.str()
    assert f"{path}: [100, 323]" in output
    [line] = [line for line in result.stdout.lines if line.startswith("::error ")]
    assert "[gw" not in line
    assert "labfront:mel differs from the vocoder's mel, which can take it as it is" in output
    assert "1 cases planned: 1 passed" in output


def test_workers_without_clips_fail_with_what_is_missing(run: Run) -> None:
    result = run("-m", "sanity", "-n", "1")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    output = result.stdout.str()
    assert "melcheck: no clips to check. Name some with --mel-audio PATH." in output
    assert "INTERNALERROR" not in output


def test_any_name_of_a_clip_and_its_mel_goes_through(
    run: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    (pytester.path / "clips" / "kumo.wav").unlink()
    for name in NAMES:
        shutil.copy(CLIP, pytester.path / "clips" / f"{name}.wav")
        stored_mel(pytester.path / "mels", name)
    result = run(*GATE, "--mel-audio", "clips", "--mel-cache", "mels")
    result.assert_outcomes(passed=len(NAMES), failed=len(NAMES))
    lines = [line for line in result.stdout.lines if line.startswith("::error ")]
    assert len(lines) == len(NAMES)
    for name in NAMES:
        file = annotation("", title="", file=f"mels/{name}.npy").split("::")[1]
        begin = f"::{file},title=melcheck%3A test_stored_mel_is_fresh"
        assert sum(line.startswith(begin) for line in lines) == 1


def test_a_clip_s_name_cannot_begin_a_command_of_its_own(
    run: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    name = "a\n::error title=forged::b"
    shutil.move(pytester.path / "clips" / "kumo.wav", pytester.path / "clips" / f"{name}.wav")
    stored_mel(pytester.path / "mels", name)
    hum = "lambda mel: torch.full((1, 256 * (mel.shape[-1] - 1)), 0.1)"
    pytester.makepyfile(hum=f"import torch\n\ndecode = {hum}")
    # So that a test of the loop tells the path, and one of the cache.
    options = ("--mel-cache", "mels", "--mel-vocoder", "hum:decode")
    result = run(*GATE, "--mel-audio", "clips", *options)
    result.assert_outcomes(passed=1, failed=2)
    told = [line for line in result.stdout.lines if line.lstrip().startswith("::")]
    assert len(told) == 2
    assert not [line for line in told if line.startswith("::error title=forged")]


@pytest.fixture
def unwritable(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder that not even root can write to, whom mode bits do not bind."""
    if not Path("/proc").is_dir():
        pytest.skip("this system has no /proc")
    monkeypatch.chdir("/proc")


def test_an_unwritable_working_directory_takes_pictures_elsewhere(
    unwritable: None, pytester: pytest.Pytester
) -> None:
    options = (f"--mel-audio={CLIP}", "--pyargs", "melcheck.suite")
    result = pytester.runpytest_subprocess(*GATE, *options)
    assert result.ret == pytest.ExitCode.OK, result.stdout.str()
    [note] = [line for line in result.stdout.lines if "cannot be written: pictures" in line]
    folder = Path(note.split("pictures are in ")[1].split(". --mel")[0])
    assert (folder / "kokoro-kumo-en-embedded-cpu" / "mels.png").is_file()
    shutil.rmtree(folder)


def test_a_named_folder_that_cannot_be_written_is_an_error(
    unwritable: None, pytester: pytest.Pytester
) -> None:
    options = (f"--mel-audio={CLIP}", "--pyargs", "melcheck.suite")
    result = pytester.runpytest_inprocess(
        "-p", "no:cacheprovider", *GATE, *options, "--mel-artifacts", "here"
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "/proc cannot be written" in result.stderr.str()


# Annotations.


@pytest.mark.parametrize(
    ("text", "escaped"),
    [("50%", "50%25"), ("a\r\nb", "a%0D%0Ab"), ("a::b", "a::b"), ("%0A", "%250A")],
)
def test_a_message_cannot_end_its_annotation(text: str, escaped: str) -> None:
    assert annotation(text, title="t") == f"::error title=t::{escaped}"


@pytest.mark.parametrize(
    ("file", "escaped"), [("a,line=9.wav", "a%2Cline=9.wav"), ("a::b.wav", "a%3A%3Ab.wav")]
)
def test_a_file_name_cannot_end_its_property(file: str, escaped: str) -> None:
    assert annotation("m", title="t", file=file) == f"::error file={escaped},title=t::m"


# Lists of clips.


@pytest.mark.parametrize("key", ["mel_audio = ['{}']", "mel_manifest = '{}'"], ids=["audio", "one"])
def test_a_list_of_clips_is_gated(run: Run, pytester: pytest.Pytester, key: str) -> None:
    (pytester.path / "train.tsv").write_text("take\ttext\nclips/kumo.wav\tKumo.\n")
    result = run(*GATE, ini=f"{key.format('train.tsv')}\nmel_column = 'take'\n")
    result.assert_outcomes(passed=1)


def test_a_bad_row_of_a_list_ends_the_run_before_its_first_test(
    run: Run, pytester: pytest.Pytester
) -> None:
    (pytester.path / "train.jsonl").write_text('{"audio": "clips/kumo.wav"}\n{"audio": "x|"}\n')
    result = run(*GATE, ini="mel_audio = ['train.jsonl']\n")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "train.jsonl, line 2: no command is run" in result.stderr.str()
