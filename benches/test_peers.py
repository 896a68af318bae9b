"""Every installed peer of peers.py on the arrays that fastpg gets: equal first, timed then. A peer that is missing is skipped.

pytest benches/test_peers.py --benchmark-only --benchmark-json=build/peers.json && python benches/peer_table.py build/peers.json
"""

import functools
import time

import numpy as np
import peers
import pytest

from fastpg.testing import compare

# Of eps (1 + the largest magnitude), float32: three times the worst seen, TorchRL's vectorised forms; the others stay under 8.
TOLERANCE = 32
SLOW = 1.0  # seconds: from here on one round says enough


def _params():
    for layout, shape in peers.POINTS:
        for peer in peers.PEERS:
            if peer.fits(layout, shape):
                name = "-".join([peer.kernel, layout, "x".join(map(str, shape)), peer.library])
                yield pytest.param(peer, layout, shape, id=name.replace(", ", "_"))


@functools.lru_cache(maxsize=2)
def _problem(layout, shape, cuts):
    return peers.make(layout, shape, cuts)


@functools.lru_cache(maxsize=5)
def _expected(problem_key, kernel):
    wanted = peers.expected(_problem(*problem_key), kernel)
    return tuple(x.astype(np.float32) for x in wanted) if isinstance(wanted, tuple) else wanted.astype(np.float32)


@pytest.mark.benchmark(min_rounds=5, max_time=0.3, min_time=5e-5)
@pytest.mark.parametrize(("peer", "layout", "shape"), list(_params()))
def test_peer(benchmark, peer, layout, shape):
    for module in peer.needs:
        pytest.importorskip(module)
    if benchmark.disabled and peer.python_loop and np.prod(shape) >= 1_000_000:
        pytest.skip("half a minute of a loop in Python, unless it is timed")
    key = layout, shape, peer.kernel != "vtrace"  # V-trace at a cut is wrong in rlax, so there are none
    problem = _problem(*key)
    call, read = peer.bind(problem)
    if not peer.python_loop:
        call()  # compiles
    start = time.perf_counter()
    got = call()
    seconds = time.perf_counter() - start
    why = compare(read(got), _expected(key, peer.kernel), TOLERANCE)
    assert not why, why
    benchmark.extra_info.update(
        peer=peer.library,
        version=peer.version(),
        kernel=peer.kernel,
        layout=layout,
        shape=list(shape),
        dtype="float32",
        library=peer.library,
    )
    if seconds < SLOW:
        benchmark(call)
    else:
        benchmark.pedantic(call)
