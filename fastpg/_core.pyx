# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
"""From arrays to pointers: the only way into the compiled kernels from Python.

`run_time` and `run_rows` answer a call whose arguments are already what a kernel wants and return None for any other, at once and
without touching anything; `_check` then says what is wrong or makes it right and calls again.
"""
import os

import numpy as np

cimport numpy as cnp
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.long cimport PyLong_CheckExact
from libc.stdint cimport int64_t, uintptr_t

cnp.import_array()

cdef extern from "fastpg.h" nogil:
    enum:
        FASTPG_MAX_PARAMETERS
    ctypedef enum fastpg_kind:
        FASTPG_IN, FASTPG_EXP, FASTPG_FLAG, FASTPG_SCALAR, FASTPG_NUMBER, FASTPG_COUNT, FASTPG_INDEX, FASTPG_OUT, FASTPG_OUT_INDEX
    ctypedef enum fastpg_dtype:
        FASTPG_F32, FASTPG_F64
    ctypedef enum fastpg_family:
        FASTPG_TIME, FASTPG_ROW
    ctypedef struct fastpg_operand:
        char *data
        Py_ssize_t stride0, stride1
        char *last
        Py_ssize_t last_stride
    ctypedef struct fastpg_parameter:
        const char *name
        fastpg_kind kind
        int per_row
        int shared
    ctypedef struct fastpg_kernel:
        const char *name
        fastpg_family family
        int n_parameters
        fastpg_parameter *parameters
    ctypedef enum fastpg_mask_mode:
        FASTPG_SKIP, FASTPG_ZERO, FASTPG_RESET
    ctypedef struct fastpg_layout:
        const int64_t *offsets
        Py_ssize_t sequences
        const void *env_id
        int env_int32
        Py_ssize_t envs
        void *memory
        fastpg_operand mask
        fastpg_mask_mode mask_mode
    ctypedef void (*fastpg_function)()
    size_t fastpg_env_bytes(fastpg_dtype dtype, Py_ssize_t envs)
    int fastpg_kernel_count()
    const fastpg_kernel *fastpg_kernel_at(int kernel)
    Py_ssize_t fastpg_run(int kernel, fastpg_dtype dtype, const fastpg_operand *operands, Py_ssize_t size0, Py_ssize_t size1,
                          const fastpg_layout *layout)
    int fastpg_threads()
    void fastpg_set_threads(int threads)
    int fastpg_isa_count()
    const char *fastpg_isa_name(int isa)
    int fastpg_isa_runs_here(int isa)
    int fastpg_isa_current()
    int fastpg_isa_use(const char *name)
    const char *fastpg_symbol(int kernel, fastpg_dtype dtype)
    fastpg_function fastpg_address(int kernel, fastpg_dtype dtype)

cdef extern from "numpy/arrayobject.h":
    object PyArray_NewLikeArray(cnp.ndarray prototype, cnp.NPY_ORDER order, void *descr, int subok)

cdef enum:
    MOST_KERNELS = 256

cdef struct Roles:
    int value, next_value, outputs

cdef Roles ROLES[MOST_KERNELS]


cdef int position(int kernel, bytes name):
    cdef int i
    for i in range(fastpg_kernel_at(kernel).n_parameters):
        if fastpg_kernel_at(kernel).parameters[i].name == name:
            return i
    return -1


for _k in range(fastpg_kernel_count()):
    ROLES[<int>_k] = Roles(position(_k, b"value"), position(_k, b"next_value"),
                           sum([fastpg_kernel_at(_k).parameters[<int>_i].kind == FASTPG_OUT for _i in range(fastpg_kernel_at(_k).n_parameters)]))

# Of each output that rows may share, the input that says whether they do: log_std of log_std_grad.
cdef int SOURCE[MOST_KERNELS][FASTPG_MAX_PARAMETERS]
for _k in range(fastpg_kernel_count()):
    for _i in range(fastpg_kernel_at(_k).n_parameters):
        SOURCE[<int>_k][<int>_i] = position(_k, fastpg_kernel_at(_k).parameters[<int>_i].name.removesuffix(b"_grad"))

cdef tuple KIND_NAMES = ("IN", "EXP", "FLAG", "SCALAR", "NUMBER", "COUNT", "INDEX", "OUT", "OUT_INDEX")
cdef dict INDEX = {fastpg_kernel_at(k).name.decode(): k for k in range(fastpg_kernel_count())}


def kernels():
    """{kernel: [(kind, parameter), ...]} in the order of csrc/kernels.def."""
    return {name: [(KIND_NAMES[<int>fastpg_kernel_at(k).parameters[i].kind], fastpg_kernel_at(k).parameters[i].name.decode())
                   for i in range(fastpg_kernel_at(k).n_parameters)] for name, k in INDEX.items()}


def spans(str kernel):
    """{parameter: what it has one item of}: "row"; "action", which all rows may share; or "item", one a row and action."""
    cdef int k = INDEX[kernel], i
    return {fastpg_kernel_at(k).parameters[i].name.decode():
            "row" if fastpg_kernel_at(k).parameters[i].per_row else "action" if fastpg_kernel_at(k).parameters[i].shared else "item"
            for i in range(fastpg_kernel_at(k).n_parameters)}


def family(str kernel):
    """"time" or "rows": what a kernel's first axis is."""
    return "time" if fastpg_kernel_at(INDEX[kernel]).family == FASTPG_TIME else "rows"


def symbols():
    """{symbol: address} of the flat entries, for compilers that call by name."""
    return {fastpg_symbol(k, dtype).decode(): <uintptr_t><void *>fastpg_address(k, dtype)
            for k in range(fastpg_kernel_count()) for dtype in (FASTPG_F32, FASTPG_F64)}


def isa():
    """Name of the instruction set in use."""
    return fastpg_isa_name(fastpg_isa_current()).decode()


def isas():
    """Names of the instruction sets that this build holds and this machine runs, slowest first."""
    return [fastpg_isa_name(i).decode() for i in range(fastpg_isa_count()) if fastpg_isa_runs_here(i)]


def use_isa(name):
    """Switches to an instruction set by name; None for the fastest."""
    if name is None:
        fastpg_isa_use(NULL)
    elif fastpg_isa_use(name.encode()):
        raise ValueError(f"instruction set {name!r} is not available; this machine runs {', '.join(isas())}")


def threads():
    """Most threads a call may use."""
    return fastpg_threads()


def set_threads(int n):
    """Sets the most threads a call may use, from 1 to 64."""
    fastpg_set_threads(n)


cdef bint plain(object array, int type_number, int ndim):
    """An aligned native array of the given type and rank; of a subclass, `_check` decides."""
    return (cnp.PyArray_CheckExact(array) and cnp.PyArray_TYPE(<cnp.ndarray>array) == type_number
            and cnp.PyArray_NDIM(<cnp.ndarray>array) == ndim and cnp.PyArray_ISBEHAVED_RO(<cnp.ndarray>array))


cdef bint same_shape(cnp.ndarray a, cnp.ndarray b):
    cdef int i
    for i in range(cnp.PyArray_NDIM(a)):
        if cnp.PyArray_DIM(a, i) != cnp.PyArray_DIM(b, i):
            return False
    return True


cdef bint overlap(cnp.ndarray a, cnp.ndarray b):
    """Whether the stretches of memory from first to last item have a byte in common."""
    cdef char *low[2]
    cdef char *high[2]
    cdef cnp.ndarray array
    cdef Py_ssize_t reach
    cdef int i, j
    for j in range(2):
        array = a if j == 0 else b
        low[j] = high[j] = cnp.PyArray_BYTES(array)
        for i in range(cnp.PyArray_NDIM(array)):
            if cnp.PyArray_DIM(array, i) == 0:
                return False
            reach = (cnp.PyArray_DIM(array, i) - 1) * cnp.PyArray_STRIDE(array, i)
            if reach < 0:
                low[j] += reach
            else:
                high[j] += reach
        high[j] += cnp.PyArray_ITEMSIZE(array)
    return low[0] < high[1] and low[1] < high[0]


cdef bint plain_layout(tuple layout, cnp.ndarray first, object out):
    """Whether offsets and mask, as they came, say where the steps of `first` stand, and nothing is to be looked up or made plain."""
    cdef Py_ssize_t b, size = cnp.PyArray_DIM(first, 0)
    cdef const int64_t *offsets
    cdef cnp.ndarray array
    if layout[1] is not None or type(out) is tuple:
        return False
    if layout[3] is not None:
        if not plain(layout[3], cnp.NPY_BOOL, cnp.PyArray_NDIM(first)) or not same_shape(<cnp.ndarray>layout[3], first):
            return False
        if out is not None and cnp.PyArray_Check(out) and overlap(<cnp.ndarray>layout[3], <cnp.ndarray>out):
            return False
    if layout[0] is not None:
        if cnp.PyArray_NDIM(first) != 1 or not plain(layout[0], cnp.NPY_INT64, 1):
            return False
        array = <cnp.ndarray>layout[0]
        if not cnp.PyArray_IS_C_CONTIGUOUS(array) or cnp.PyArray_DIM(array, 0) == 0:
            return False
        if out is not None and cnp.PyArray_Check(out) and overlap(array, <cnp.ndarray>out):
            return False
        offsets = <const int64_t *>cnp.PyArray_BYTES(array)
        if offsets[0] != 0 or offsets[cnp.PyArray_DIM(array, 0) - 1] != size:
            return False
        for b in range(cnp.PyArray_DIM(array, 0) - 1):
            if offsets[b + 1] < offsets[b]:
                return False
    return True


def run_time(str kernel, tuple args, int axis, object out, bint optional, bint checked, tuple layout=None):
    """Runs a TIME kernel on its parameters in order, the outputs left out; `out` is an array, of two outputs a tuple of them, or None.

    None where an argument is not plain, an int where that step (t * lanes + n) is cut and its next value missing. Parameters after the
    first may be None where `optional`. A SCALAR is a float in [0, 1], or, once `checked`, an array shaped like the first parameter; a
    NUMBER is a float from 0, a COUNT an int from 1. `layout`: offsets (contiguous int64), env_id (contiguous int32 or int64), envs, mask (bool,
    shaped like the first parameter) and the mode of the mask by number; each but the last may be None, and env_id is, unless `checked`.
    """
    cdef int k = INDEX[kernel], i, ndim, type_number, given = 0, filled = 0
    cdef Roles role = ROLES[k]
    cdef const fastpg_kernel *spec = fastpg_kernel_at(k)
    cdef fastpg_operand operands[FASTPG_MAX_PARAMETERS]
    cdef float floats[FASTPG_MAX_PARAMETERS]
    cdef double doubles[FASTPG_MAX_PARAMETERS]
    cdef int64_t counts[FASTPG_MAX_PARAMETERS]
    cdef fastpg_layout how
    cdef const fastpg_layout *chosen = NULL
    cdef Py_ssize_t steps, lanes, ends, refused
    cdef cnp.ndarray first, array, memory
    cdef object arg, made = None, made_too = None
    cdef double number
    cdef int t_axis, n_axis, short_ndim
    cdef fastpg_kind kind
    cdef fastpg_dtype dtype
    if not cnp.PyArray_CheckExact(args[0]):
        return None
    first = <cnp.ndarray>args[0]
    ndim, type_number = cnp.PyArray_NDIM(first), cnp.PyArray_TYPE(first)
    if ndim < 1 or ndim > 2 or (type_number != cnp.NPY_FLOAT32 and type_number != cnp.NPY_FLOAT64) or axis < 0 or axis >= ndim:
        return None
    dtype = FASTPG_F32 if type_number == cnp.NPY_FLOAT32 else FASTPG_F64
    t_axis, n_axis = axis, 1 - axis
    steps = cnp.PyArray_DIM(first, t_axis)
    lanes = ends = 1 if ndim == 1 else cnp.PyArray_DIM(first, n_axis)
    short_ndim = ndim - 1
    if layout is not None:
        if not checked and not plain_layout(layout, first, out):
            return None
        chosen = &how
        how.offsets = NULL
        how.env_id = NULL
        how.memory = how.mask.data = NULL
        how.mask_mode = <fastpg_mask_mode><int>layout[4]
        if layout[0] is not None:
            array = <cnp.ndarray>layout[0]
            how.offsets = <const int64_t *>cnp.PyArray_BYTES(array)
            short_ndim = 1
            how.sequences = ends = cnp.PyArray_DIM(array, 0) - 1
        if layout[1] is not None:
            array = <cnp.ndarray>layout[1]
            how.env_id, how.env_int32 = cnp.PyArray_BYTES(array), cnp.PyArray_ITEMSIZE(array) == 4
            how.envs = ends = layout[2]
            short_ndim = 1
            memory = np.empty(fastpg_env_bytes(dtype, how.envs), np.uint8)
            how.memory = cnp.PyArray_BYTES(memory)
        if layout[3] is not None:
            array = <cnp.ndarray>layout[3]
            how.mask.data, how.mask.stride0 = cnp.PyArray_BYTES(array), cnp.PyArray_STRIDE(array, t_axis)
            how.mask.stride1 = cnp.PyArray_STRIDE(array, n_axis) if ndim == 2 else 0
    for i in range(spec.n_parameters):
        kind = spec.parameters[i].kind
        operands[i].data = operands[i].last = NULL
        operands[i].stride0 = operands[i].stride1 = operands[i].last_stride = 0
        if kind == FASTPG_OUT:
            if out is None:
                array = <cnp.ndarray>PyArray_NewLikeArray(first, cnp.NPY_KEEPORDER, NULL, 0)
            else:
                arg = out
                if role.outputs > 1:
                    if type(out) is not tuple or len(<tuple>out) != role.outputs:
                        return None
                    arg = (<tuple>out)[filled]
                if not plain(arg, type_number, ndim) or not cnp.PyArray_ISWRITEABLE(<cnp.ndarray>arg) or not same_shape(<cnp.ndarray>arg, first):
                    return None
                array = <cnp.ndarray>arg
                if filled and overlap(array, <cnp.ndarray>made):
                    return None
                for arg in args:
                    if cnp.PyArray_Check(arg) and overlap(array, <cnp.ndarray>arg):
                        return None
            if filled:
                made_too = array
            else:
                made = array
            filled += 1
        else:
            arg = args[given]
            given += 1
            if kind == FASTPG_COUNT:
                if layout is not None and not checked:
                    return None
                if not PyLong_CheckExact(arg) or not 1 <= arg <= 0x7fffffffffffffff:
                    return None
                counts[i] = arg
                operands[i].data = <char *>&counts[i]
                continue
            if kind == FASTPG_SCALAR or kind == FASTPG_NUMBER:
                if PyFloat_CheckExact(arg):
                    number = PyFloat_AS_DOUBLE(arg)
                    if not number >= 0 or (kind == FASTPG_SCALAR and number > 1):
                        return None
                    floats[i], doubles[i] = <float>number, number
                    operands[i].data = <char *>&floats[i] if dtype == FASTPG_F32 else <char *>&doubles[i]
                    continue
                if not checked or not plain(arg, type_number, ndim):
                    return None
            elif arg is None:
                if i == 0 or not optional:
                    return None
                continue
            elif kind == FASTPG_FLAG:
                if not plain(arg, cnp.NPY_BOOL, ndim):
                    return None
            elif (i == role.next_value and plain(arg, type_number, short_ndim)
                  and (short_ndim != ndim or not same_shape(<cnp.ndarray>arg, first))):
                # V after the last step of each lane alone; V(s_{t+1}) is read off `value` elsewhere
                array = <cnp.ndarray>arg
                if cnp.PyArray_NDIM(array) == 1 and cnp.PyArray_DIM(array, 0) != ends:
                    return None
                if role.value < 0 and not checked:
                    return None
                operands[i].last = cnp.PyArray_BYTES(array)
                operands[i].last_stride = cnp.PyArray_STRIDE(array, 0) if cnp.PyArray_NDIM(array) == 1 else 0
                continue
            elif not plain(arg, type_number, ndim):
                return None
            array = <cnp.ndarray>arg
            if not same_shape(array, first):
                return None
        operands[i].data = cnp.PyArray_BYTES(array)
        operands[i].stride0 = cnp.PyArray_STRIDE(array, t_axis)
        operands[i].stride1 = cnp.PyArray_STRIDE(array, n_axis) if ndim == 2 else 0
    with nogil:
        refused = fastpg_run(k, dtype, operands, steps, lanes, chosen)
    if refused >= 0:
        return refused if checked else None
    return made if made_too is None else (made, made_too)


def run_rows(str kernel, tuple args, object out):
    """Runs a ROW kernel on its parameters in order, the outputs left out; None where an argument is not plain, an int where that row is refused.

    `out` may be given, of several outputs a tuple of as many; without it, new arrays are the answer.
    """
    cdef int k = INDEX[kernel], i, type_number, wanted, given = 0, filled = 0
    cdef const fastpg_kernel *spec = fastpg_kernel_at(k)
    cdef fastpg_operand operands[FASTPG_MAX_PARAMETERS]
    cdef Py_ssize_t rows, actions, bad
    cdef cnp.npy_intp shape[1]
    cdef cnp.npy_intp row[1]
    cdef bint shared[FASTPG_MAX_PARAMETERS]
    cdef bint summed
    cdef cnp.ndarray first, array
    cdef object arg, other, made = None
    cdef tuple outs = None if out is None else out if type(out) is tuple else (out,)
    cdef fastpg_kind kind
    if not cnp.PyArray_CheckExact(args[0]):
        return None
    first = <cnp.ndarray>args[0]
    type_number = cnp.PyArray_TYPE(first)
    if type_number != cnp.NPY_FLOAT32 and type_number != cnp.NPY_FLOAT64 or not plain(first, type_number, 2):
        return None
    rows, actions = cnp.PyArray_DIM(first, 0), cnp.PyArray_DIM(first, 1)
    if actions == 0:
        return None
    shape[0], row[0] = rows, actions
    for i in range(spec.n_parameters):
        kind = spec.parameters[i].kind
        operands[i].data = operands[i].last = NULL
        operands[i].stride0 = operands[i].stride1 = operands[i].last_stride = 0
        wanted, shared[i] = type_number, False
        if kind == FASTPG_INDEX or kind == FASTPG_OUT_INDEX:
            wanted = cnp.NPY_INT64
        elif kind == FASTPG_FLAG:
            wanted = cnp.NPY_BOOL
        if kind == FASTPG_OUT or kind == FASTPG_OUT_INDEX:
            summed = spec.parameters[i].shared and shared[SOURCE[k][i]]
            if outs is None:
                if spec.parameters[i].per_row:
                    arg = cnp.PyArray_EMPTY(1, shape, wanted, 0)
                elif summed:
                    arg = cnp.PyArray_ZEROS(1, row, wanted, 0)
                else:
                    arg = PyArray_NewLikeArray(first, cnp.NPY_KEEPORDER, NULL, 0)
            else:
                arg = outs[filled] if filled < len(outs) else None
                if not plain(arg, wanted, 1 if spec.parameters[i].per_row or summed else 2) or not cnp.PyArray_ISWRITEABLE(<cnp.ndarray>arg):
                    return None
                for other in args + outs[:filled]:
                    if cnp.PyArray_Check(other) and overlap(<cnp.ndarray>arg, <cnp.ndarray>other):
                        return None
                if summed or cnp.PyArray_STRIDE(<cnp.ndarray>arg, 0) == 0:  # added to; one row with a new axis has stride 0, too
                    cnp.PyArray_FillWithScalar(<cnp.ndarray>arg, 0)
            shared[i] = summed
            made = arg if filled == 0 else (made, arg) if filled == 1 else (*made, arg)
            filled += 1
        else:
            arg = args[given]
            given += 1
        if arg is None and kind == FASTPG_FLAG and spec.parameters[i].shared:
            continue
        if spec.parameters[i].shared and plain(arg, wanted, 1):  # legal (A,), log_std (A,): the same for every row
            array = <cnp.ndarray>arg
            if cnp.PyArray_DIM(array, 0) != actions:
                return None
            operands[i].data, operands[i].stride1 = cnp.PyArray_BYTES(array), cnp.PyArray_STRIDE(array, 0)
            shared[i] = True
            continue
        if not plain(arg, wanted, 1 if spec.parameters[i].per_row else 2):
            return None
        array = <cnp.ndarray>arg
        if cnp.PyArray_DIM(array, 0) != rows or (not spec.parameters[i].per_row and cnp.PyArray_DIM(array, 1) != actions):
            return None
        operands[i].data, operands[i].stride0 = cnp.PyArray_BYTES(array), cnp.PyArray_STRIDE(array, 0)
        if not spec.parameters[i].per_row:
            operands[i].stride1 = cnp.PyArray_STRIDE(array, 1)
    with nogil:
        bad = fastpg_run(k, FASTPG_F32 if type_number == cnp.NPY_FLOAT32 else FASTPG_F64, operands, rows, actions, NULL)
    return made if bad < 0 else bad


# --- groups

cdef extern from "group.h" nogil:
    Py_ssize_t fastpg_number_keys(const char *keys, Py_ssize_t count, Py_ssize_t bytes, int64_t *table, Py_ssize_t places, int64_t *number)


def number_keys(cnp.ndarray keys):
    """The number of each key, from 0 in the order of first sight, and how many there are. keys: one dimension, items of fixed width."""
    cdef Py_ssize_t count = cnp.PyArray_DIM(keys, 0), bytes_ = cnp.PyArray_ITEMSIZE(keys), places = 1, known
    cdef cnp.ndarray dense = np.ascontiguousarray(keys), number = np.empty(count, np.int64), table
    while places <= 2 * count:
        places *= 2
    table = np.empty(places, np.int64)
    cdef char *data = cnp.PyArray_BYTES(dense)
    cdef int64_t *room = <int64_t *>cnp.PyArray_DATA(table)
    cdef int64_t *to = <int64_t *>cnp.PyArray_DATA(number)
    with nogil:
        known = fastpg_number_keys(data, count, bytes_, room, places, to)
    return number, known


# --- objectives over tokens

cdef extern from "objective.h" nogil:
    ctypedef struct fastpg_kl_options:
        int kind, gradient, zero
        double coef, bound, clip
    ctypedef struct fastpg_objective:
        int loss, by_sequence, by_length, mean_of_sequence
        double denominator
        int count_sequences
        double bound, clip_low, clip_high, dual_clip, delta, beta, tau_pos, tau_neg, ratio_cap, eps, k_pos, lambda_pos, k_neg, lambda_neg
        fastpg_kl_options kl
    ctypedef struct fastpg_tokens:
        const void *log_prob
        const void *old
        const void *advantage
        const void *weight
        const void *ref
        const char *mask
        const char *chosen
        void *grad
        const int64_t *offsets
        Py_ssize_t sequences, length
        int advantage_by_sequence, weight_by_sequence
    ctypedef struct fastpg_sums:
        double loss, tokens, sequences, k1, k2, k3, low, high, dual, killed, ratio, ratio_squared
    fastpg_sums fastpg_policy_loss(fastpg_dtype dtype, const fastpg_objective *objective, const fastpg_tokens *tokens)
    void fastpg_kl_estimate(fastpg_dtype dtype, const fastpg_kl_options *kl, double bound, const fastpg_tokens *tokens, void *value)
    const char *fastpg_loss_name(int loss)

cdef dict LOSSES = {}
while fastpg_loss_name(<int>len(LOSSES)) != NULL:
    LOSSES[fastpg_loss_name(<int>len(LOSSES)).decode()] = len(LOSSES)


cdef void *data_of(object array):
    """Of a dense array that `objectives` has made so; NULL for None."""
    return NULL if array is None else cnp.PyArray_DATA(<cnp.ndarray>array)


cdef fastpg_tokens tokens_of(tuple arrays, cnp.ndarray grad, object offsets, Py_ssize_t length):
    cdef fastpg_tokens t
    t.log_prob, t.old, t.advantage, t.weight, t.ref = (
        data_of(arrays[0]), data_of(arrays[1]), data_of(arrays[2]), data_of(arrays[3]), data_of(arrays[4]))
    t.mask, t.chosen, t.grad = <const char *>data_of(arrays[5]), <const char *>data_of(arrays[6]), data_of(grad)
    t.offsets = <const int64_t *>data_of(offsets)
    t.length = length
    t.sequences = len(offsets) - 1 if offsets is not None else grad.size // length if length else 0
    t.advantage_by_sequence = arrays[2] is not None and arrays[2].size != grad.size
    t.weight_by_sequence = arrays[3] is not None and arrays[3].size != grad.size
    return t


def policy_loss(str loss, dict options, tuple kl, tuple arrays, cnp.ndarray grad, object offsets, Py_ssize_t length):
    """Writes grad and returns the sums of csrc/objective.h as a dict. arrays: log_prob, old, advantage, weight, ref, mask, chosen, each
    dense, of the dtype of grad or bool, or None. kl: kind, gradient, zero, coef, bound, clip."""
    cdef fastpg_objective q
    cdef fastpg_tokens t = tokens_of(arrays, grad, offsets, length)
    cdef fastpg_sums sums
    cdef fastpg_dtype dtype = FASTPG_F32 if cnp.PyArray_TYPE(grad) == cnp.NPY_FLOAT32 else FASTPG_F64
    q.loss = LOSSES[loss]
    q.by_sequence, q.by_length, q.mean_of_sequence = options["by_sequence"], options["by_length"], options["mean_of_sequence"]
    q.denominator, q.count_sequences, q.bound = options["denominator"], options["count_sequences"], options["bound"]
    q.clip_low, q.clip_high, q.dual_clip, q.delta = options["clip_low"], options["clip_high"], options["dual_clip"], options["delta"]
    q.beta, q.tau_pos, q.tau_neg, q.ratio_cap = options["beta"], options["tau_pos"], options["tau_neg"], options["ratio_cap"]
    q.eps, q.k_pos, q.lambda_pos = options["eps"], options["k_pos"], options["lambda_pos"]
    q.k_neg, q.lambda_neg = options["k_neg"], options["lambda_neg"]
    q.kl = fastpg_kl_options(kl[0], kl[1], kl[2], kl[3], kl[4], kl[5])
    with nogil:
        sums = fastpg_policy_loss(dtype, &q, &t)
    return sums


def kl_estimate(tuple kl, double bound, tuple arrays, cnp.ndarray value, cnp.ndarray grad):
    """Fills value and grad from dense arrays log_prob, old, ref, mask of their dtype, or bool, or None."""
    cdef fastpg_kl_options q = fastpg_kl_options(kl[0], kl[1], kl[2], kl[3], kl[4], kl[5])
    cdef fastpg_tokens t = tokens_of((arrays[0], arrays[1], None, None, arrays[2], arrays[3], None), grad, None, grad.size)
    cdef void *to = data_of(value)
    cdef fastpg_dtype dtype = FASTPG_F32 if cnp.PyArray_TYPE(grad) == cnp.NPY_FLOAT32 else FASTPG_F64
    with nogil:
        fastpg_kl_estimate(dtype, &q, bound, &t, to)


# --- statistics of arrays: contiguous, of equal sizes, of one dtype, masks bool; `_moments` sees to that

cdef extern from "statistic.h" nogil:
    void fastpg_moments(fastpg_dtype dtype, const void *x, const unsigned char *mask, const void *weight, Py_ssize_t n, double *state)
    void fastpg_whiten(fastpg_dtype dtype, const void *x, const unsigned char *mask, Py_ssize_t n, double mean, double factor, int divide,
                       void *out)


cdef fastpg_dtype dtype_of(cnp.ndarray x):
    return FASTPG_F32 if cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT32 else FASTPG_F64


def moments(cnp.ndarray x not None, object mask, object weight, tuple state):
    """count, mean and m2 of x merged into those in state."""
    cdef fastpg_dtype dtype = dtype_of(x)
    cdef Py_ssize_t n = cnp.PyArray_SIZE(x)
    cdef double carried[3]
    cdef void *m = data_of(mask)
    cdef void *w = data_of(weight)
    carried[0], carried[1], carried[2] = state
    with nogil:
        fastpg_moments(dtype, cnp.PyArray_DATA(x), <unsigned char *>m, w, n, carried)
    return carried[0], carried[1], carried[2]


def row_moments(cnp.ndarray x not None, object mask, object weight, Py_ssize_t rows, cnp.ndarray out not None):
    """count, mean and m2 of each row of x, one after the other in memory, into out, float64 (rows, 3)."""
    cdef fastpg_dtype dtype = dtype_of(x)
    cdef Py_ssize_t n = cnp.PyArray_SIZE(x) // rows, size = n * cnp.PyArray_ITEMSIZE(x), i
    cdef char *data = cnp.PyArray_BYTES(x)
    cdef char *m = <char *>data_of(mask)
    cdef char *w = <char *>data_of(weight)
    cdef double *state = <double *>cnp.PyArray_DATA(out)
    with nogil:
        for i in range(rows):
            state[3 * i] = state[3 * i + 1] = state[3 * i + 2] = 0
            fastpg_moments(
                dtype, data + i * size, <unsigned char *>(m + i * n if m else NULL), w + i * size if w else NULL, n, state + 3 * i
            )


def whiten(cnp.ndarray x not None, object mask, cnp.ndarray mean not None, cnp.ndarray by not None, bint divide,
           cnp.ndarray out not None):
    """(x - mean) * by, or / by, into out, 0 where masked; mean and by hold one float64 a row, rows one after the other in memory."""
    cdef fastpg_dtype dtype = dtype_of(x)
    cdef Py_ssize_t rows = cnp.PyArray_SIZE(mean), n = cnp.PyArray_SIZE(x) // max(rows, 1), size = n * cnp.PyArray_ITEMSIZE(x), i
    cdef char *data = cnp.PyArray_BYTES(x)
    cdef char *to = cnp.PyArray_BYTES(out)
    cdef char *m = <char *>data_of(mask)
    cdef double *means = <double *>cnp.PyArray_DATA(mean)
    cdef double *bys = <double *>cnp.PyArray_DATA(by)
    with nogil:
        for i in range(rows):
            fastpg_whiten(
                dtype, data + i * size, <unsigned char *>(m + i * n if m else NULL), n, means[i], bys[i], divide, to + i * size
            )


# --- nets: x, y and gradients dense and of one dtype, buffers by net_sizes and aligned to 64 bytes; `nets` sees to that

cdef extern from "net.h" nogil:
    enum:
        FASTPG_NET_WIDEST, FASTPG_NET_MOST_LAYERS
    Py_ssize_t fastpg_net_packed(fastpg_dtype dtype, const int64_t *shape)
    Py_ssize_t fastpg_net_hidden(fastpg_dtype dtype, const int64_t *shape, Py_ssize_t rows)
    Py_ssize_t fastpg_net_room(fastpg_dtype dtype, const int64_t *shape, Py_ssize_t rows)
    void fastpg_net_pack(fastpg_dtype dtype, const int64_t *shape, const void *parameter, void *packed)
    void fastpg_net_forward(fastpg_dtype dtype, const int64_t *shape, const void *packed, const void *x, Py_ssize_t rows, void *hidden, void *y)
    void fastpg_net_backward(fastpg_dtype dtype, const int64_t *shape, void *packed, const void *x, Py_ssize_t rows, const void *hidden,
                             const void *grad_y, void *room, void *grad, void *grad_x)
    void fastpg_net_forward_f32(const int64_t *shape, const float *packed, const float *x, Py_ssize_t rows, float *y)
    void fastpg_adam(fastpg_dtype dtype, Py_ssize_t n, const void *grad, double scale, double beta1, double beta2, double eps, double rate,
                     double correction, void *m, void *v, void *parameter)
    enum:
        FASTPG_PPO_ACTIONS
    ctypedef struct fastpg_ppo_net:
        const int64_t *shape
        void *packed
        void *x
        void *hidden
        void *y
        void *grad_y
        void *room
        void *grad
        void *parameter
        void *m
        void *v
        Py_ssize_t items
        double lr, beta1, beta2, eps
        int64_t steps
    ctypedef struct fastpg_ppo:
        fastpg_ppo_net policy, value
        Py_ssize_t rows, minibatch, actions
        const int64_t *index
        const void *observation
        const void *action
        const void *log_prob
        const void *advantage
        const void *target
        int gaussian
        double clip, entropy_weight, max_norm, target_kl
    ctypedef struct fastpg_ppo_means:
        double policy_loss, value_loss, kl, clipped
        double norm[2]
        double entropy
    ctypedef struct fastpg_ppo_result:
        fastpg_ppo_means total, last
        int64_t steps
    fastpg_ppo_result fastpg_ppo_epoch(fastpg_dtype dtype, const fastpg_ppo *)

PPO_ACTIONS = FASTPG_PPO_ACTIONS
NET_WIDEST, NET_MOST_LAYERS = FASTPG_NET_WIDEST, FASTPG_NET_MOST_LAYERS
NET_FORWARD = <uintptr_t>&fastpg_net_forward_f32


def net_sizes(cnp.ndarray shape not None, cnp.ndarray parameter not None, Py_ssize_t rows):
    """Items of packed, hidden and room."""
    cdef fastpg_dtype dtype = dtype_of(parameter)
    cdef const int64_t *of = <const int64_t *>cnp.PyArray_DATA(shape)
    return fastpg_net_packed(dtype, of), fastpg_net_hidden(dtype, of, rows), fastpg_net_room(dtype, of, rows)


def net_pack(cnp.ndarray shape not None, cnp.ndarray parameter not None, cnp.ndarray packed not None):
    """parameter as forward wants it, and backward after that."""
    fastpg_net_pack(dtype_of(parameter), <const int64_t *>cnp.PyArray_DATA(shape), cnp.PyArray_DATA(parameter), cnp.PyArray_DATA(packed))


def net_forward(cnp.ndarray shape not None, cnp.ndarray packed not None, cnp.ndarray x not None, cnp.ndarray hidden not None,
                cnp.ndarray y not None):
    """y of x, and the activations."""
    cdef fastpg_dtype dtype = dtype_of(x)
    with nogil:
        fastpg_net_forward(dtype, <const int64_t *>cnp.PyArray_DATA(shape), cnp.PyArray_DATA(packed), cnp.PyArray_DATA(x),
                           cnp.PyArray_DIM(x, 0), cnp.PyArray_DATA(hidden), cnp.PyArray_DATA(y))


def net_backward(cnp.ndarray shape not None, cnp.ndarray packed not None, cnp.ndarray x not None, cnp.ndarray hidden not None,
                 cnp.ndarray grad_y not None, cnp.ndarray room not None, cnp.ndarray grad not None, object grad_x):
    """The gradient of all but extra, and grad_x unless None."""
    cdef fastpg_dtype dtype = dtype_of(x)
    cdef void *to = data_of(grad_x)
    with nogil:
        fastpg_net_backward(dtype, <const int64_t *>cnp.PyArray_DATA(shape), cnp.PyArray_DATA(packed), cnp.PyArray_DATA(x),
                            cnp.PyArray_DIM(x, 0), cnp.PyArray_DATA(hidden), cnp.PyArray_DATA(grad_y), cnp.PyArray_DATA(room),
                            cnp.PyArray_DATA(grad), to)


cdef fastpg_ppo_net ppo_net_of(tuple arrays, tuple adam):
    cdef fastpg_ppo_net net
    net.shape = <const int64_t *>data_of(arrays[0])
    net.packed, net.x, net.hidden, net.y = data_of(arrays[1]), data_of(arrays[2]), data_of(arrays[3]), data_of(arrays[4])
    net.grad_y, net.room, net.grad = data_of(arrays[5]), data_of(arrays[6]), data_of(arrays[7])
    net.parameter, net.m, net.v = data_of(arrays[8]), data_of(arrays[9]), data_of(arrays[10])
    net.items = cnp.PyArray_SIZE(arrays[8])
    net.lr, net.beta1, net.beta2, net.eps, net.steps = adam
    return net


cdef tuple means_of(fastpg_ppo_means *m):
    return m.policy_loss, m.value_loss, m.kl, m.clipped, m.norm[0], m.norm[1], m.entropy


def ppo_epoch(tuple policy, tuple value, tuple policy_adam, tuple value_adam, Py_ssize_t minibatch, cnp.ndarray index not None,
              cnp.ndarray observation not None, cnp.ndarray action not None, cnp.ndarray log_prob not None,
              cnp.ndarray advantage not None, cnp.ndarray target not None, bint gaussian, double clip, double entropy_weight,
              double max_norm, double target_kl):
    """Both nets after an epoch, as net.h has it; (total, last, steps), the first two (policy_loss, value_loss, kl, clipped,
    length of the policy's gradient, of the value's, entropy). policy, value: the arrays of fastpg_ppo_net in order; adam: lr, betas, eps, steps."""
    cdef fastpg_dtype dtype = dtype_of(observation)
    cdef fastpg_ppo p
    cdef fastpg_ppo_result result
    p.policy, p.value = ppo_net_of(policy, policy_adam), ppo_net_of(value, value_adam)
    p.rows, p.minibatch, p.actions = cnp.PyArray_DIM(index, 0), minibatch, cnp.PyArray_DIM(<cnp.ndarray?>policy[4], 1)
    p.index = <const int64_t *>cnp.PyArray_DATA(index)
    p.observation, p.action, p.log_prob = cnp.PyArray_DATA(observation), cnp.PyArray_DATA(action), cnp.PyArray_DATA(log_prob)
    p.advantage, p.target = cnp.PyArray_DATA(advantage), cnp.PyArray_DATA(target)
    p.gaussian, p.clip, p.entropy_weight, p.max_norm, p.target_kl = gaussian, clip, entropy_weight, max_norm, target_kl
    with nogil:
        result = fastpg_ppo_epoch(dtype, &p)
    return means_of(&result.total), means_of(&result.last), result.steps


def adam(cnp.ndarray grad not None, double scale, double beta1, double beta2, double eps, double rate, double correction,
         cnp.ndarray m not None, cnp.ndarray v not None, cnp.ndarray parameter not None):
    """A step of Adam along scale * grad, in place."""
    cdef fastpg_dtype dtype = dtype_of(grad)
    cdef Py_ssize_t n = cnp.PyArray_SIZE(grad)
    with nogil:
        fastpg_adam(dtype, n, cnp.PyArray_DATA(grad), scale, beta1, beta2, eps, rate, correction, cnp.PyArray_DATA(m), cnp.PyArray_DATA(v),
                    cnp.PyArray_DATA(parameter))


if os.environ.get("FASTPG_ISA"):
    try:
        use_isa(os.environ["FASTPG_ISA"])
    except ValueError as error:
        raise ImportError(f"FASTPG_ISA: {error}") from None
else:
    use_isa(None)

for _variable in ("FASTPG_NUM_THREADS", "OMP_NUM_THREADS"):
    if os.environ.get(_variable, "").isdecimal():
        fastpg_set_threads(min(int(os.environ[_variable]), 64))
        break
else:
    fastpg_set_threads(min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 64))
