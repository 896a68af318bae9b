"""Group advantages of 1,024 rewards in groups of 8, with string keys: equal to the specification first, timed then."""

import numpy as np
import pytest

import fastpg
from fastpg import reference
from fastpg.testing import compare

KINDS = ["grpo", "rloo", "loo_std", "pass_at_k"]


@pytest.mark.benchmark(min_rounds=5, max_time=0.2, min_time=5e-5)
@pytest.mark.parametrize("library", ["numpy", "fastpg"])
@pytest.mark.parametrize("kind", KINDS)
def test_group_advantage(benchmark, kind, library):
    rng = np.random.default_rng(0)
    reward = rng.random(1024, dtype=np.float32)
    group = [f"00c0ffee-{i:04x}-4ace-8d1e-5eed0badcafe" for i in range(128) for _ in range(8)]
    function = {"numpy": reference, "fastpg": fastpg}[library].group_advantage
    wanted = reference.group_advantage(reward, group, kind)
    assert not compare(function(reward, group, kind), wanted, 1)
    benchmark.extra_info.update(
        kernel=f"group_advantage {kind}",
        layout="samples",
        shape=[1024],
        dtype="float32",
        library=library,
        bytes=2 * reward.nbytes,
    )
    benchmark(function, reward, group, kind)
