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

enum { FASTPG_MAX_PARAMETERS = 16 };

typedef enum { FASTPG_IN, FASTPG_EXP, FASTPG_FLAG, FASTPG_SCALAR, FASTPG_NUMBER, FASTPG_COUNT, FASTPG_INDEX, FASTPG_OUT, FASTPG_OUT_INDEX } fastpg_kind;
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
    int shared;  /* of a ROW kernel: rows may share it. An input has stride0 0 then, an output too, and the sum over the rows is added to that */
} fastpg_parameter;

typedef struct {
    const char *name;
    fastpg_family family;
    int n_parameters;
    fastpg_parameter parameters[FASTPG_MAX_PARAMETERS];
} fastpg_kernel;

FASTPG_API int fastpg_kernel_count(void);
FASTPG_API const fastpg_kernel *fastpg_kernel_at(int kernel);

typedef enum { FASTPG_SKIP, FASTPG_ZERO, FASTPG_RESET } fastpg_mask_mode;

/* How the steps of a TIME kernel stand where two axes do not say it. At most one of offsets and env_id, and then size1 is 1. */
typedef struct {
    const int64_t *offsets; /* packed: sequence b is steps offsets[b] to offsets[b + 1]; from 0 to size0, never falling. NULL: not packed */
    ptrdiff_t sequences;
    const void *env_id; /* interleaved: the lane of each step, int64 in [0, envs). NULL: not interleaved */
    int env_int32;      /* whether they are int32 instead */
    ptrdiff_t envs;
    void *memory;        /* interleaved: room for fastpg_env_bytes(dtype, envs), whatever it holds */
    fastpg_operand mask; /* bool, as a FLAG: which steps count. data NULL: all */
    fastpg_mask_mode mask_mode;
} fastpg_layout;

FASTPG_API size_t fastpg_env_bytes(fastpg_dtype dtype, ptrdiff_t envs);

/* Runs a kernel over size0 x size1 items; layout may be NULL. Returns -1, or the first row that cannot be answered: no legal action, an action
 * out of range; for a TIME kernel step t of lane n, as t * size1 + n, that is cut while its next value is missing (outputs are then void). */
FASTPG_API ptrdiff_t fastpg_run(int kernel, fastpg_dtype dtype, const fastpg_operand *operands, ptrdiff_t size0, ptrdiff_t size1,
                                const fastpg_layout *layout);

/* Most threads a call may use; large calls alone use more than one. Results do not depend on it. */
FASTPG_API int fastpg_threads(void);
FASTPG_API void fastpg_set_threads(int threads);

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
