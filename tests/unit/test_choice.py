import pytest

from preheat.choice import choose, rank, tiered, worse
from preheat.errors import ArtifactError, EngineError
from preheat.fingerprint import Fingerprint, machine, room_mib, usable_cpus
from preheat.manifest import Manifest, Requires, Variant
from preheat.providers import CPU, CUDA, TENSORRT

from .test_manifest import manifest

HERE = Fingerprint("x86_64", ("avx2", "fma"), 4, "1.31.1", ("CPUExecutionProvider",))
NAMES = {"portable": (100, 10, 5), "mapped": (20, 10, 6), "packed": (30, 10, 4)}


def variant(name: str, **requires: object) -> Variant:
    return Variant(name, "p/model.onnx", ("p/model.onnx",), "all", {}, Requires(**requires))  # type: ignore[arg-type]


def measured(*variants: Variant) -> Manifest:
    rows = {
        name: {
            figure: {"median": value}
            for figure, value in zip(("session_ms", "first_ms", "steady_ms"), values, strict=True)
        }
        for name, values in NAMES.items()
    }
    return manifest(variants=variants, measurements={"variants": rows})


WHOLE = measured(
    variant("portable"),
    variant("mapped", arch="x86_64", onnxruntime=("1.31", "1.32")),
    variant("packed", arch="x86_64", isa=("avx2", "fma"), onnxruntime=("1.31.1", "1.31.2")),
)


@pytest.mark.parametrize(
    ("objective", "order"),
    [
        ("cold", ["mapped", "packed", "portable"]),
        ("balanced", ["packed", "mapped", "portable"]),
        ("warm", ["packed", "portable", "mapped"]),
    ],
)
def test_the_measured_milliseconds_decide(objective: str, order: list[str]) -> None:
    assert [v.name for v in rank(WHOLE, objective)] == order


def test_without_measurements_portable_comes_last() -> None:
    bare = WHOLE._replace(measurements={})
    assert [v.name for v in rank(bare, "cold")] == ["mapped", "packed", "portable"]


@pytest.mark.parametrize(
    ("here", "refused"),
    [
        (
            HERE._replace(isa=("avx2", "avx512f", "fma")),
            "packed: made for another CPU: this one adds avx512f",
        ),
        (HERE._replace(isa=("avx2",)), "packed: made for another CPU: this one lacks fma"),
        (
            HERE._replace(onnxruntime="1.31.2"),
            "packed: made for onnxruntime 1.31.1 up to 1.31.2, this is 1.31.2",
        ),
    ],
)
def test_another_machine_takes_the_next_best_and_says_why(here: Fingerprint, refused: str) -> None:
    choice = choose(WHOLE, here)
    assert choice.variants[0].name == "mapped"
    assert [f"{name}: {reason}" for name, reason in choice.refused.items()] == [refused]


def test_another_architecture_or_version_falls_back_to_portable() -> None:
    assert [v.name for v in choose(WHOLE, HERE._replace(arch="aarch64")).variants] == ["portable"]
    assert [v.name for v in choose(WHOLE, HERE._replace(onnxruntime="1.40.0")).variants] == ["portable"]


def test_a_forced_variant_is_taken_or_refused() -> None:
    assert [v.name for v in choose(WHOLE, HERE, forced="portable").variants] == ["portable"]
    with pytest.raises(ArtifactError, match="no variant 'fast'; it has portable, mapped, packed"):
        choose(WHOLE, HERE, forced="fast")
    with pytest.raises(EngineError, match="'packed' cannot be opened here: made for x86_64"):
        choose(WHOLE, HERE._replace(arch="aarch64"), forced="packed")


def test_a_required_provider_is_had_or_the_start_refused() -> None:
    assert choose(WHOLE, HERE, provider="CPUExecutionProvider").variants
    with pytest.raises(EngineError, match="CUDAExecutionProvider is required"):
        choose(WHOLE, HERE, provider="CUDAExecutionProvider")


def test_this_machine_tells_what_it_is() -> None:
    here = machine()
    assert here.arch
    assert 1 <= here.cpus == usable_cpus()
    assert list(here.isa) == sorted(here.isa)


NAMES |= {"cuda": (300, 40, 1), "fp16": (200, 40, 0.5), "tensorrt": (400, 90, 0.3)}
GPU = HERE._replace(
    providers=(TENSORRT, CUDA, CPU), gpu="sm_90", driver="580.1", libraries={"tensorrt": "10.1.2"}
)
EVERYWHERE = measured(
    variant("portable"),
    variant("packed", arch="x86_64"),
    variant("cuda", provider=CUDA),
    variant("fp16", provider=CUDA),
    variant("tensorrt", provider=TENSORRT, gpu="sm_90", driver="580", libraries={"tensorrt": "10.1.2"}),
)


@pytest.mark.parametrize("objective", ["cold", "balanced", "warm"])
def test_a_gpu_is_used_where_there_is_one(objective: str) -> None:
    choice = choose(EVERYWHERE, GPU, objective=objective)
    assert [v.name for v in choice.variants] == ["tensorrt", "fp16", "cuda", "packed", "portable"]
    assert choice.refused == {}


@pytest.mark.parametrize(
    ("here", "runs"),
    [
        (GPU._replace(gpu="sm_89"), "fp16"),
        (GPU._replace(driver="570.9"), "fp16"),
        (GPU._replace(libraries={"tensorrt": "10.1.3"}), "fp16"),
        (GPU._replace(providers=(CUDA, CPU)), "fp16"),
        (GPU._replace(gpu=""), "packed"),
        (GPU._replace(gpu="", onnxruntime="", providers=()), "packed"),
        (HERE, "packed"),
    ],
)
def test_without_it_the_next_provider_runs_and_that_is_less(here: Fingerprint, runs: str) -> None:
    choice = choose(EVERYWHERE, here)
    assert choice.variants[0].name == runs
    assert "tensorrt" in choice.refused
    assert worse(EVERYWHERE, choice.variants[0], choice.refused)


def test_another_variant_of_the_same_provider_is_not_less() -> None:
    packed = EVERYWHERE.variant("packed")
    assert packed is not None
    assert not worse(EVERYWHERE, packed, {})
    assert not worse(WHOLE, packed, {"mapped": "does not open"})


@pytest.mark.parametrize("name", ["cuda", CUDA])
def test_a_provider_is_required_by_either_name(name: str) -> None:
    choice = choose(EVERYWHERE, GPU, provider=name)
    assert [v.name for v in choice.variants] == ["fp16", "cuda"]
    assert choice.refused == {}  # what was not wanted did not fail
    with pytest.raises(
        EngineError, match=r"fp16: needs CUDA.*portable: runs on CPU.*, and CUDA.* is required"
    ):
        choose(EVERYWHERE, HERE, provider=name)


def test_the_cpu_may_be_what_is_wanted() -> None:
    choice = choose(EVERYWHERE, GPU, provider="cpu")
    assert choice.variants[0].name == "packed"
    assert not worse(EVERYWHERE, choice.variants[0], choice.refused)


TIERS = {
    "portable": (900, 25, 25),
    "mapped": (175, 20, 18.5),
    "packed": (160, 20, 18.4),
    "unpacked": (60, 48, 43),
}


def tiers(figures: dict[str, tuple[float, float, float]], *, thresholds: bool = True) -> tuple[str, str]:
    """Which variant answers first and which takes over, empty for none."""
    found = measured(*map(variant, figures))
    rows = found.measurements["variants"]
    rows.update(
        {
            name: dict(zip(rows["packed"], ({"median": value} for value in values), strict=True))
            for name, values in figures.items()
        }
    )
    choice = tiered(choose(found, HERE, objective="warm"), found, thresholds=thresholds)
    assert sorted(v.name for v in choice.variants) == sorted(figures)
    return choice.variants[0].name, choice.successor.name if choice.successor else ""


def test_what_opens_soonest_answers_first_and_what_runs_fastest_takes_over() -> None:
    assert tiers(TIERS) == ("unpacked", "packed")


@pytest.mark.parametrize(
    ("figures", "which", "wanted"),
    [
        ({**TIERS, "unpacked": (100, 48, 43)}, ("packed", ""), ("unpacked", "packed")),  # too little sooner
        ({**TIERS, "unpacked": (60, 20, 20)}, ("packed", ""), ("unpacked", "packed")),  # runs as fast
        (
            {"portable": (90, 9, 4.5), "packed": (45, 7, 4.5), "unpacked": (24, 10, 7)},
            ("packed", ""),  # 18 ms
            ("unpacked", "packed"),
        ),
        ({"portable": (90, 9, 4.5), "packed": (45, 7, 4.4)}, ("packed", ""), ("packed", "")),  # one is best
    ],
)
def test_two_sessions_have_to_pay_unless_they_are_wanted(
    figures: dict[str, tuple[float, float, float]], which: tuple[str, str], wanted: tuple[str, str]
) -> None:
    assert tiers(figures) == which
    assert tiers(figures, thresholds=False) == wanted


def test_nothing_is_tiered_unmeasured_or_on_a_gpu() -> None:
    bare = WHOLE._replace(measurements={})
    choice = choose(bare, HERE)
    assert tiered(choice, bare, thresholds=False) == choice
    found = measured(variant("portable"), variant("packed", provider=CUDA))
    choice = choose(found, HERE)._replace(variants=found.variants[::-1])
    assert tiered(choice, found, thresholds=False) == choice


def test_there_is_some_memory_here() -> None:
    assert 16 < room_mib() < 2**24
