/* Moments and whitening of contiguous items. No Python, no allocation, no validation. */
#ifndef FASTPG_STATISTIC_H
#define FASTPG_STATISTIC_H

#include "fastpg.h"

/* Merges count, mean and m2 of n items into state. mask and weight may be NULL; where mask is 0 nothing counts. */
void fastpg_moments(fastpg_dtype dtype, const void *x, const unsigned char *mask, const void *weight, ptrdiff_t n, double *state);

/* out = (x - mean) * factor, or / factor; 0 where mask, unless NULL, is 0. out may be x. */
void fastpg_whiten(fastpg_dtype dtype, const void *x, const unsigned char *mask, ptrdiff_t n, double mean, double factor, int divide, void *out);

#endif
