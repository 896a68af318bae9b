/* Losses over tokens and estimates of KL without Python, on every instruction set of this machine: for the sanitizers. Arrays end where their
 * memory ends, hold log-ratios of 200, and NaN under the mask. */
#include "objective.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static int failures = 0;

static void put(void *array, fastpg_dtype dtype, ptrdiff_t i, double value)
{
    if (dtype == FASTPG_F32)
        ((float *)array)[i] = (float)value;
    else
        ((double *)array)[i] = value;
}

static void run(int loss, fastpg_dtype dtype, ptrdiff_t sequences, ptrdiff_t length, int full)
{
    const ptrdiff_t size = sequences * length;
    const size_t item = dtype == FASTPG_F32 ? sizeof(float) : sizeof(double);
    void *arrays[6];
    for (int k = 0; k < 6; k++) arrays[k] = malloc((size_t)size * item + !size);
    char *mask = malloc((size_t)size + 1), *chosen = malloc((size_t)size + 1);
    int64_t *offsets = malloc((size_t)(sequences + 1) * sizeof *offsets);
    for (ptrdiff_t i = 0; i < size; i++) {
        mask[i] = i % 5 != 0;
        chosen[i] = i % 9 == 0;
        const double x = i % 97 == 1 ? -200 : -(double)(i * 37 % 100) / 40, old = x + (double)(i * 13 % 11 - 5) / 10 + (i % 97 == 1 ? 200 : 0);
        const double values[] = {mask[i] ? x : (double)NAN, old, (double)(i % 7) - 3, (double)(i % 3), mask[i] ? x - 0.1 : (double)NAN, 7};
        for (int k = 0; k < 6; k++) put(arrays[k], dtype, i, values[k]);
    }
    for (ptrdiff_t s = 0; s <= sequences; s++) offsets[s] = s == sequences ? size : s * length / 2; /* the last is the longest */
    const fastpg_objective objective = {
        .loss = loss, .by_sequence = full, .mean_of_sequence = full, .count_sequences = full, .bound = 20, .clip_low = 0.2, .clip_high = 0.2,
        .dual_clip = INFINITY, .delta = INFINITY, .beta = 1, .tau_pos = 1, .tau_neg = 1, .ratio_cap = 20, .eps = 1e-8, .k_pos = 2, .lambda_pos = 3,
        .k_neg = 3, .lambda_neg = 2, .kl = {FASTPG_K3, FASTPG_SCORE, 1, 0.1, 20, 10}};
    fastpg_tokens tokens = {.log_prob = arrays[0], .old = arrays[1], .advantage = arrays[2], .weight = full ? arrays[3] : NULL,
                            .ref = full ? arrays[4] : NULL, .mask = mask, .chosen = full ? chosen : NULL, .grad = arrays[5],
                            .offsets = full ? offsets : NULL, .sequences = sequences, .length = length};
    const fastpg_sums sums = fastpg_policy_loss(dtype, &objective, &tokens);
    double wrong = isfinite(sums.loss) ? 0 : 1;
    for (ptrdiff_t i = 0; i < size; i++) {
        const double grad = dtype == FASTPG_F32 ? ((float *)arrays[5])[i] : ((double *)arrays[5])[i];
        wrong += !isfinite(grad) || (!mask[i] && grad != 0);
    }
    if (wrong != 0) failures++, printf("%s: %g wrong of %td x %td\n", fastpg_loss_name(loss), wrong, sequences, length);
    tokens.ref = arrays[4], tokens.offsets = NULL;
    fastpg_kl_estimate(dtype, &objective.kl, 20, &tokens, arrays[3]);
    for (int k = 0; k < 6; k++) free(arrays[k]);
    free(mask), free(chosen), free(offsets);
}

int main(void)
{
    static const ptrdiff_t sizes[][2] = {{0, 4}, {1, 0}, {1, 1}, {3, 7}, {2, 15}, {2, 17}, {5, 511}, {2, 513}, {40, 1025}};
    int runs = 0;
    fastpg_set_threads(4);
    for (int isa = 0; isa < fastpg_isa_count(); isa++) {
        if (!fastpg_isa_runs_here(isa) || fastpg_isa_use(fastpg_isa_name(isa))) continue;
        for (int loss = 0; fastpg_loss_name(loss); loss++)
            for (int dtype = 0; dtype < FASTPG_DTYPES; dtype++)
                for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
                    for (int full = 0; full < 2; full++, runs++) run(loss, (fastpg_dtype)dtype, sizes[i][0], sizes[i][1], full);
    }
    printf("%d passed, %d failed\n", runs, failures);
    return failures != 0;
}
