/* Nets on the instruction set in use, their rows shared among threads. Included once, by dispatch.c.
 *
 * Rows are cut into parts by their number alone, and the gradients of the parts are added in order: the same bits for any number of threads. */

enum {
    ROWS_AHEAD = 96,  /* of a part of forward */
    ROWS_BACK = 128,  /* of a part of backward, and more where that makes too many: each costs a gradient more to add */
    MANY_ROWS = 512,
    FEW_PARTS = 8,
    MOST_NET_PARTS = 64
};

typedef struct {
    const int64_t *shape;
    const void *packed, *x, *grad_y;
    ptrdiff_t rows, share, sums;
    void *hidden, *y, *room, *grad_x;
} net_job;

static ptrdiff_t backward_parts(ptrdiff_t rows)
{
    const ptrdiff_t few = rows / ROWS_BACK < FEW_PARTS ? rows / ROWS_BACK : FEW_PARTS, many = rows / MANY_ROWS;
    const ptrdiff_t parts = few > many ? few : many;
    return parts < 1 ? 1 : parts > MOST_NET_PARTS ? MOST_NET_PARTS : parts;
}

#define EACH_NET(dtype, REAL)                                                                                                                        \
    static const struct {                                                                                                                            \
        void (*pack)(const int64_t *, const REAL *, REAL *);                                                                                         \
        void (*forward)(const int64_t *, const REAL *, const REAL *, ptrdiff_t, ptrdiff_t, ptrdiff_t, REAL *, REAL *);                               \
        void (*backward)(const int64_t *, const REAL *, const REAL *, ptrdiff_t, ptrdiff_t, ptrdiff_t, const REAL *, const REAL *, REAL *, REAL *);  \
        void (*gather)(const int64_t *, REAL *, ptrdiff_t, REAL *);                                                                                  \
        void (*adam)(ptrdiff_t, const REAL *, double, double, double, double, double, double, REAL *, REAL *, REAL *);                               \
    } nets_##dtype[] = {NETS(dtype)};                                                                                                                \
    static void forward_part_##dtype(void *context, int part)                                                                                        \
    {                                                                                                                                                \
        const net_job *j = context;                                                                                                                  \
        const ptrdiff_t from = part * j->share, to = from + j->share < j->rows ? from + j->share : j->rows;                                          \
        nets_##dtype[current].forward(j->shape, j->packed, j->x, j->rows, from, to, j->hidden, j->y);                                                \
    }                                                                                                                                                \
    static void backward_part_##dtype(void *context, int part)                                                                                       \
    {                                                                                                                                                \
        const net_job *j = context;                                                                                                                  \
        const ptrdiff_t from = part * j->share, to = from + j->share < j->rows ? from + j->share : j->rows;                                          \
        nets_##dtype[current].backward(j->shape, j->packed, j->x, j->rows, from, to, j->hidden, j->grad_y, (REAL *)j->room + part * j->sums,         \
                                       j->grad_x);                                                                                                   \
    }                                                                                                                                                \
    void fastpg_net_forward_##dtype(const int64_t *shape, const REAL *packed, const REAL *x, ptrdiff_t rows, REAL *y)                                \
    {                                                                                                                                                \
        nets_##dtype[current].forward(shape, packed, x, rows, 0, rows, NULL, y);                                                                     \
    }
#define NET(dtype, isa) {net_pack_##dtype##_##isa, net_forward_##dtype##_##isa, net_backward_##dtype##_##isa, net_gather_##dtype##_##isa, adam_##dtype##_##isa}
#ifdef HAS_AVX512
#define NETS(dtype) NET(dtype, base), NET(dtype, avx2), NET(dtype, avx512)
#elif defined(HAS_AVX2)
#define NETS(dtype) NET(dtype, base), NET(dtype, avx2)
#else
#define NETS(dtype) NET(dtype, base)
#endif
EACH_NET(f32, float)
EACH_NET(f64, double)
#undef EACH_NET
#undef NETS
#undef NET

ptrdiff_t fastpg_net_packed(fastpg_dtype dtype, const int64_t *shape) { return dtype == FASTPG_F32 ? net_of_f32_base(shape).packed : net_of_f64_base(shape).packed; }

ptrdiff_t fastpg_net_hidden(fastpg_dtype dtype, const int64_t *shape, ptrdiff_t rows)
{
    return rows * (dtype == FASTPG_F32 ? net_of_f32_base(shape).hidden : net_of_f64_base(shape).hidden);
}

ptrdiff_t fastpg_net_room(fastpg_dtype dtype, const int64_t *shape, ptrdiff_t rows)
{
    return backward_parts(rows) * (dtype == FASTPG_F32 ? net_of_f32_base(shape).sums : net_of_f64_base(shape).sums);
}

void fastpg_net_pack(fastpg_dtype dtype, const int64_t *shape, const void *parameter, void *packed)
{
    if (dtype == FASTPG_F32)
        nets_f32[current].pack(shape, parameter, packed);
    else
        nets_f64[current].pack(shape, parameter, packed);
}

void fastpg_net_forward(fastpg_dtype dtype, const int64_t *shape, const void *packed, const void *x, ptrdiff_t rows, void *hidden, void *y)
{
    const ptrdiff_t parts = rows / ROWS_AHEAD < 1 ? 1 : rows / ROWS_AHEAD > MOST_NET_PARTS ? MOST_NET_PARTS : rows / ROWS_AHEAD;
    net_job j = {.shape = shape, .packed = packed, .x = x, .rows = rows, .share = (rows + parts - 1) / parts, .hidden = hidden, .y = y};
    fastpg_parallel((int)parts, most_threads, dtype == FASTPG_F32 ? forward_part_f32 : forward_part_f64, &j);
}

void fastpg_net_backward(fastpg_dtype dtype, const int64_t *shape, const void *packed, const void *x, ptrdiff_t rows, const void *hidden,
                         const void *grad_y, void *room, void *grad, void *grad_x)
{
    const ptrdiff_t parts = backward_parts(rows), sums = fastpg_net_room(dtype, shape, 1);
    net_job j = {.shape = shape, .packed = packed, .x = x, .grad_y = grad_y, .rows = rows, .sums = sums, .room = room, .grad_x = grad_x};
    j.hidden = (void *)hidden;
    j.share = (rows + parts - 1) / parts;
    fastpg_parallel((int)parts, most_threads, dtype == FASTPG_F32 ? backward_part_f32 : backward_part_f64, &j);
    if (dtype == FASTPG_F32)
        nets_f32[current].gather(shape, room, parts, grad);
    else
        nets_f64[current].gather(shape, room, parts, grad);
}

void fastpg_adam(fastpg_dtype dtype, ptrdiff_t n, const void *grad, double scale, double beta1, double beta2, double eps, double rate,
                 double correction, void *m, void *v, void *parameter)
{
    if (dtype == FASTPG_F32)
        nets_f32[current].adam(n, grad, scale, beta1, beta2, eps, rate, correction, m, v, parameter);
    else
        nets_f64[current].adam(n, grad, scale, beta1, beta2, eps, rate, correction, m, v, parameter);
}
