/* One symbol a kernel and dtype, over dense C-order arrays. Included once a dtype with REAL, DTYPE and DTYPE_ID set.
 * A parameter list is read twice, as declarations and as operands, so IN(x) here becomes the pair (IN, x), and each reading walks the pairs. */
#define IN(x) (IN, x)
#define EXP(x) (IN, x)
#define FLAG(x) (FLAG, x)
#define SCALAR(x) (SCALAR, x)
#define NUMBER(x) (NUMBER, x)
#define COUNT(x) (COUNT, x)
#define OUT(x) (OUT, x)
#define BIT(x) (FLAG, x)
#define SHARED_IN(x) (IN, x)
#define SHARED_OUT(x) (OUT, x)
#define ROW_IN(x) (ROW_IN, x)
#define ROW_INDEX(x) (ROW_INDEX, x)
#define ROW_OUT(x) (ROW_OUT, x)
#define ROW_OUT_INDEX(x) (ROW_OUT_INDEX, x)

#define PASTE_END(...) __VA_ARGS__##_END
#define END(...) PASTE_END(__VA_ARGS__)

#define DECLARE(pairs) END(DECLARE_ODD pairs)
#define DECLARE_ODD(kind, x) DECLARE_##kind(x) DECLARE_EVEN
#define DECLARE_EVEN(kind, x) DECLARE_##kind(x) DECLARE_ODD
#define DECLARE_ODD_END
#define DECLARE_EVEN_END
#define DECLARE_IN(x) const REAL *x,
#define DECLARE_FLAG(x) const uint8_t *x,
#define DECLARE_SCALAR(x) REAL x##_value, const REAL *x,
#define DECLARE_NUMBER(x) REAL x,
#define DECLARE_COUNT(x) int64_t x,
#define DECLARE_OUT(x) REAL *x,
#define DECLARE_ROW_IN(x) const REAL *x,
#define DECLARE_ROW_INDEX(x) const int64_t *x,
#define DECLARE_ROW_OUT(x) REAL *x,
#define DECLARE_ROW_OUT_INDEX(x) int64_t *x,

#define OPERANDS(pairs) END(OPERANDS_ODD pairs)
#define OPERANDS_ODD(kind, x) OPERAND_##kind(x) OPERANDS_EVEN
#define OPERANDS_EVEN(kind, x) OPERAND_##kind(x) OPERANDS_ODD
#define OPERANDS_ODD_END
#define OPERANDS_EVEN_END
#define DENSE(x) {(char *)(uintptr_t)(x), size1 * (ptrdiff_t)sizeof *(x), (ptrdiff_t)sizeof *(x), NULL, 0},
#define DENSE_ROW(x) {(char *)(uintptr_t)(x), (ptrdiff_t)sizeof *(x), 0, NULL, 0},
#define OPERAND_IN(x) DENSE(x)
#define OPERAND_FLAG(x) DENSE(x)
#define OPERAND_SCALAR(x)                                                                                                                            \
    {(char *)(uintptr_t)(x ? x : &x##_value), x ? size1 * (ptrdiff_t)sizeof *x : 0, x ? (ptrdiff_t)sizeof *x : 0, NULL, 0},
#define OPERAND_NUMBER(x) {(char *)(uintptr_t)&x, 0, 0, NULL, 0},
#define OPERAND_COUNT(x) {(char *)(uintptr_t)&x, 0, 0, NULL, 0},
#define OPERAND_OUT(x) DENSE(x)
#define OPERAND_ROW_IN(x) DENSE_ROW(x)
#define OPERAND_ROW_INDEX(x) DENSE_ROW(x)
#define OPERAND_ROW_OUT(x) DENSE_ROW(x)
#define OPERAND_ROW_OUT_INDEX(x) DENSE_ROW(x)

#define FLAT_(name, dtype, pairs)                                                                                                                    \
    FASTPG_API ptrdiff_t fastpg_##name##_##dtype(DECLARE(pairs) ptrdiff_t size0, ptrdiff_t size1);                                                   \
    ptrdiff_t fastpg_##name##_##dtype(DECLARE(pairs) ptrdiff_t size0, ptrdiff_t size1)                                                               \
    {                                                                                                                                                \
        const fastpg_operand operands[] = {OPERANDS(pairs)};                                                                                         \
        return fastpg_run(KERNEL_##name, DTYPE_ID, operands, size0, size1, NULL);                                                                          \
    }
#define FLAT(name, dtype, pairs) FLAT_(name, dtype, pairs)
#define TIME(name, parameters) FLAT(name, DTYPE, parameters)
#define ROW(name, parameters) FLAT(name, DTYPE, parameters)
#include "kernels.def"

#undef TIME
#undef ROW
#undef FLAT
#undef FLAT_
#undef OPERAND_ROW_OUT_INDEX
#undef OPERAND_ROW_OUT
#undef OPERAND_ROW_INDEX
#undef OPERAND_ROW_IN
#undef OPERAND_OUT
#undef OPERAND_NUMBER
#undef OPERAND_COUNT
#undef OPERAND_SCALAR
#undef OPERAND_FLAG
#undef OPERAND_IN
#undef DENSE_ROW
#undef DENSE
#undef OPERANDS_EVEN_END
#undef OPERANDS_ODD_END
#undef OPERANDS_EVEN
#undef OPERANDS_ODD
#undef OPERANDS
#undef DECLARE_ROW_OUT_INDEX
#undef DECLARE_ROW_OUT
#undef DECLARE_ROW_INDEX
#undef DECLARE_ROW_IN
#undef DECLARE_OUT
#undef DECLARE_NUMBER
#undef DECLARE_COUNT
#undef DECLARE_SCALAR
#undef DECLARE_FLAG
#undef DECLARE_IN
#undef DECLARE_EVEN_END
#undef DECLARE_ODD_END
#undef DECLARE_EVEN
#undef DECLARE_ODD
#undef DECLARE
#undef END
#undef PASTE_END
#undef ROW_OUT_INDEX
#undef ROW_OUT
#undef ROW_INDEX
#undef ROW_IN
#undef SHARED_OUT
#undef SHARED_IN
#undef BIT
#undef OUT
#undef NUMBER
#undef COUNT
#undef SCALAR
#undef EXP
#undef FLAG
#undef IN
