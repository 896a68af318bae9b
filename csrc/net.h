/* Multilayer perceptrons on rows. No Python, no allocation, no validation.
 *
 * shape     {layers, 1 for relu or 0 for tanh, sizes[0], ..., sizes[layers]}, no size above FASTPG_NET_WIDEST, no more layers than ..._MOST_LAYERS
 * parameter of each layer W (inputs, outputs) and then b (outputs), dense
 * packed    the same with rows filled up with zeros to whole cache lines, then their transposes; at a multiple of 64 bytes, as is hidden
 *
 * A row's output does not depend on the other rows, and no result on the number of threads. */
#ifndef FASTPG_NET_H
#define FASTPG_NET_H

#include "fastpg.h"

enum { FASTPG_NET_WIDEST = 1024, FASTPG_NET_MOST_LAYERS = 16 };

/* Items of the buffers: packed; the hidden activations of so many rows; and room for backward. */
ptrdiff_t fastpg_net_packed(fastpg_dtype dtype, const int64_t *shape);
ptrdiff_t fastpg_net_hidden(fastpg_dtype dtype, const int64_t *shape, ptrdiff_t rows);
ptrdiff_t fastpg_net_room(fastpg_dtype dtype, const int64_t *shape, ptrdiff_t rows);

void fastpg_net_pack(fastpg_dtype dtype, const int64_t *shape, const void *parameter, void *packed);

/* y (rows, outputs) from x (rows, inputs), dense; hidden keeps the activations for backward, or is NULL. */
void fastpg_net_forward(fastpg_dtype dtype, const int64_t *shape, const void *packed, const void *x, ptrdiff_t rows, void *hidden, void *y);

/* grad, like parameter, and unless NULL grad_x (rows, inputs), from grad_y (rows, outputs); room is for its own use. */
void fastpg_net_backward(fastpg_dtype dtype, const int64_t *shape, const void *packed, const void *x, ptrdiff_t rows, const void *hidden,
                         const void *grad_y, void *room, void *grad, void *grad_x);

/* On the calling thread alone, by the name that compiled loops call it: a few rows of a rollout. */
FASTPG_API void fastpg_net_forward_f32(const int64_t *shape, const float *packed, const float *x, ptrdiff_t rows, float *y);

/* A step of Adam: m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g^2, parameter -= rate m / (sqrt(v / correction) + eps), g = scale grad. */
void fastpg_adam(fastpg_dtype dtype, ptrdiff_t n, const void *grad, double scale, double beta1, double beta2, double eps, double rate,
                 double correction, void *m, void *v, void *parameter);

/* A minibatch of PPO: loss = -mean(min(ratio A, clip(ratio) A)) - entropy_weight mean(entropy) + mean((v - target)^2) / 2 and its gradients,
 * the value's by a net of its own. */
enum { FASTPG_PPO_ACTIONS = 32, FASTPG_PPO_TILE = 64 };

typedef struct {
    const int64_t *shape;
    const void *packed;
    void *hidden, *y, *grad_y, *room, *grad; /* for `rows` rows, as forward and backward have them */
} fastpg_net_work;

typedef struct {
    fastpg_net_work policy, value;
    ptrdiff_t rows, actions;
    const int64_t *index; /* of each row, in the arrays of all rows */
    const void *observation, *action, *log_prob, *advantage, *target;
    int gaussian; /* action: (actions) numbers a row, with log_std shared; else one int64 */
    const void *log_std;
    double clip, entropy_weight;
    void *x, *extra; /* room for (rows, inputs); the gradient of log_std */
} fastpg_ppo;

typedef struct {
    double policy_loss, value_loss, kl, clipped, entropy;
} fastpg_ppo_sums;

/* The means over the rows: of both losses, of the third estimator of KL(old || new), of what is clipped, and of the entropy. */
fastpg_ppo_sums fastpg_ppo_step(fastpg_dtype dtype, const fastpg_ppo *);

#endif
