/* What the rest of the world may call for groups. */
#ifndef FASTPG_GROUP_H
#define FASTPG_GROUP_H

#include "fastpg.h"

/* number[i] of key i, from 0; returns how many differ. table has room for `places`, a power of two above `count`, and may hold anything. */
FASTPG_API ptrdiff_t fastpg_number_keys(const char *keys, ptrdiff_t count, ptrdiff_t bytes, int64_t *table, ptrdiff_t places, int64_t *number);

#endif
