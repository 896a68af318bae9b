/* exp and log as short polynomials in plain C that a compiler turns into vectors. Included once a dtype.
 * MADD(a, b, c) is a * b + c, rounded once where the instruction set does that in one.
 * Coefficients are those of the Taylor series; each remainder is stated, so nothing here was fitted or looked up. */

/* e^x = 2^n e^r with x = n ln 2 + r, |r| <= ln(2)/2: (e^r - 1) / r, r, and n as the low bits of `shifted`. NaN stays NaN. */
static inline __attribute__((always_inline)) REAL F(exp_pieces)(REAL x, REAL *shifted, REAL *rest)
{
    /* Adding 1.5 * 2^mantissa rounds to an integer and leaves that integer in the low bits. */
    *shifted = MADD(x, (REAL)1.44269504088896340736, ROUND_SHIFT);
    const REAL n = *shifted - ROUND_SHIFT;
    const REAL r = *rest = MADD(n, -LN2_LOW, MADD(n, -LN2_HIGH, x));
#ifdef REAL_IS_FLOAT /* (ln 2 / 2)^8 / 8! = 5e-9 */
    REAL p = (REAL)1 / 5040;
#else /* (ln 2 / 2)^14 / 14! = 4e-18 */
    REAL p = (REAL)1 / 6227020800;
    p = MADD(p, r, (REAL)1 / 479001600);
    p = MADD(p, r, (REAL)1 / 39916800);
    p = MADD(p, r, (REAL)1 / 3628800);
    p = MADD(p, r, (REAL)1 / 362880);
    p = MADD(p, r, (REAL)1 / 40320);
    p = MADD(p, r, (REAL)1 / 5040);
#endif
    p = MADD(p, r, (REAL)1 / 720);
    p = MADD(p, r, (REAL)1 / 120);
    p = MADD(p, r, (REAL)1 / 24);
    p = MADD(p, r, (REAL)1 / 6);
    p = MADD(p, r, (REAL)1 / 2);
    return MADD(p, r, 1);
}

/* e^r, and n. */
static inline __attribute__((always_inline)) REAL F(exp_parts)(REAL x, REAL *shifted)
{
    REAL r;
    const REAL p = F(exp_pieces)(x, shifted, &r);
    return MADD(p, r, 1);
}

/* e^x for x <= 0. Below the smallest normal number the result is 0. */
static inline __attribute__((always_inline)) REAL F(exp_nonpositive)(REAL x)
{
    REAL shifted;
    const REAL p = F(exp_parts)(x, &shifted);
    F(pun) scale = {.real = shifted};
    scale.bits = (scale.bits + EXPONENT_BIAS) << MANTISSA_BITS;
    const REAL result = p * scale.real;
    return x < EXP_SMALLEST ? 0 : result;
}

/* e^x for any x. Below the smallest normal number the result is 0, above the largest inf. */
static inline __attribute__((always_inline)) REAL F(exp_any)(REAL x)
{
    REAL shifted;
    const REAL p = F(exp_parts)(x, &shifted);
    const F(bits) half = x > 0; /* so that 2^n itself need not be a number */
    F(pun) scale = {.real = shifted};
    scale.bits = (scale.bits + EXPONENT_BIAS - half) << MANTISSA_BITS;
    const REAL result = p * scale.real * (x > 0 ? (REAL)2 : (REAL)1);
    return x < EXP_SMALLEST ? 0 : x > EXP_LARGEST ? (REAL)INFINITY : result;
}

/* log x for x >= sqrt(1/2): x = 2^k f with f in [sqrt(1/2), sqrt(2)), log f = 2 atanh(z), z = (f - 1) / (f + 1), |z| <= 0.1716. NaN stays NaN. */
static inline __attribute__((always_inline)) REAL F(log_of_sum)(REAL x)
{
    F(pun) u = {.real = x};
    const F(bits) shifted = u.bits - SQRT_HALF_BITS; /* exponent counts from sqrt(1/2) */
    F(pun) k = {.bits = (shifted >> MANTISSA_BITS) + ROUND_SHIFT_BITS};
    u.bits = (shifted & MANTISSA_MASK) + SQRT_HALF_BITS;
    const REAL exponent = k.real - ROUND_SHIFT;
    const REAL f = u.real - 1;
    const REAL z = f / (u.real + 1);
    const REAL w = z * z;
#ifdef REAL_IS_FLOAT /* w^6 / 13 = 5e-11 */
    REAL p = (REAL)1 / 11;
#else /* w^11 / 23 = 6e-19 */
    REAL p = (REAL)1 / 21;
    p = MADD(p, w, (REAL)1 / 19);
    p = MADD(p, w, (REAL)1 / 17);
    p = MADD(p, w, (REAL)1 / 15);
    p = MADD(p, w, (REAL)1 / 13);
    p = MADD(p, w, (REAL)1 / 11);
#endif
    p = MADD(p, w, (REAL)1 / 9);
    p = MADD(p, w, (REAL)1 / 7);
    p = MADD(p, w, (REAL)1 / 5);
    p = MADD(p, w, (REAL)1 / 3);
    /* 2z = f - z f exactly, and f is exact: rounding touches only the small rest. */
    const REAL result = exponent * LN2_HIGH + (f - (z * f - (2 * z * w * p + exponent * LN2_LOW)));
    return x == x ? result : x;
}

/* (e^x - 1 - x) / x^2 for |x| <= 1/2. */
static inline __attribute__((always_inline)) REAL F(exp_rest)(REAL x)
{
#ifdef REAL_IS_FLOAT /* the next term: 2^-8 / 10! = 1e-9 of 1/2 */
    REAL p = (REAL)1 / 362880;
#else /* 2^-14 / 16! = 3e-18 */
    REAL p = (REAL)1 / 1307674368000;
    p = MADD(p, x, (REAL)1 / 87178291200);
    p = MADD(p, x, (REAL)1 / 6227020800);
    p = MADD(p, x, (REAL)1 / 479001600);
    p = MADD(p, x, (REAL)1 / 39916800);
    p = MADD(p, x, (REAL)1 / 3628800);
    p = MADD(p, x, (REAL)1 / 362880);
#endif
    p = MADD(p, x, (REAL)1 / 40320);
    p = MADD(p, x, (REAL)1 / 5040);
    p = MADD(p, x, (REAL)1 / 720);
    p = MADD(p, x, (REAL)1 / 120);
    p = MADD(p, x, (REAL)1 / 24);
    p = MADD(p, x, (REAL)1 / 6);
    return MADD(p, x, (REAL)1 / 2);
}

/* e^x - 1 and, given e = e^x, e^x - 1 - x, which keep their digits near 0. */
static inline __attribute__((always_inline)) REAL F(exp_less_one)(REAL x)
{
    const REAL near = MADD(x * x, F(exp_rest)(x), x), far = F(exp_any)(x) - 1;
    return ABS(x) <= (REAL)0.5 ? near : far;
}
static inline __attribute__((always_inline)) REAL F(exp_less_line)(REAL x, REAL e)
{
    const REAL near = x * x * F(exp_rest)(x), far = e - 1 - x;
    return ABS(x) <= (REAL)0.5 ? near : far;
}

/* e^x and e^x - 1 - x from one series, for |x| <= MOST_EXACT. Where n of `exp_parts` is 0 the second is exact but for rounding; beyond,
 * from |x| = 0.35 on, it cancels no more than four bits. NaN stays NaN, whatever its bits. */
#define MOST_EXACT 80
static inline __attribute__((always_inline)) REAL F(exp_and_rest)(REAL x, REAL *less_line)
{
    const F(pun) shifted = {.real = MADD(x, (REAL)1.44269504088896340736, ROUND_SHIFT + EXPONENT_BIAS)};
    const REAL n = shifted.real - (ROUND_SHIFT + EXPONENT_BIAS), r = MADD(n, -LN2_LOW, MADD(n, -LN2_HIGH, x)), rr = r * r;
#ifdef REAL_IS_FLOAT /* pairs, so that half as many wait for one another */
    const REAL p = MADD(MADD(MADD((REAL)1 / 5040, r, (REAL)1 / 720), rr, MADD((REAL)1 / 120, r, (REAL)1 / 24)), rr, MADD((REAL)1 / 6, r, (REAL)1 / 2));
#else
    const REAL p = F(exp_rest)(r);
#endif
    const F(pun) scale = {.bits = shifted.bits << MANTISSA_BITS};
    const REAL e = MADD(rr, p, 1 + r) * scale.real, near = rr * p, far = e - 1 - x;
    *less_line = n == 0 ? near : far;
    return e;
}

/* log(1 + e) for e in [0, 1]; the last term gives back what rounding 1 + e lost. */
static inline __attribute__((always_inline)) REAL F(log_one_plus)(REAL e)
{
    const REAL u = 1 + e;
    return F(log_of_sum)(u) + (e - (u - 1)) / u;
}

/* tanh x = -u / (u + 2) with the sign of x, u = e^(-2 |x|) - 1, which keeps its digits near 0. Beyond 20 it is 1. NaN stays NaN. */
static inline REAL F(tanh)(REAL x)
{
    REAL shifted, r;
    const REAL size = ABS(x), p = F(exp_pieces)(-2 * (size > 20 ? 20 : size), &shifted, &r);
    F(pun) scale = {.real = shifted};
    scale.bits = (scale.bits + EXPONENT_BIAS) << MANTISSA_BITS;
    const REAL u = MADD(scale.real, p * r, scale.real - 1), t = u / (u + 2);
    return x < 0 ? t : -t;
}
