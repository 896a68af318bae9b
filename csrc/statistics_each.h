/* Includes the bodies for float, then for double. */
#define DTYPE f32
#define REAL float
#include "statistics.h"
#undef DTYPE
#undef REAL

#define DTYPE f64
#define REAL double
#include "statistics.h"
#undef DTYPE
#undef REAL
