/* Includes every body for float, then for double. ISA names the instruction set they are compiled for, ISA_HAS_FMA says whether
 * it multiplies and adds in one instruction. */
#define JOIN_(name, dtype, isa) name##_##dtype##_##isa
#define JOIN(name, dtype, isa) JOIN_(name, dtype, isa)
#define F(name) JOIN(name, DTYPE, ISA)
#if ISA_HAS_FMA
#define MADD(a, b, c) FMA(a, b, c)
#else
#define MADD(a, b, c) ((a) * (b) + (c))
#endif

#define DTYPE f32
#define FMA __builtin_fmaf
#define REAL float
#define REAL_BYTES 4
#define REAL_IS_FLOAT
#define BITS uint32_t
#define MANTISSA_BITS 23
#define EXPONENT_BIAS 127
#define ROUND_SHIFT 12582912.0f /* 1.5 * 2^23 */
#define ROUND_SHIFT_BITS 0x4b400000u
#define MANTISSA_MASK 0x007fffffu
#define SQRT_HALF_BITS 0x3f3504f3u
#define LN2_HIGH 0.693359375f /* 9 bits of ln 2, so that n * LN2_HIGH is exact */
#define LN2_LOW (-2.12194440054690583e-4f)
#define EXP_SMALLEST (-87.3365447505531f) /* ln 2^-126 */
#define EXP_LARGEST 88.7228317f           /* the last float below ln 2^128 */
#include "bodies.h"
#undef DTYPE
#undef FMA
#undef REAL
#undef REAL_BYTES
#undef REAL_IS_FLOAT
#undef BITS
#undef MANTISSA_BITS
#undef EXPONENT_BIAS
#undef ROUND_SHIFT
#undef ROUND_SHIFT_BITS
#undef MANTISSA_MASK
#undef SQRT_HALF_BITS
#undef LN2_HIGH
#undef LN2_LOW
#undef EXP_SMALLEST
#undef EXP_LARGEST

#define DTYPE f64
#define FMA __builtin_fma
#define REAL double
#define REAL_BYTES 8
#define BITS uint64_t
#define MANTISSA_BITS 52
#define EXPONENT_BIAS 1023
#define ROUND_SHIFT 6755399441055744.0 /* 1.5 * 2^52 */
#define ROUND_SHIFT_BITS 0x4338000000000000u
#define MANTISSA_MASK 0x000fffffffffffffu
#define SQRT_HALF_BITS 0x3fe6a09e667f3bcdu
#define LN2_HIGH 0x1.62e42fefap-1 /* 36 bits of ln 2 */
#define LN2_LOW 0x1.cf79abc9e3b3ap-40
#define EXP_SMALLEST (-708.396418532264106) /* ln 2^-1022 */
#define EXP_LARGEST 709.782712893383973     /* the last double below ln 2^1024 */
#include "bodies.h"
#undef DTYPE
#undef FMA
#undef REAL
#undef REAL_BYTES
#undef BITS
#undef MANTISSA_BITS
#undef EXPONENT_BIAS
#undef ROUND_SHIFT
#undef ROUND_SHIFT_BITS
#undef MANTISSA_MASK
#undef SQRT_HALF_BITS
#undef LN2_HIGH
#undef LN2_LOW
#undef EXP_SMALLEST
#undef EXP_LARGEST

#undef F
#undef MADD
#undef JOIN
#undef JOIN_
