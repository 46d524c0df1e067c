import pytest

from preheat.errors import SettingsError
from preheat.settings import Settings


def test_defaults_need_no_environment() -> None:
    settings = Settings.from_environ({})
    assert settings == Settings()
    assert settings.port == 8080


def test_values_are_read_by_their_type() -> None:
    settings = Settings.from_environ(
        {"PREHEAT_THREADS": "2", "PREHEAT_TIMEOUT": "1.5", "PREHEAT_VARIANT": "packed", "HOME": "/root"}
    )
    assert (settings.threads, settings.timeout, settings.variant) == (2, 1.5, "packed")


def test_the_platforms_port_wins() -> None:
    assert Settings.from_environ({"PORT": "9000", "PREHEAT_PORT": "8000"}).port == 9000


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"PREHEAT_THREAD": "2"}, "did you mean PREHEAT_THREADS"),
        ({"PREHEAT_THREADS": "two"}, "PREHEAT_THREADS must be a whole number"),
        ({"PREHEAT_TIMEOUT": "soon"}, "PREHEAT_TIMEOUT must be a number"),
        ({"PREHEAT_TIMEOUT": "nan"}, "PREHEAT_TIMEOUT must be a number"),
        ({"PREHEAT_VERIFY": "never"}, "PREHEAT_VERIFY must be one of fetch, always"),
        ({"PREHEAT_TIERED": "yes"}, "PREHEAT_TIERED must be one of auto, on, off"),
        ({"PREHEAT_TIERED": "on", "PREHEAT_VARIANT": "ort"}, "PREHEAT_VARIANT names the only one"),
        ({"PREHEAT_OBJECTIVE": "hot"}, "PREHEAT_OBJECTIVE must be one of cold, balanced, warm"),
        ({"PREHEAT_QUEUE": "-1"}, "PREHEAT_QUEUE must not be negative"),
        ({"PORT": "99999"}, "PORT must lie between"),
        ({"PORT": "http"}, "PORT must be a whole number"),
    ],
)
def test_what_is_wrong_is_said(environ: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Settings.from_environ(environ)


def test_the_cache_folder_follows_the_platform() -> None:
    assert Settings(cache="/c").cache_dir({}) == "/c"
    assert Settings().cache_dir({"AWS_LAMBDA_FUNCTION_NAME": "f"}) == "/tmp/preheat"
    assert Settings().cache_dir({"XDG_CACHE_HOME": "/x"}) == "/x/preheat"
    assert Settings().cache_dir({"HOME": "/home/me"}) == "/home/me/.cache/preheat"
