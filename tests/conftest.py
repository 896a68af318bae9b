import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from fastpg import _core

# A busy machine is no defect.
settings.register_profile("fastpg", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fastpg")


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
