"""Further models without sessions: the budget, who goes for whom, loads that are shared, that fail, that take
too long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from preheat import models as module
from preheat.answer import Answer
from preheat.bootstrap import Loaded
from preheat.calls import Call, Outcome, Request
from preheat.errors import (
    ArtifactError,
    EngineError,
    FailedStartError,
    ManifestError,
    NotFoundError,
    PreheatError,
    SettingsError,
    ShedError,
    TimedOutError,
    UnprocessableError,
    UsageError,
)
from preheat.manifest import load
from preheat.model_places import named
from preheat.models import Model, Models, memory_bytes
from preheat.phases import ColdStartReport, PhaseClock
from preheat.service import Service

from ..conftest import renamed

BYTES = {"a": 40, "b": 40, "c": 40, "large": 101, "half": 60}


class Session:
    """Answers with its model's name; its life and end are seen from outside."""

    alive: list[str] = []

    def __init__(self, name: str) -> None:
        self.manifest = manifest(name)
        self.variant, self.pace = SimpleNamespace(name="v"), None
        self.name = name
        self.among = self.alive  # those of one test
        self.among.append(name)

    def __del__(self) -> None:
        self.among.remove(self.name)

    def check(self, inputs: Any) -> None: ...

    def rest(self) -> None: ...

    def infer(self, inputs: Any, _outputs: Any, _until: float, _preemptible: Any) -> Any:
        inputs()
        return self.name.encode()


def manifest(name: str) -> Any:
    return SimpleNamespace(name=name, measured=lambda *_: None, weight_bytes=lambda _: BYTES.get(name, 1))


def loaded(name: str, clock: PhaseClock) -> Loaded:
    report = ColdStartReport(clock, instance="i", facts={})
    return Loaded(
        cast(Any, Session(name)), cast(Any, None), report, concurrency=2, max_bytes=10, fallback=None
    )


class Function:
    """A service with further models, and what they are opened by."""

    def __init__(self, *names: str, budget: int = 100, queue: int = 64, timeout: float = 5) -> None:
        self.service = Service(queue=queue, timeout=timeout)
        self.models = self.service.models = Models(self.service, {name: name for name in names}, budget)
        self.models.opened_by(self.open, lambda message, fields: self.told.append((message, fields["model"])))
        self.told: list[tuple[str, str]] = []
        self.opened: list[str] = []
        self.before: dict[str, Callable[[], object]] = {}
        """What happens before a model is opened."""
        self.service.ready(loaded("own", PhaseClock()))

    def open(self, location: str, clock: PhaseClock, *, room: Callable[..., None]) -> Loaded:
        self.opened.append(location)
        self.before.get(location, lambda: None)()
        room(manifest(location), SimpleNamespace(name="v"))
        return loaded(location, clock)

    def model(self, name: str) -> Model:
        found = self.models.find(name)
        assert found is not None
        return found

    def ask(self, name: str, work: Callable[[], object] = lambda: None, timeout: float = 0) -> Outcome:
        """One request for a model."""
        call = Call(cast(Any, work), cast(Any, Answer))
        now = time.perf_counter_ns()
        until = now + int(timeout * 1e9) if timeout else 0
        outcome = self.service.handle(Request(lambda _: call, now, until, model=self.models.find(name)))
        assert cast(Answer, outcome.answer).body == name.encode()
        return outcome

    def at_once(self, *names: str, **more: Any) -> list[Any]:
        """Requests side by side: their outcomes or errors."""
        results: list[Any] = [None] * len(names)

        def run(i: int) -> None:
            try:
                results[i] = self.ask(names[i], **more)._replace(
                    loaded=cast(Any, None)
                )  # or it would live on
            except PreheatError as error:
                results[i] = error

        threads = [threading.Thread(target=run, args=(i,)) for i in range(len(names))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        return results

    @property
    def there(self) -> set[str]:
        return {model.name for model in self.models.values() if model.current is not None}


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROOM_S", 0.2)
    monkeypatch.setattr(module, "FIRST_RETRY_S", 0.2)
    monkeypatch.setattr(Session, "alive", [])


def test_a_model_is_loaded_by_the_first_request_and_its_answer_is_cold() -> None:
    function = Function("a")
    assert function.opened == []
    assert [function.ask("a").cold for _ in range(3)] == [True, False, False]
    assert function.opened == ["a"]
    assert function.told == [("model loaded", "a")]
    report = function.model("a").report
    assert report is not None
    assert "first_request" in report.server_timing()
    assert function.ask("own").cold is True


def test_first_requests_at_once_load_once() -> None:
    function = Function("a")
    function.before["a"] = lambda: time.sleep(0.1)
    outcomes = function.at_once(*["a"] * 12)
    assert all(isinstance(o, Outcome) and o.cold for o in outcomes)
    assert function.opened == ["a"]


def test_the_least_recently_used_goes_and_its_session_with_it() -> None:
    function = Function("a", "b", "c")
    for name in ("a", "b", "a", "c"):
        function.ask(name)
    assert function.there == {"a", "c"}
    assert sorted(Session.alive) == ["a", "c", "own"]
    assert function.models.taken == 80
    function.ask("b")
    assert function.there == {"b", "c"}
    assert [told for told in function.told if told[0] == "model let go"] == [
        ("model let go", "b"),
        ("model let go", "a"),
    ]
    assert function.service.telemetry.metrics.model_evictions.read() == {("a",): 1, ("b",): 1}
    assert function.service.telemetry.metrics.model_loads.read() == {
        ("a", "ok"): 1,
        ("b", "ok"): 2,
        ("c", "ok"): 1,
    }


def test_several_go_where_one_is_not_enough() -> None:
    function = Function("a", "b", "large", budget=101)
    for name in ("a", "b", "large"):
        function.ask(name)
    assert function.there == {"large"}
    assert sorted(Session.alive) == ["large", "own"]


def test_none_goes_where_all_that_may_go_are_not_enough() -> None:
    function = Function("a", "b", "large", budget=101)
    function.ask("a")
    with function.model("b").in_use():
        function.ask("b")
        with pytest.raises(ShedError):
            function.ask("large")
    assert function.there == {"a", "b"}


def test_a_model_in_use_stays_and_who_needs_its_room_is_shed() -> None:
    function = Function("half", "large", budget=110)
    held = threading.Event()
    first = threading.Thread(target=function.ask, args=("half", lambda: held.wait(5)))
    first.start()
    while not function.service.admission.running:
        time.sleep(0.001)
    began = time.perf_counter()
    with pytest.raises(ShedError, match=r"takes 0\.0 MiB and .* are free: the others are in use") as shed:
        function.ask("large")
    assert 0.15 < time.perf_counter() - began < 2
    assert shed.value.code == "no_room"
    assert function.there == {"half"}
    held.set()
    first.join(5)
    function.ask("large")  # nobody is kept from trying again at once
    assert function.there == {"large"}


def test_a_load_waits_a_moment_for_room() -> None:
    function = Function("half", "large", budget=110)
    outcomes = function.at_once("half", work=lambda: time.sleep(0.1))
    outcomes += function.at_once("half", "large", work=lambda: time.sleep(0.1))
    assert all(isinstance(o, Outcome) for o in outcomes)


def test_what_never_fits_is_told_both_figures() -> None:
    function = Function("large")
    BYTES["large"] = 3 << 20
    try:
        function.models._budget = 2 << 20
        with pytest.raises(
            UnprocessableError, match=r"takes 3\.0 MiB, .* 2\.0 MiB: raise PREHEAT_MODELS_BYTES"
        ):
            function.ask("large")
    finally:
        BYTES["large"] = 101
    assert function.models.taken == 0
    assert function.model("large").state == "UNAVAILABLE"


def test_a_failed_load_is_told_to_all_who_wait_and_tried_again() -> None:
    function = Function("a", "b")

    def fail() -> None:
        time.sleep(0.05)
        raise EngineError("packed.onnx cannot be opened")

    function.before["a"] = fail
    errors = function.at_once("a", "a", "a")
    assert {type(error) for error in errors} == {FailedStartError}
    assert {str(error) for error in errors} == {"model 'a' could not be loaded: packed.onnx cannot be opened"}
    assert function.opened == ["a"]
    assert function.service.state.value == "ready"
    function.ask("b")
    function.ask("own")
    del function.before["a"]
    with pytest.raises(FailedStartError):  # not tried again yet
        function.ask("a")
    assert function.opened == ["a", "b"]
    time.sleep(0.25)
    assert function.ask("a").cold
    assert function.models.taken == 80
    assert function.told[0] == ("model not loaded", "a")


def test_each_failure_makes_the_next_try_wait_longer() -> None:
    function = Function("a")
    function.before["a"] = lambda: cast(Any, None).nothing
    pauses = []
    for _ in range(3):
        with pytest.raises(FailedStartError, match="AttributeError"):
            function.ask("a")
        load = function.model("a").load
        assert load is not None
        pauses.append(load.again_at - time.monotonic())
        load.again_at = 0.0
    assert pauses == pytest.approx([0.2, 0.4, 0.8], abs=0.05)
    function.model("a").failures = 5000
    with pytest.raises(FailedStartError, match="AttributeError"):
        function.ask("a")


def test_a_load_that_fails_gives_its_room_back() -> None:
    function = Function("a", "b", "c")

    def broken(location: str, clock: PhaseClock, *, room: Callable[..., None]) -> Loaded:
        room(manifest(location), SimpleNamespace(name="v"))
        raise EngineError("no")

    function.models.opened_by(broken, lambda *_: None)
    for name in ("a", "b", "c"):
        with pytest.raises(FailedStartError):
            function.ask(name)
    assert function.models.taken == 0


def test_a_folder_that_holds_another_model_by_now_is_told() -> None:
    function = Function("a")
    function.models.opened_by(lambda *_, **__: loaded("b", PhaseClock()), lambda *_: None)
    with pytest.raises(FailedStartError, match="a is 'b' by now"):
        function.ask("a")
    assert Session.alive == ["own"]


def test_the_deadline_holds_while_it_is_loaded_and_the_load_goes_on() -> None:
    function = Function("a")
    function.before["a"] = lambda: time.sleep(0.2)
    with pytest.raises(TimedOutError, match="before the model was there"):
        function.ask("a", timeout=0.05)
    assert function.ask("a").cold
    assert function.opened == ["a"]


def test_those_who_wait_for_one_leave_places_for_the_others() -> None:
    function = Function("a", queue=8)
    held = threading.Event()
    function.before["a"] = lambda: held.wait(5)
    threading.Timer(0.2, held.set).start()
    outcomes = function.at_once(*["a"] * 9, "own", "own")
    assert sum(isinstance(o, ShedError) for o in outcomes) == 5
    assert all(isinstance(o, Outcome) for o in outcomes[-2:])


def test_others_answer_while_one_is_loaded() -> None:
    function = Function("a", "b")
    function.ask("b")
    held = threading.Event()
    function.before["a"] = lambda: held.wait(5)
    waiting = threading.Thread(target=function.ask, args=("a",))
    waiting.start()
    assert [function.ask(name).ran_ns >= 0 for name in ("own", "b", "own")] == [True] * 3
    assert function.there == {"b"}
    held.set()
    waiting.join(5)
    assert function.there == {"a", "b"}


def test_one_budget_for_one_model_and_requests_for_three() -> None:
    """No answer of another model, no failure but for want of room, and never more than the budget."""
    function = Function("a", "b", "c", budget=50)
    answered = dict.fromkeys("abc", 0)
    over: list[int] = []

    def client(name: str) -> None:
        until = time.monotonic() + 20
        while answered[name] < 40 and time.monotonic() < until:
            try:
                function.ask(name)
            except ShedError:
                time.sleep(0.002)
            else:
                answered[name] += 1
            if function.models.taken > 50:
                over.append(function.models.taken)
            time.sleep(0.001)

    threads = [threading.Thread(target=client, args=(name,)) for name in "abcabc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert min(answered.values()) >= 40
    assert not over
    assert len(function.opened) > 3
    assert function.service.admission.taken == 0
    assert function.models.taken == 40


def test_closing_lets_go_of_all_that_is_not_in_use_and_what_is_asked_for_comes_back() -> None:
    function = Function("a", "b")
    function.ask("a")
    function.before["b"] = lambda: time.sleep(0.1)
    function.model("b").begin()
    function.service.close()
    assert function.there == set()
    assert Session.alive == ["own"]
    assert function.models.taken == 0
    assert function.ask("a").cold


def test_unloading() -> None:
    function = Function("a")
    function.models.unload(function.model("a"))  # it is not there
    with function.model("a").in_use():
        function.ask("a")
        with pytest.raises(ShedError, match="in use"):
            function.models.unload(function.model("a"))
    function.models.unload(function.model("a"))
    assert function.there == set()
    assert Session.alive == ["own"]


def test_names() -> None:
    function = Function("a", "b")
    assert function.models.find("own") is None
    with pytest.raises(NotFoundError, match="this server has 'own', 'a', 'b'"):
        function.models.find("c")
    with pytest.raises(SettingsError, match="the function's own model too: leave it out"):
        function.models.check_own("a")
    function.models.check_own("own")


def test_where_nothing_was_measured_the_files_count(filetype_artifact: Path) -> None:
    real = load((filetype_artifact / "manifest.json").read_bytes())
    variant = real.variants[0]
    measured = real.measured(variant.name, "rss_mib")
    assert measured is not None
    assert memory_bytes(real, variant) == int((measured - module.RUNTIME_MIB) * 2**20)
    bare = real._replace(measurements={})
    assert memory_bytes(bare, variant) == real.weight_bytes(variant) > 1 << 20


def test_places(filetype_artifact: Path, tmp_path: Path) -> None:
    folder = tmp_path / "several"
    first, second = (
        renamed(filetype_artifact, folder / "x", "one"),
        renamed(filetype_artifact, folder / "y", "two"),
    )
    (folder / "notes").mkdir()
    assert named(f"{first}, {second},") == {"one": str(first), "two": str(second)}
    assert named(str(folder)) == {"one": str(first), "two": str(second)}
    store = "s3://bucket/prefix/embed@prod"
    assert named(f"{first},{store}") == {"one": str(first), "embed": store}
    with pytest.raises(SettingsError, match=r"two models 'one': .*x and .*x; leave one out"):
        named(f"{folder},{first}")
    with pytest.raises(ArtifactError, match="does not exist"):
        named(str(tmp_path / "none"))
    with pytest.raises(ArtifactError, match=r"it has no manifest\.json"):
        named(str(folder / "notes"))
    with pytest.raises(UsageError, match="say which version"):
        named("s3://bucket/prefix/embed")
    (first / "manifest.json").write_text("{")
    with pytest.raises(ManifestError, match=r"several/x: .*not JSON"):
        named(str(first))
