import pytest

from preheat.choice import choose, rank
from preheat.errors import ArtifactError, EngineError
from preheat.fingerprint import Fingerprint, machine, usable_cpus
from preheat.manifest import Manifest, Requires, Variant

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
