import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real images and labels that $VISDEPLOY_DATA names."""
    folder = os.environ.get("VISDEPLOY_DATA")
    if not folder:
        pytest.skip("VISDEPLOY_DATA is not set")
    return Path(folder)
