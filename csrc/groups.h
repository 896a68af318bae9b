/* Numbers for keys that lie side by side, `bytes` each: equal bytes, equal number, from 0 in the order of first sight. Included once, by
 * dispatch.c. */
#include "group.h"

static uint64_t hash_of(const char *key, ptrdiff_t bytes)
{
    uint64_t hash = (uint64_t)bytes, word;
    for (; bytes > 0; key += 8, bytes -= 8) {
        word = 0;
        memcpy(&word, key, bytes < 8 ? (size_t)bytes : 8);
        hash = (hash ^ word) * 0x9e3779b97f4a7c15u; /* 2^64 over the golden ratio: Knuth, TAOCP 3, sec. 6.4 */
        hash ^= hash >> 32;
    }
    return hash;
}

ptrdiff_t fastpg_number_keys(const char *keys, ptrdiff_t count, ptrdiff_t bytes, int64_t *table, ptrdiff_t places, int64_t *number)
{
    ptrdiff_t known = 0;
    for (ptrdiff_t i = 0; i < places; i++) table[i] = -1;
    for (ptrdiff_t i = 0; i < count; i++) {
        const char *key = keys + i * bytes;
        if (i && !memcmp(key, key - bytes, (size_t)bytes)) { /* samples of one prompt mostly come one after the other */
            number[i] = number[i - 1];
            continue;
        }
        ptrdiff_t place = (ptrdiff_t)(hash_of(key, bytes) & (uint64_t)(places - 1));
        while (table[place] >= 0 && memcmp(keys + table[place] * bytes, key, (size_t)bytes)) place = (place + 1) & (places - 1);
        if (table[place] < 0) {
            table[place] = i;
            number[i] = known++;
        } else
            number[i] = number[table[place]];
    }
    return known;
}
