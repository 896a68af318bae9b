# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
"""From arrays to pointers for csrc/statistics.c. Nothing is checked: arrays are contiguous, of equal sizes, of one dtype, masks bool."""
cimport numpy as cnp

cnp.import_array()

cdef extern from "statistics_api.h" nogil:
    void fastpg_moments(
        const char *isa, int is_float, const void *x, const unsigned char *mask, const void *weight, Py_ssize_t n, double *state
    )
    void fastpg_whiten(
        const char *isa, int is_float, const void *x, const unsigned char *mask, Py_ssize_t n, double mean, double factor, int divide,
        void *out
    )


cdef inline char *data_of(object array):
    return NULL if array is None else cnp.PyArray_BYTES(<cnp.ndarray>array)


def moments(str isa, cnp.ndarray x not None, object mask, object weight, tuple state):
    """count, mean and m2 of x merged into those in state."""
    cdef bytes name = isa.encode()
    cdef const char *set = name
    cdef int is_float = cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT32
    cdef Py_ssize_t n = cnp.PyArray_SIZE(x)
    cdef double carried[3]
    cdef char *m = data_of(mask)
    cdef char *w = data_of(weight)
    carried[0], carried[1], carried[2] = state
    with nogil:
        fastpg_moments(set, is_float, cnp.PyArray_DATA(x), <unsigned char *>m, w, n, carried)
    return carried[0], carried[1], carried[2]


def row_moments(str isa, cnp.ndarray x not None, object mask, object weight, Py_ssize_t rows, cnp.ndarray out not None):
    """count, mean and m2 of each row of x, one after the other in memory, into out, float64 (rows, 3)."""
    cdef bytes name = isa.encode()
    cdef const char *set = name
    cdef int is_float = cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT32
    cdef Py_ssize_t n = cnp.PyArray_SIZE(x) // rows, size = n * (4 if is_float else 8), i
    cdef char *data = cnp.PyArray_BYTES(x)
    cdef char *m = data_of(mask)
    cdef char *w = data_of(weight)
    cdef double *state = <double *>cnp.PyArray_DATA(out)
    with nogil:
        for i in range(rows):
            state[3 * i] = state[3 * i + 1] = state[3 * i + 2] = 0
            fastpg_moments(
                set, is_float, data + i * size, <unsigned char *>(m + i * n if m else NULL), w + i * size if w else NULL, n, state + 3 * i
            )


def whiten(str isa, cnp.ndarray x not None, object mask, cnp.ndarray mean not None, cnp.ndarray by not None, bint divide,
           cnp.ndarray out not None):
    """(x - mean) * by, or / by, into out, 0 where masked; mean and by hold one float64 a row, rows one after the other in memory."""
    cdef bytes name = isa.encode()
    cdef const char *set = name
    cdef int is_float = cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT32
    cdef Py_ssize_t rows = cnp.PyArray_SIZE(mean), n = cnp.PyArray_SIZE(x) // max(rows, 1), size = n * (4 if is_float else 8), i
    cdef char *data = cnp.PyArray_BYTES(x)
    cdef char *to = cnp.PyArray_BYTES(out)
    cdef char *m = data_of(mask)
    cdef double *means = <double *>cnp.PyArray_DATA(mean)
    cdef double *bys = <double *>cnp.PyArray_DATA(by)
    with nogil:
        for i in range(rows):
            fastpg_whiten(
                set, is_float, data + i * size, <unsigned char *>(m + i * n if m else NULL), n, means[i], bys[i], divide, to + i * size
            )
