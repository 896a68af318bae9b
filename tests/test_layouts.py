"""Every estimator over time in every layout, dtype and mask mode, against the specification; and what layouts promise."""

import functools
import tracemalloc

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import fastpg
from fastpg import _core, reference
from fastpg.testing import CASES, compare

TIME = [case for case in CASES if case.over_time]
SHORT = [case for case in TIME if "value" in case.make(np.random.default_rng(), (1,), float)]
MODES = [None, "skip", "zero", "reset"]
DTYPES = [np.float32, np.float64]
COEFFICIENTS = ("gamma", "lambda_", "alpha")
CHUNK = {np.float32: 1024, np.float64: 512}  # items that the core walks at a time


def named(cases):
    return pytest.mark.parametrize("case", cases, ids=[case.id for case in cases])


def masked(rng, shape, mode, share=0.7):
    return {} if mode is None else {"mask": rng.random(shape) < share, "mask_mode": mode}


def offsets_of(rng, size, sequences):
    """Where that many sequences lie; some are empty, many short."""
    return np.sort(np.concatenate([[0, size], rng.integers(0, size + 1, sequences - 1)]))


def with_last_values(rng, arguments, lanes, mode):
    """Arguments with V after the last step of each lane alone, and no step cut without its V."""
    changed = arguments | {"next_value": rng.standard_normal(lanes).astype(arguments["reward"].dtype)}
    if mode == "reset":  # every gap cuts
        changed["terminated"] = np.ones_like(arguments["terminated"])
    changed["truncated"] = arguments["truncated"] & changed["terminated"]
    return changed


def equal(case, arguments, tolerance, **layout):
    wanted = case.expect(arguments, **layout)
    why = compare(case.call(arguments, **layout), wanted, tolerance)
    assert why == "", (layout.keys(), arguments["reward"].shape)


@named(TIME)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_and_interleaved_steps(case, mode, dtype, isa, rng):
    for size, lanes in [(0, 3), (1, 1), (9, 1), (64, 20), (CHUNK[dtype] + 30, 7)]:
        arguments = case.make(rng, (size,), dtype)
        offsets, env_id = offsets_of(rng, size, lanes), rng.integers(0, lanes, size, np.int32 if mode else np.int64)
        mask = masked(rng, size, mode)
        equal(case, arguments, case.near((size,)), offsets=offsets, **mask)
        equal(case, arguments, case.near((size,)), env_id=env_id, **mask)
        if case in SHORT and lanes != size:
            short = with_last_values(rng, arguments, lanes, mode)
            equal(case, short, case.near((size,)), offsets=offsets, **mask)
            equal(case, short, case.near((size,)), env_id=env_id, **mask)


@named(TIME)
@pytest.mark.parametrize("mode", MODES[1:])
@pytest.mark.parametrize("dtype", DTYPES)
def test_masks_over_lanes_and_batches(case, mode, dtype, isa, rng):
    for shape in [(0, 3), (3, 0), (1, 1), (9, 7), (33, 40), (5, 130), (2, CHUNK[dtype] + 76), (CHUNK[dtype] + 9,)]:
        arguments = case.make(rng, shape, dtype)
        mask = masked(rng, shape, mode)
        equal(case, arguments, case.near(shape, case.name != "n_step_return"), **mask)  # which lines masked steps up
        turned = {k: np.ascontiguousarray(a.T) if np.ndim(a) else a for k, a in arguments.items()}
        mask["mask"] = mask["mask"].T.copy()
        equal(case, turned, case.near(shape, False), axis=len(shape) - 1, **mask)
        if case in SHORT and len(shape) == 2:
            short = with_last_values(rng, turned, shape[1], mode)
            equal(case, short, case.near(shape, False), axis=1, **mask)
            upright = {k: a.T.copy() if np.ndim(a) else a for k, a in short.items()}
            equal(case, upright, case.near(shape), mask=mask["mask"].T, mask_mode=mode)
    one = case.make(rng, (40,), dtype)
    if case in SHORT:  # one lane: a number
        short = with_last_values(rng, one, (), mode) | {"next_value": 2.0}
        wanted = case.expect(short | {"next_value": dtype(2)}, **masked(np.random.default_rng(1), 40, mode))
        got = case.call(short, **masked(np.random.default_rng(1), 40, mode))
        assert compare(got, wanted, case.near((40,))) == ""


@named(TIME)
@pytest.mark.parametrize("mode", MODES)
def test_gamma_and_lambda_of_each_step_in_every_layout(case, mode, rng):
    for shape, layout in [
        ((40,), {"offsets": offsets_of(rng, 40, 9)}),
        ((40,), {"env_id": rng.integers(0, 5, 40)}),
        ((20, 7), {}),
        ((7, 20), {"axis": 1}),
    ]:
        arguments = case.make(rng, shape, np.float64)
        arguments |= {x: rng.random(shape) for x in COEFFICIENTS if x in arguments}
        layout |= masked(rng, shape, mode)
        wanted = case.expect(arguments, **layout)
        assert compare(case.call(arguments, **layout), wanted, case.near(shape, False)) == "", layout
        if mode in ("skip", "reset"):  # what a gap holds is not read; in mode zero the trace decays by it
            garbage = {x: np.where(layout["mask"], a, np.nan) if x in COEFFICIENTS else a for x, a in arguments.items()}
            assert compare(case.call(garbage, **layout), wanted, case.near(shape, False)) == "", layout


@named(TIME)
def test_a_call_takes_less_than_a_megabyte_beyond_its_results(case, rng):
    size = 400_000
    arguments = case.make(rng, (size,), np.float32)
    arguments |= {x: rng.random(size, dtype=np.float32) for x in COEFFICIENTS if x in arguments}
    mask, lane = rng.random(size) < 0.9, np.arange(size) % 50
    layouts = [{"offsets": np.arange(0, size + 1, 200, dtype=np.int32)}]
    if case.name != "n_step_return":
        layouts += [{"env_id": lane}, {"env_id": lane.astype(np.int32)}]
    square = {k: a.reshape(1000, 400) if np.ndim(a) else a for k, a in arguments.items()}
    for them, layout in [(arguments, x) for x in layouts] + [(square, {}), (square, {"axis": 1})]:
        wanted = case.call(them, **layout)
        shape, results = them["reward"].shape, wanted if isinstance(wanted, tuple) else (wanted,)
        out = tuple(np.empty(shape, np.float32, order="F") for _ in results)
        for more in ({}, {"mask": mask.reshape(shape), "mask_mode": "zero"}):
            tracemalloc.start()
            case.call(them, **layout, **more, out=out if len(out) > 1 else out[0])
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 1 << 20, (layout.keys(), more.keys())
            if not more:
                tolerance = max(case.near(shape), case.near(shape, False))  # the order of memory is that of out
                assert compare(out if len(out) > 1 else out[0], wanted, tolerance) == ""


@named(TIME)
def test_strided_and_read_only_arrays_and_masks(case, rng):
    for mode in MODES:
        arguments = case.make(rng, (70, 13), np.float64)
        wide = {k: np.repeat(a, 2, axis=1)[:, ::2] if np.ndim(a) else a for k, a in arguments.items()}
        for a in wide.values():
            if np.ndim(a):
                a.setflags(write=False)
        mask = masked(rng, (70, 13), mode)
        if mask:
            mask["mask"] = np.asfortranarray(mask["mask"])
        assert compare(case.call(wide, **mask), case.call(arguments, **mask), 0) == ""


@named(TIME)
@pytest.mark.parametrize("mode", MODES)
def test_threads_change_no_bit_of_any_layout(case, mode, rng):
    before = _core.threads()
    size = 140_000
    arguments = case.make(rng, (size,), np.float32)
    layouts = [{"offsets": offsets_of(rng, size, 40)}, {"offsets": offsets_of(rng, size, 3)}, {}]
    try:
        for layout in layouts:
            layout = layout | masked(rng, size, mode)
            calls = [functools.partial(case.call, arguments, **layout)]
            if case in SHORT and "offsets" in layout:
                short = with_last_values(rng, arguments, len(layout["offsets"]) - 1, mode)
                calls.append(functools.partial(case.call, short, **layout))
            for call in calls:
                _core.set_threads(1)
                wanted = call()
                _core.set_threads(4)
                assert compare(call(), wanted, 0) == ""
    finally:
        _core.set_threads(before)


@named(TIME)
def test_a_batch_cut_at_the_ends_of_sequences_gives_the_same_numbers(case, rng):
    offsets = offsets_of(rng, 500, 12)
    arguments = case.make(rng, (500,), np.float64)
    whole = case.call(arguments, offsets=offsets)
    parts = [
        case.call({k: a[p:q] if np.ndim(a) else a for k, a in arguments.items()})
        for p, q in zip(offsets[:-1], offsets[1:], strict=True)
    ]
    joined = tuple(map(np.concatenate, zip(*parts, strict=True))) if isinstance(whole, tuple) else np.concatenate(parts)
    assert compare(whole, joined, case.near((500,))) == ""


@named(TIME)
@pytest.mark.parametrize("mode", MODES[1:])
@pytest.mark.parametrize("layout", ["time-major", "batch-major", "packed", "interleaved"])
def test_what_a_masked_step_holds_changes_no_bit(case, mode, layout, rng):
    shape = (60, 9) if layout in ("time-major", "batch-major") else (540,)
    arguments = case.make(rng, shape, np.float32)
    how = {
        "time-major": {},
        "batch-major": {"axis": 1},
        "packed": {"offsets": [0, 100, 100, 540]},
        "interleaved": {"env_id": rng.integers(0, 5, 540)},
    }[layout] | masked(rng, shape, mode)
    clean = case.call(arguments, **how)
    for garbage in (np.nan, np.inf, 3e38):
        soiled = {k: a.copy() if np.ndim(a) else a for k, a in arguments.items()}
        for a in soiled.values():
            if np.ndim(a):
                a[~how["mask"]] = True if a.dtype == bool else garbage
        assert compare(case.call(soiled, **how), clean, 0) == ""
    for result in clean if isinstance(clean, tuple) else (clean,):
        assert not result[~how["mask"]].any()


@given(data=st.data())
@settings(max_examples=60)
def test_padding_a_packed_batch_changes_nothing(data):
    """Sequences packed, padded to one width, and interleaved in any order: the same estimates."""
    lengths = data.draw(st.lists(st.integers(0, 12), min_size=1, max_size=6))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    case = data.draw(st.sampled_from(TIME))
    size, width = sum(lengths), max(lengths)
    assume(size != len(lengths))  # where next_value could be one value a sequence
    arguments = case.make(rng, (size,), np.float64)
    offsets = np.cumsum([0, *lengths])
    wanted = case.call(arguments, offsets=offsets)
    mask = np.arange(width) < np.array(lengths)[:, None]
    padded = {}
    for k, a in arguments.items():
        padded[k] = a
        if np.ndim(a):
            padded[k] = np.ones(mask.shape, a.dtype)
            padded[k][mask] = a
    got = case.call(padded, axis=1, mask=mask)
    got = tuple(g[mask] for g in got) if isinstance(got, tuple) else got[mask]
    assert compare(got, wanted, case.near((size,))) == ""
    lane = rng.permutation(np.repeat(np.arange(len(lengths)), lengths))
    order = np.argsort(lane, kind="stable")  # where the steps of each lane stand
    mixed = {k: a[np.argsort(order)] if np.ndim(a) else a for k, a in arguments.items()}
    got = case.call(mixed, env_id=lane * 10**12 - 5)
    got = tuple(g[order] for g in got) if isinstance(got, tuple) else got[order]
    assert compare(got, wanted, case.near((size,))) == ""


def test_the_three_mask_modes_of_the_field():
    """Two steps with a gap between them, reward 2 on the last, gamma lambda = 0.45: worked by hand."""
    mask = np.array([[True, False, True]])
    reward, value = np.array([[0.0, 7.0, 2.0]]), np.array([[0.5, 9.0, 1.0]])
    no = np.zeros((1, 3), bool)

    def gae(mode, next_value):
        return fastpg.gae(reward, value, next_value, no, no, 0.9, 0.5, axis=1, mask=mask, mask_mode=mode)[0]

    last = 2 + 0.9 * 4 - 1  # delta of the last step
    np.testing.assert_allclose(gae("skip", np.array([4.0])), [0.9 * 1 - 0.5 + 0.45 * last, 0, last])
    gap = 0.9 * 1 + 0.45 * last  # a step of reward 0 and value 0
    np.testing.assert_allclose(gae("zero", np.array([4.0])), [-0.5 + 0.45 * gap, 0, last])
    full = np.array([[3.0, np.nan, 4.0]])
    np.testing.assert_allclose(gae("reset", full), [0.9 * 3 - 0.5, 0, last])
    with pytest.raises(ValueError, match="mask_mode 'reset' cuts after step 0 of lane 0.*give next_value with shape"):
        gae("reset", np.array([4.0]))


def test_all_masked_and_no_steps_at_all_have_results():
    no = np.zeros((3, 2), bool)
    for mode in MODES[1:]:
        got = fastpg.gae(*np.full((3, 3, 2), np.nan), no, no, mask=no, mask_mode=mode)
        np.testing.assert_array_equal(got, np.zeros((3, 2)))
    assert fastpg.gae([], [], [], [], [], offsets=[0]).shape == (0,)
    assert fastpg.gae([], [], [], [], [], offsets=[0, 0, 0]).shape == (0,)
    assert fastpg.gae([], [], [], [], [], env_id=[]).shape == (0,)


def test_one_hundred_thousand_episodes_of_one_to_five_hundred_steps(rng):
    lengths = rng.integers(1, 501, 100_000)
    offsets = np.append(0, np.cumsum(lengths))
    size = int(offsets[-1])
    reward = rng.standard_normal(size, dtype=np.float32)
    got = fastpg.reward_to_go(reward, offsets=offsets, gamma=0.99)
    for b in (0, 1, 49_999, 99_999):
        wanted = reference.reward_to_go(reward[offsets[b] : offsets[b + 1]], gamma=0.99)
        np.testing.assert_allclose(got[offsets[b] : offsets[b + 1]], wanted, rtol=0, atol=2e-5)
    ones = fastpg.reward_to_go(np.ones(size, np.float32), offsets=offsets, gamma=1.0)
    np.testing.assert_array_equal(ones[offsets[:-1]], lengths)  # exact: sums of ones below 2^24
    np.testing.assert_array_equal(ones[offsets[1:] - 1], 1)


REFUSED = [
    ({"offsets": [0, 3]}, "offsets runs from 0 to 3; from 0 to 6, the length of reward, is wanted"),
    ({"offsets": [1, 6]}, "offsets runs from 1 to 6"),
    ({"offsets": [0, 4, 3, 6]}, "offsets falls from 4 to 3 at sequence 1"),
    ({"offsets": []}, r"offsets has shape \(0,\)"),
    ({"offsets": [[0, 6]]}, r"offsets has shape \(1, 2\)"),
    ({"offsets": [0, 6], "env_id": [0] * 6}, "offsets and env_id are both given"),
    ({"env_id": [0] * 5}, r"env_id has shape \(5,\), but reward has \(6,\)"),
    ({"mask": [True] * 5}, r"mask has shape \(5,\), but reward has \(6,\)"),
    ({"mask": [True] * 6, "mask_mode": "drop"}, "mask_mode is 'drop'; one of skip, zero, reset is wanted"),
    ({"mask_mode": "drop"}, "mask_mode is 'drop'"),
]


@named(TIME)
@pytest.mark.parametrize("layout, message", REFUSED, ids=[m for _, m in REFUSED])
def test_layouts_that_do_not_fit(case, layout, message):
    with pytest.raises(ValueError, match=message):
        case.call(case.make(np.random.default_rng(0), (6,), np.float64), **layout)


@named(TIME)
def test_layouts_of_the_wrong_kind(case):
    one = case.make(np.random.default_rng(0), (6,), np.float64)
    two = case.make(np.random.default_rng(0), (6, 2), np.float64)
    for layout, message in [
        ({"offsets": [0.0, 6.0]}, "offsets has dtype float64; integers are wanted"),
        ({"env_id": [0.5] * 6}, "env_id has dtype float64; integers are wanted"),
        ({"mask": [1] * 6}, "mask has dtype int64; bool is wanted"),
    ]:
        with pytest.raises(TypeError, match=message):
            case.call(one, **layout)
    for layout in ({"offsets": [0, 6]}, {"env_id": np.zeros((6, 2), int)}):
        with pytest.raises(ValueError, match=r"reward has shape \(6, 2\); one dimension"):
            case.call(two, **layout)


def test_a_truncated_step_inside_a_lane_without_its_value_is_refused(rng):
    value = rng.standard_normal(8)
    no = np.zeros(8, bool)
    cut = no.copy()
    cut[2] = True
    for layout, last in [({"offsets": [0, 5, 8]}, 2), ({"env_id": [0, 1, 0, 1, 1, 0, 0, 1]}, 2)]:
        with pytest.raises(ValueError, match="truncated is set at step 2: the value of the state"):
            fastpg.gae(value, value, np.zeros(last), no, cut, **layout)
        fastpg.gae(value, value, np.zeros(last), cut, cut, **layout)  # terminated wins
    fine = no.copy()
    fine[4] = True  # a sequence's last step
    fastpg.gae(value, value, np.zeros(2), no, fine, offsets=[0, 5, 8])
    mask = np.array([True] * 3 + [False] * 5)
    fastpg.gae(value, value, 0.0, no, cut, mask=mask)  # the last unmasked step
    with pytest.raises(ValueError, match="truncated is set at step 2"):
        fastpg.gae(value, value, 0.0, no, cut, mask=~mask | mask)


@named([case for case in TIME if "next_value" in case.make(np.random.default_rng(), (1,), float)])
def test_next_value_shaped_like_reward_is_one_value_a_step_of_as_many_sequences_too(case, rng):
    for offsets in ([0, 0, 1, 3], [0, 3, 3, 3], [0, 1, 2, 3]):
        arguments = case.make(rng, (3,), np.float64)
        equal(case, arguments, case.near((3,)), offsets=np.array(offsets))


@named(SHORT)
def test_next_value_of_more_lanes_than_have_a_step_is_still_one_value_a_lane(case, rng):
    # As many lanes as steps, fewer, one; ids that take no table, of fewer lanes than steps and of as many.
    for env_id in ([3, 0, 2, 2], [0, 1, 0, 1], [0, 0, 0, 0], [2000, 7, 2000, 1999], [2000, 7, 0, 1999]):
        arguments = with_last_values(rng, case.make(rng, (4,), np.float64), max(env_id) + 3, None)
        equal(case, arguments, case.near((4,)), env_id=np.array(env_id, np.int32))
    far = with_last_values(rng, case.make(rng, (4,), np.float64), 3, None)
    for env_id in ([2000, 7, 7, 2000], [-1, 2, 2, -1]):
        with pytest.raises(ValueError, match=r"next_value has shape \(3,\), but reward has \(4,\)"):
            case.call(far, env_id=env_id)


def test_window_lengths_and_clips_that_are_none():
    x, no = np.zeros(4), np.zeros(4, bool)
    for n, error in ((0, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError), (None, TypeError)):
        with pytest.raises(error, match="n is"):
            fastpg.n_step_return(x, x, no, no, n=n)
    for clip, error in (
        (-1.0, ValueError),
        (np.nan, ValueError),
        ("1", TypeError),
        (None, TypeError),
        (True, TypeError),
    ):
        with pytest.raises(error, match="clip_c is"):
            fastpg.vtrace(x, x, x, x, no, no, clip_c=clip)
    got = fastpg.vtrace(x, x, x, x, no, no, clip_c=np.inf, clip_rho=1)
    np.testing.assert_array_equal(got[0], x)
    np.testing.assert_array_equal(fastpg.n_step_return(x + 1, x, no, no, gamma=1.0, n=10**30), [4, 3, 2, 1])
