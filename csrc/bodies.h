/* One dtype on one instruction set: the bodies, then the table of them. */
typedef BITS F(bits);
typedef union {
    REAL real;
    F(bits) bits;
} F(pun);

#include "simd_math.h"
#include "scan.h"
#include "returns.h"
#include "policy.h"
#include "objectives.h"
#include "statistics.h"
#include "nets.h"

static const fastpg_runner F(table)[] = {
#define TIME(name, parameters) F(name##_run),
#define ROW(name, parameters) F(name),
#include "kernels.def"
#undef TIME
#undef ROW
};
