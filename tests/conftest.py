import numpy as np
import pytest

from fastpg import _core


@pytest.fixture(params=_core.isas())
def isa(request):
    """Each instruction set of this machine in turn."""
    before = _core.isa()
    _core.use_isa(request.param)
    yield request.param
    _core.use_isa(before)


@pytest.fixture
def rng():
    return np.random.default_rng(20261122)
