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


def whiten(str isa, cnp.ndarray x not None, object mask, double mean, double factor, bint divide, cnp.ndarray out not None):
    """(x - mean) * factor, or / factor, into out, 0 where masked."""
    cdef bytes name = isa.encode()
    cdef const char *set = name
    cdef int is_float = cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT32
    cdef Py_ssize_t n = cnp.PyArray_SIZE(x)
    cdef char *m = data_of(mask)
    with nogil:
        fastpg_whiten(set, is_float, cnp.PyArray_DATA(x), <unsigned char *>m, n, mean, factor, divide, cnp.PyArray_DATA(out))
