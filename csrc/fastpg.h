/* What the rest of the world may call. No Python, no allocation, no validation: the caller has checked. */
#ifndef FASTPG_H
#define FASTPG_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define FASTPG_API __declspec(dllexport)
#else
#define FASTPG_API __attribute__((visibility("default")))
#endif

enum { FASTPG_MAX_PARAMETERS = 12 };

typedef enum { FASTPG_IN, FASTPG_FLAG, FASTPG_SCALAR, FASTPG_INDEX, FASTPG_OUT, FASTPG_OUT_INDEX } fastpg_kind;
typedef enum { FASTPG_F32, FASTPG_F64, FASTPG_DTYPES } fastpg_dtype;
typedef enum { FASTPG_TIME, FASTPG_ROW } fastpg_family;

/* One array as a kernel sees it. Axis 0 is time (or rows), axis 1 lanes (or actions); strides in bytes, any sign, 0 to repeat.
 * data NULL: not given. last: where axis 0 ends, items are read from here instead (the bootstrap row), or NULL. */
typedef struct {
    char *data;
    ptrdiff_t stride0, stride1;
    char *last;
    ptrdiff_t last_stride;
} fastpg_operand;

typedef struct {
    const char *name;
    fastpg_kind kind;
    int per_row; /* one item a row rather than one a row and action */
} fastpg_parameter;

typedef struct {
    const char *name;
    fastpg_family family;
    int n_parameters;
    fastpg_parameter parameters[FASTPG_MAX_PARAMETERS];
} fastpg_kernel;

FASTPG_API int fastpg_kernel_count(void);
FASTPG_API const fastpg_kernel *fastpg_kernel_at(int kernel);

/* Runs a kernel over size0 x size1 items. Returns -1, or the first row that cannot be answered (no legal action, action out of range). */
FASTPG_API ptrdiff_t fastpg_run(int kernel, fastpg_dtype dtype, const fastpg_operand *operands, ptrdiff_t size0, ptrdiff_t size1);

/* Most threads a call may use; large calls alone use more than one. Results do not depend on it. */
FASTPG_API int fastpg_threads(void);
FASTPG_API void fastpg_set_threads(int threads);

/* First item, counted along axis 0 and then axis 1, that is truncated, not terminated and not in the last row; or -1. */
FASTPG_API ptrdiff_t fastpg_first_cut(fastpg_operand terminated, fastpg_operand truncated, ptrdiff_t size0, ptrdiff_t size1);

/* Instruction sets: names from slowest to fastest, which this machine runs, and the one in use. NULL picks the fastest. */
FASTPG_API int fastpg_isa_count(void);
FASTPG_API const char *fastpg_isa_name(int isa);
FASTPG_API int fastpg_isa_runs_here(int isa);
FASTPG_API int fastpg_isa_current(void);
FASTPG_API int fastpg_isa_use(const char *name); /* 0, or -1 where the name is unknown or this machine cannot run it */

/* The same kernels over dense C-order arrays, one symbol a kernel and dtype, for compilers that call by name:
 * ptrdiff_t fastpg_gae_f32(const float *reward, ..., float gamma_value, const float *gamma, ..., float *advantage, ptrdiff_t steps, ptrdiff_t lanes) */
typedef void (*fastpg_function)(void);
FASTPG_API const char *fastpg_symbol(int kernel, fastpg_dtype dtype);
FASTPG_API fastpg_function fastpg_address(int kernel, fastpg_dtype dtype);

#endif
