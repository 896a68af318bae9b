/* Compiles statistics.h for each dtype and instruction set; the caller names the set, as fastpg_isa_name gives it. */
#include "statistics_api.h"

#include <string.h>

#ifdef __clang__
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#endif

enum { STRETCH = 1024 /* items whose mean is taken at a time: three arrays of doubles, 24 KB, stay in the first cache */ };

typedef double lanes8 __attribute__((vector_size(64)));

#define JOIN_(name, dtype, isa) name##_##dtype##_##isa
#define JOIN(name, dtype, isa) JOIN_(name, dtype, isa)
#define F(name) JOIN(name, DTYPE, ISA)

#define ISA base
#include "statistics_each.h"
#undef ISA

#if defined(__x86_64__) && !defined(FASTPG_NO_SIMD)
#define HAS_AVX2
#define ISA avx2
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#include "statistics_each.h"
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef ISA

#ifndef FASTPG_NO_AVX512
#define HAS_AVX512
#define ISA avx512
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,prefer-vector-width=512")
#endif
#include "statistics_each.h"
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef ISA
#endif
#endif

static const struct {
    const char *isa;
    void (*moments_f32)(const float *, const unsigned char *, const float *, ptrdiff_t, double *);
    void (*moments_f64)(const double *, const unsigned char *, const double *, ptrdiff_t, double *);
    void (*whiten_f32)(const float *, const unsigned char *, ptrdiff_t, double, double, int, float *);
    void (*whiten_f64)(const double *, const unsigned char *, ptrdiff_t, double, double, int, double *);
} sets[] = {
#define SET(isa) {#isa, moments_f32_##isa, moments_f64_##isa, whiten_f32_##isa, whiten_f64_##isa}
    SET(base),
#ifdef HAS_AVX2
    SET(avx2),
#endif
#ifdef HAS_AVX512
    SET(avx512),
#endif
};

static int set_of(const char *isa)
{
    for (int k = sizeof sets / sizeof sets[0] - 1; k > 0; k--)
        if (!strcmp(isa, sets[k].isa)) return k;
    return 0;
}

void fastpg_moments(const char *isa, int is_float, const void *x, const unsigned char *mask, const void *weight, ptrdiff_t n, double *state)
{
    if (is_float)
        sets[set_of(isa)].moments_f32(x, mask, weight, n, state);
    else
        sets[set_of(isa)].moments_f64(x, mask, weight, n, state);
}

void fastpg_whiten(const char *isa, int is_float, const void *x, const unsigned char *mask, ptrdiff_t n, double mean, double factor, int divide,
                   void *out)
{
    if (is_float)
        sets[set_of(isa)].whiten_f32(x, mask, n, mean, factor, divide, out);
    else
        sets[set_of(isa)].whiten_f64(x, mask, n, mean, factor, divide, out);
}
