import pytest


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """One directory in which digits are prepared once; tests that damage things take their own."""
    return tmp_path_factory.mktemp("sets")


@pytest.fixture
def digits_fingerprint():
    return "7f3536e6890841db6ce4a748d9413102f51feea1b5888502e3f6c5c7c226160d"
