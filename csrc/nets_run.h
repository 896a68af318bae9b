/* Nets on the instruction set in use, their rows shared among threads. Included once, by dispatch.c.
 *
 * Rows are cut into parts by their number alone, and the gradients of the parts are added in order: the same bits for any number of threads. */

enum {
    ROWS_AHEAD = 96,  /* of a part of forward */
    ROWS_BACK = 64,    /* of a part of backward, and more where that makes too many: each costs a gradient more to add */
    MANY_ROWS = 512,
    FEW_PARTS = 8
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
        void (*turn)(const int64_t *, int, REAL *);                                                                                                  \
        void (*forward)(const int64_t *, const REAL *, const REAL *, ptrdiff_t, ptrdiff_t, ptrdiff_t, REAL *, REAL *);                               \
        void (*backward)(const int64_t *, const REAL *, const REAL *, ptrdiff_t, ptrdiff_t, ptrdiff_t, const REAL *, const REAL *, REAL *, REAL *);  \
        void (*gather)(const int64_t *, REAL *, ptrdiff_t, REAL *);                                                                                  \
        void (*ppo)(void *, int);                                                                                                                    \
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
#define NET(dtype, isa) {net_pack_##dtype##_##isa, net_turn_##dtype##_##isa, net_forward_##dtype##_##isa, net_backward_##dtype##_##isa, net_gather_##dtype##_##isa, ppo_part_##dtype##_##isa, adam_##dtype##_##isa}
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

void fastpg_net_backward(fastpg_dtype dtype, const int64_t *shape, void *packed, const void *x, ptrdiff_t rows, const void *hidden,
                         const void *grad_y, void *room, void *grad, void *grad_x)
{
    const ptrdiff_t parts = backward_parts(rows), sums = fastpg_net_room(dtype, shape, 1);
    net_job j = {.shape = shape, .packed = packed, .x = x, .grad_y = grad_y, .rows = rows, .sums = sums, .room = room, .grad_x = grad_x};
    j.hidden = (void *)hidden;
    j.share = (rows + parts - 1) / parts;
    if (dtype == FASTPG_F32)
        nets_f32[current].turn(shape, !grad_x, packed);
    else
        nets_f64[current].turn(shape, !grad_x, packed);
    fastpg_parallel((int)parts, most_threads, dtype == FASTPG_F32 ? backward_part_f32 : backward_part_f64, &j);
    if (dtype == FASTPG_F32)
        nets_f32[current].gather(shape, room, parts, grad);
    else
        nets_f64[current].gather(shape, room, parts, grad);
}

static void run_ppo(fastpg_dtype dtype, ppo_job *j, ptrdiff_t parts, int stages)
{
    j->stages = stages;
    fastpg_parallel((int)parts, most_threads, dtype == FASTPG_F32 ? nets_f32[current].ppo : nets_f64[current].ppo, j);
}

static double *fields(fastpg_ppo_means *means) { return (double *)means; }

fastpg_ppo_result fastpg_ppo_epoch(fastpg_dtype dtype, const fastpg_ppo *p)
{
    enum { FIELDS = sizeof(fastpg_ppo_means) / sizeof(double) };
    fastpg_ppo_result result = {0};
    ppo_job j = {.ppo = p};
    for (ptrdiff_t row = 0; row < p->rows; row += p->minibatch) {
        j.rows = p->rows - row < p->minibatch ? p->rows - row : p->minibatch;
        j.index = p->index + row;
        j.parts = (backward_parts(j.rows) + 1) / 2;
        j.share = (j.rows + j.parts - 1) / j.parts;
        if (j.parts == 1)
            run_ppo(dtype, &j, 2, PPO_PACK | PPO_ROWS | PPO_GRAD);
        else {
            run_ppo(dtype, &j, 2, PPO_PACK);
            run_ppo(dtype, &j, 2 * j.parts, PPO_ROWS);
            run_ppo(dtype, &j, 2, PPO_GRAD);
        }
        j.due = 0;
        fastpg_ppo_means last = {0};
        for (int k = 0; k < FIELDS; k++)
            for (ptrdiff_t part = 0; part < 2 * j.parts; part++) fields(&last)[k] += fields(&j.sums[part])[k] / (double)j.rows;
        for (int k = 0; k < 2; k++) last.norm[k] = j.norm[k];
        result.last = last;
        if (last.kl > p->target_kl || !isfinite(last.policy_loss + last.value_loss + last.norm[0] + last.norm[1])) break;
        for (int k = 0; k < FIELDS; k++) fields(&result.total)[k] += fields(&last)[k];
        for (int k = 0; k < 2; k++) j.scale[k] = last.norm[k] > p->max_norm ? p->max_norm / last.norm[k] : 1;
        j.due = 1;
        j.steps = ++result.steps;
    }
    if (j.due) run_ppo(dtype, &j, 2, PPO_PACK);
    return result;
}

void fastpg_adam(fastpg_dtype dtype, ptrdiff_t n, const void *grad, double scale, double beta1, double beta2, double eps, double rate,
                 double correction, void *m, void *v, void *parameter)
{
    if (dtype == FASTPG_F32)
        nets_f32[current].adam(n, grad, scale, beta1, beta2, eps, rate, correction, m, v, parameter);
    else
        nets_f64[current].adam(n, grad, scale, beta1, beta2, eps, rate, correction, m, v, parameter);
}
