/* Nets on the instruction set in use, their rows shared among threads. Included once, by dispatch.c.
 *
 * Rows are cut into parts by their number alone, and the gradients of the parts are added in order: the same bits for any number of threads. */

enum {
    ROWS_AHEAD = 96,  /* of a part of forward */
    ROWS_BACK = 64,    /* of a part of backward, and more where that makes too many: each costs a gradient more to add */
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

typedef struct {
    const fastpg_ppo *step;
    ptrdiff_t share;
    fastpg_ppo_sums sums[MOST_NET_PARTS];
    double extra[MOST_NET_PARTS][FASTPG_PPO_ACTIONS];
} ppo_job;

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
        void (*ppo)(const fastpg_ppo *, ptrdiff_t, ptrdiff_t, ptrdiff_t, fastpg_ppo_sums *, REAL *);                                                 \
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
    static void ppo_part_##dtype(void *context, int part)                                                                                            \
    {                                                                                                                                                \
        ppo_job *j = context;                                                                                                                        \
        const ptrdiff_t from = part * j->share, to = from + j->share < j->step->rows ? from + j->share : j->step->rows;                              \
        nets_##dtype[current].ppo(j->step, part, from, to, &j->sums[part], (REAL *)j->extra[part]);                                                  \
    }                                                                                                                                                \
    static void ppo_finish_##dtype(const ppo_job *j, ptrdiff_t parts)                                                                                \
    {                                                                                                                                                \
        const fastpg_ppo *p = j->step;                                                                                                               \
        nets_##dtype[current].gather(p->policy.shape, p->policy.room, parts, p->policy.grad);                                                        \
        nets_##dtype[current].gather(p->value.shape, p->value.room, parts, p->value.grad);                                                           \
        for (ptrdiff_t i = 0; p->gaussian && i < p->actions; i++) {                                                                                  \
            REAL sum = 0;                                                                                                                            \
            for (ptrdiff_t part = 0; part < parts; part++) sum += ((const REAL *)j->extra[part])[i];                                                 \
            ((REAL *)p->extra)[i] = sum;                                                                                                             \
        }                                                                                                                                            \
    }                                                                                                                                                \
    void fastpg_net_forward_##dtype(const int64_t *shape, const REAL *packed, const REAL *x, ptrdiff_t rows, REAL *y)                                \
    {                                                                                                                                                \
        nets_##dtype[current].forward(shape, packed, x, rows, 0, rows, NULL, y);                                                                     \
    }
#define NET(dtype, isa) {net_pack_##dtype##_##isa, net_forward_##dtype##_##isa, net_backward_##dtype##_##isa, net_gather_##dtype##_##isa, ppo_part_##dtype##_##isa, adam_##dtype##_##isa}
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

fastpg_ppo_sums fastpg_ppo_step(fastpg_dtype dtype, const fastpg_ppo *step)
{
    const ptrdiff_t parts = backward_parts(step->rows);
    ppo_job j = {.step = step, .share = (step->rows + parts - 1) / parts};
    fastpg_parallel((int)parts, most_threads, dtype == FASTPG_F32 ? ppo_part_f32 : ppo_part_f64, &j);
    if (dtype == FASTPG_F32)
        ppo_finish_f32(&j, parts);
    else
        ppo_finish_f64(&j, parts);
    fastpg_ppo_sums mean = {0};
    const double n = (double)step->rows;
    for (ptrdiff_t part = 0; part < parts; part++) {
        mean.policy_loss += j.sums[part].policy_loss / n, mean.value_loss += j.sums[part].value_loss / n;
        mean.kl += j.sums[part].kl / n, mean.clipped += j.sums[part].clipped / n, mean.entropy += j.sums[part].entropy / n;
    }
    return mean;
}

void fastpg_adam(fastpg_dtype dtype, ptrdiff_t n, const void *grad, double scale, double beta1, double beta2, double eps, double rate,
                 double correction, void *m, void *v, void *parameter)
{
    if (dtype == FASTPG_F32)
        nets_f32[current].adam(n, grad, scale, beta1, beta2, eps, rate, correction, m, v, parameter);
    else
        nets_f64[current].adam(n, grad, scale, beta1, beta2, eps, rate, correction, m, v, parameter);
}
