"""Small SavedModels that the tests of this folder serve, and how they ask a server.

    python -m pytest tests/serving/test_rest_contract.py tests/serving/test_predict.py --base-url http://HOST:PORT

asks another server, such as TF Serving, that serves what `contract_models.py` writes.
"""

import contextlib
import shutil

import httpx
import pytest

pytest.register_assert_rewrite("rest_calls")


def pytest_addoption(parser):
    parser.addoption("--base-url", help="a server to ask in the tests of the contract, in place of one of our own")


@pytest.fixture(scope="session")
def export_recommender():
    """The function that writes a Recommender."""
    from contract_models import export_recommender

    return export_recommender


@pytest.fixture(scope="session")
def write_warmup():
    """The function that writes a warm-up request."""
    from contract_models import write_warmup

    return write_warmup


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A folder of models that no test may change."""
    from contract_models import write_models

    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    (folder / "shop" / "tmp-8").mkdir()
    (folder / "README").touch()
    return folder


@pytest.fixture
def shop(models, tmp_path):
    """A folder with version 7 of the model `shop`, for a test to change."""
    shutil.copytree(models / "shop" / "7", tmp_path / "models" / "shop" / "7")
    return tmp_path / "models"


@pytest.fixture(scope="session")
def store(models):
    """The models of `models`, loaded."""
    from serving.model_store import ModelStore

    store = ModelStore(models, report=lambda line: None)
    store.poll()
    return store


@pytest.fixture(scope="session")
def web(request):
    """Asks the server of --base-url, else one of `store`."""
    address = request.config.getoption("--base-url", default=None) or request.getfixturevalue("url")
    with httpx.Client(base_url=address, timeout=30) as client:
        yield client


@pytest.fixture(scope="session")
def url(store):
    """The address of a server of `store`."""
    with _serving(store) as address:
        yield address


@pytest.fixture(scope="session")
def serving():
    """A context manager that serves a `ModelStore` and gives the server's address."""
    return _serving


@contextlib.contextmanager
def _serving(store, **options):
    from serving.server import running

    with running(store, **options) as server:
        yield f"http://127.0.0.1:{server.port}"


@pytest.fixture(scope="session")
def asking(serving):
    """A context manager that serves a `ModelStore` and gives what asks it, as `web` does."""

    @contextlib.contextmanager
    def ask(store, **options):
        with serving(store, **options) as address, httpx.Client(base_url=address, timeout=30) as client:
            yield client

    return ask
