/* Statistics on the instruction set in use. Included once, by dispatch.c. */

static const struct {
    void (*moments_f32)(const float *, const unsigned char *, const float *, ptrdiff_t, double *);
    void (*moments_f64)(const double *, const unsigned char *, const double *, ptrdiff_t, double *);
    void (*whiten_f32)(const float *, const unsigned char *, ptrdiff_t, double, double, int, float *);
    void (*whiten_f64)(const double *, const unsigned char *, ptrdiff_t, double, double, int, double *);
} statistics[] = {
#define STATISTICS(isa) {moments_f32_##isa, moments_f64_##isa, whiten_f32_##isa, whiten_f64_##isa},
    STATISTICS(base)
#ifdef HAS_AVX2
    STATISTICS(avx2)
#endif
#ifdef HAS_AVX512
    STATISTICS(avx512)
#endif
#undef STATISTICS
};

void fastpg_moments(fastpg_dtype dtype, const void *x, const unsigned char *mask, const void *weight, ptrdiff_t n, double *state)
{
    if (dtype == FASTPG_F32)
        statistics[current].moments_f32(x, mask, weight, n, state);
    else
        statistics[current].moments_f64(x, mask, weight, n, state);
}

void fastpg_whiten(fastpg_dtype dtype, const void *x, const unsigned char *mask, ptrdiff_t n, double mean, double factor, int divide, void *out)
{
    if (dtype == FASTPG_F32)
        statistics[current].whiten_f32(x, mask, n, mean, factor, divide, out);
    else
        statistics[current].whiten_f64(x, mask, n, mean, factor, divide, out);
}
