/* Multilayer perceptrons on rows. No Python, no allocation, no validation.
 *
 * shape     {layers, 1 for relu or 0 for tanh, sizes[0], ..., sizes[layers]}, no size above FASTPG_NET_WIDEST, no more layers than ..._MOST_LAYERS
 * parameter of each layer W (inputs, outputs) and then b (outputs), dense
 * packed    the same with rows filled up with zeros to whole cache lines, and room for their transposes; at a multiple of 64 bytes, as is hidden
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

/* grad, like parameter, and unless NULL grad_x (rows, inputs), from grad_y (rows, outputs); room is for its own use, as are the transposes. */
void fastpg_net_backward(fastpg_dtype dtype, const int64_t *shape, void *packed, const void *x, ptrdiff_t rows, const void *hidden,
                         const void *grad_y, void *room, void *grad, void *grad_x);

/* On the calling thread alone, by the name that compiled loops call it: a few rows of a rollout. */
FASTPG_API void fastpg_net_forward_f32(const int64_t *shape, const float *packed, const float *x, ptrdiff_t rows, float *y);

/* A step of Adam: m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g^2, parameter -= rate m / (sqrt(v / correction) + eps), g = scale grad. */
void fastpg_adam(fastpg_dtype dtype, ptrdiff_t n, const void *grad, double scale, double beta1, double beta2, double eps, double rate,
                 double correction, void *m, void *v, void *parameter);

/* An epoch of PPO over minibatches: loss = -mean(min(ratio A, clip(ratio) A)) - entropy_weight mean(entropy) + mean((v - target)^2) / 2,
 * the value's by a net of its own; the gradient of each net is cut to max_norm, and Adam steps along it. */
enum { FASTPG_PPO_ACTIONS = 32, FASTPG_PPO_TILE = 64 };

typedef struct {
    const int64_t *shape;
    void *packed, *x, *hidden, *y, *grad_y, *room; /* for the rows of a minibatch, as forward and backward have them; x (rows, inputs) */
    void *grad, *parameter, *m, *v;                /* `items` each: the net's own, log_std after them, and what else there is, which stays */
    ptrdiff_t items;
    double lr, beta1, beta2, eps;
    int64_t steps; /* of Adam so far */
} fastpg_ppo_net;

typedef struct {
    fastpg_ppo_net policy, value;
    ptrdiff_t rows, minibatch, actions;
    const int64_t *index; /* of each row, in the arrays of all rows */
    const void *observation, *action, *log_prob, *advantage, *target;
    int gaussian; /* action: (actions) numbers a row, with log_std shared; else one int64 */
    double clip, entropy_weight, max_norm, target_kl;
} fastpg_ppo;

/* Of a minibatch: the means of both losses, of the third estimator of KL(old || new) and of what is clipped, the lengths of both gradients
 * before they are cut, and the mean entropy. */
typedef struct {
    double policy_loss, value_loss, kl, clipped, norm[2], entropy;
} fastpg_ppo_means;

/* Stops before the step of a minibatch whose kl is above target_kl, or where a loss or a length is not finite. total: of `steps` minibatches. */
typedef struct {
    fastpg_ppo_means total, last;
    int64_t steps;
} fastpg_ppo_result;

fastpg_ppo_result fastpg_ppo_epoch(fastpg_dtype dtype, const fastpg_ppo *);

#endif
