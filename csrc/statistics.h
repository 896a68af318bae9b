/* Moments and whitening of contiguous items, for one dtype and one instruction set. Everything inside is double. */

enum { F(STRETCH) = 1024 /* items whose mean is taken at a time: three arrays of doubles, 24 KB, stay in the first cache */ };

typedef double F(lanes8) __attribute__((vector_size(64)));

static double F(sum)(const F(lanes8) *a, ptrdiff_t groups)
{
    F(lanes8) s = {0}, s2 = {0};
    for (ptrdiff_t i = 0; i < groups; i += 2) {
        s += a[i];
        s2 += a[i + 1];
    }
    s += s2;
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

/* count, mean, m2: those of n items merged into those in state; see fastpg/_moments.py for the formulas. */
static void F(moments)(const REAL *x, const unsigned char *mask, const REAL *weight, ptrdiff_t n, double *state)
{
    F(lanes8) values[F(STRETCH) / 8], weights[F(STRETCH) / 8], products[F(STRETCH) / 8];
    double *d = (double *)values, *w = (double *)weights;
    double seen = 0, origin = 0, from_origin = 0, m2 = 0; /* means as distances from the first: a large offset costs them no digits */
    for (ptrdiff_t i = 0; i < n; i += F(STRETCH)) {
        const ptrdiff_t size = n - i < F(STRETCH) ? n - i : F(STRETCH), groups = (size + 15) / 16 * 2;
        const int weighted = mask || weight || size % 16;
        double count = (double)size, total;
        if (mask)
            for (ptrdiff_t j = 0; j < size; j++) d[j] = mask[i + j] ? (double)x[i + j] : 0;
        else
            for (ptrdiff_t j = 0; j < size; j++) d[j] = (double)x[i + j];
        if (weighted) { /* by 0 where the mask is 0 and beyond the end */
            for (ptrdiff_t j = 0; j < size; j++) w[j] = weight ? (double)weight[i + j] : 1;
            if (mask)
                for (ptrdiff_t j = 0; j < size; j++) w[j] = mask[i + j] ? w[j] : 0;
            for (ptrdiff_t j = size; j < groups * 8; j++) d[j] = w[j] = 0;
            count = F(sum)(weights, groups);
            for (ptrdiff_t g = 0; g < groups; g++) products[g] = values[g] * weights[g];
            total = F(sum)(products, groups);
        } else
            total = F(sum)(values, groups);
        if (count == 0) {
            m2 += total; /* 0, or a NaN that stood at a weight of 0 */
            continue;
        }
        const double rough = total / count;
        F(lanes8) rest8 = {0}, square8 = {0}, rest8b = {0}, square8b = {0};
        if (weighted)
            for (ptrdiff_t g = 0; g < groups; g++) {
                const F(lanes8) v = values[g] - rough, wv = v * weights[g];
                rest8 += wv;
                square8 += wv * v;
            }
        else
            for (ptrdiff_t g = 0; g < groups; g += 2) {
                const F(lanes8) v = values[g] - rough, v2 = values[g + 1] - rough;
                rest8 += v;
                square8 += v * v;
                rest8b += v2;
                square8b += v2 * v2;
            }
        F(lanes8) ends[4] = {rest8, rest8b, square8, square8b};
        const double rest = F(sum)(ends, 2), square = F(sum)(ends + 2, 2);
        /* The mean of equal items is exact: what rounding left in rough, rest takes out to the last bit. */
        if (seen == 0) origin = rough + rest / count;
        const double apart = rough - origin + rest / count - from_origin, own = square - rest * rest / count;
        m2 += (own < 0 ? 0 : own) + apart * (count / (seen + count) * seen) * apart;
        seen += count;
        from_origin += apart * (count / seen);
    }
    const double all = state[0] + seen, share = seen / (all + (all == 0)), apart = origin + from_origin - state[1];
    if (seen > 0) state[1] += apart * share;
    state[2] += m2 + apart * (state[0] * share) * apart;
    state[0] = all;
}

/* out = (x - mean) * factor, or / factor where that has no reciprocal; 0 where the mask is 0. out may be x. */
static void F(whiten)(const REAL *x, const unsigned char *mask, ptrdiff_t n, double mean, double factor, int divide, REAL *out)
{
#define EACH(result)                                                                                                                   \
    INDEPENDENT                                                                                                                        \
    for (ptrdiff_t i = 0; i < n; i++) {                                                                                                \
        const double y = (double)x[i] - mean;                                                                                          \
        out[i] = (REAL)(result);                                                                                                       \
    }
    if (mask && divide) {
        EACH(mask[i] ? y / factor : 0)
    } else if (mask) {
        EACH(mask[i] ? y * factor : 0)
    } else if (divide) {
        EACH(y / factor)
    } else {
        EACH(y * factor)
    }
#undef EACH
}
