/* Moments and whitening of contiguous items. No Python, no allocation, no validation. */
#ifndef FASTPG_STATISTICS_H
#define FASTPG_STATISTICS_H

#include <stddef.h>

/* Merges count, mean and m2 of n items into state. mask and weight may be NULL; where mask is 0 nothing counts. */
void fastpg_moments(const char *isa, int is_float, const void *x, const unsigned char *mask, const void *weight, ptrdiff_t n, double *state);

/* out = (x - mean) * factor, or / factor; 0 where mask, unless NULL, is 0. out may be x. */
void fastpg_whiten(const char *isa, int is_float, const void *x, const unsigned char *mask, ptrdiff_t n, double mean, double factor, int divide,
                   void *out);

#endif
