/* Neurons in whole numbers: charge, fire and reset in one pass over memory, for all steps of a chunk.

   v <- v + bias + sum_i factor_i * (x_i - zero_i);  k by kind;  v <- v - k * threshold;  the code is k * worth + zero

   Numbers are int32, or double, which holds 53 bits of them, where 31 may not be enough. Every per-channel
   number comes as an array of `block` values, the channels over and over, so that the inner loops are flat.
   All steps of a block are run before the next block: its membranes stay in the nearest cache. */
#include <stdint.h>

#include "bytes.h"
#include "soft.h"

enum { FLOAT32 = 0, CODES = 1, INT32 = 2, FLOAT64 = 3, BYTES = 4 };
enum { SOFT = 0, HARD = 1, SIGNED = 2, LEVELS = 3 };
enum { ROOM = 8192, TERMS = 8, LANES = 16 };

typedef struct {
    const void *data;   /* of the first step; of kind BYTES what its sums are of */
    const void *factor; /* [block] */
    int64_t stride;     /* values from a step to the next; 0 where all steps see the same */
    int32_t kind, zero;
    int32_t channels, row; /* so many of every `row` values are the term's */
} Term;

typedef struct {
    int64_t count; /* values in a step, of what the terms add up to */
    int64_t steps, block, row; /* so many at once, which lie in one row of so many */
    int64_t together;          /* steps that take their sums together, so that weights are read once for them */
    int32_t terms, weighed, kind, levels, zero; /* so many of the terms are of kind BYTES */
    Term term[TERMS];
    const void *bias, *threshold; /* [block] */
    const int32_t *worth;         /* [block] */
    const uint8_t *said;          /* [block]: worth + zero */
    void *membrane;               /* [values in a step] */
    int32_t *net;                 /* the same; for kinds that remember */
    uint8_t *codes;               /* [steps, values in a step] */
} Layer;

/* So many values at a time, where too few lie side by side for a loop that the compiler makes. */
typedef float float_some __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t int32_t_some __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef double double_some __attribute__((vector_size(LANES * 8), aligned(8), may_alias));

static int least(int64_t a, int64_t b) { return (int)(a < b ? a : b); }

#define ADD(TYPE, V, VALUES, EXPRESSION)                                                                    \
    {                                                                                                       \
        const TYPE *restrict x = (const TYPE *)(VALUES);                                                    \
        if (t == 0)                                                                                         \
            for (int i = 0; i < n; i++) z[i] = bias[i] + factor[i] * (V)(EXPRESSION);                       \
        else                                                                                                \
            for (int i = 0; i < n; i++) z[i] += factor[i] * (V)(EXPRESSION);                                \
    }

/* The same for sums of several planes of codes: those of one have those of the others in between. */
#define ADD_PLANE(V)                                                                                        \
    {                                                                                                       \
        const float *x = (const float *)m->data + at;                                                       \
        const V *before = t == 0 ? bias : z;                                                                \
        for (int i = 0; i < n; x += m->row - m->channels)                                                   \
            for (const int end = i + m->channels; i < end;) {                                               \
                if (i + LANES <= end) {                                                                     \
                    const V##_some now = __builtin_convertvector(*(const float_some *)(x + i), V##_some);   \
                    const V##_some times = *(const V##_some *)(factor + i);                                 \
                    *(V##_some *)(z + i) = *(const V##_some *)(before + i) + times * now;                   \
                    i += LANES;                                                                             \
                } else {                                                                                    \
                    z[i] = before[i] + factor[i] * (V)x[i];                                                 \
                    i++;                                                                                    \
                }                                                                                           \
            }                                                                                               \
    }

/* What spikes in bytes add up to in some steps, for each term of them: [terms, together, n]. */
static void weigh(const Layer *a, int64_t first, int64_t step, int steps, int n, int32_t *sums) {
    for (int t = 0; t < a->terms; t++)
        if (a->term[t].kind == BYTES) {
            const int channels = a->term[t].channels;
            sum_bytes((const Bytes *)a->term[t].data, step, steps, first / channels, n / channels, sums);
            sums += a->together * n;
        }
}

#define NEURONS(V)                                                                                          \
    static void charge_##V(V *z, const int32_t *sums, const Layer *a, int64_t first, int64_t step, int n) { \
        const V *restrict bias = (const V *)a->bias;                                                        \
        for (int t = 0; t < a->terms; t++) {                                                                \
            const Term *m = &a->term[t];                                                                    \
            const V *restrict factor = (const V *)m->factor;                                                \
            const int32_t zero = m->zero;                                                                   \
            const int64_t at = step * m->stride + first / m->channels * m->row;                             \
            if (m->kind == BYTES) {                                                                         \
                ADD(int32_t, V, sums, x[i])                                                                 \
                sums += a->together * n;                                                                    \
            } else if (m->row != m->channels) ADD_PLANE(V)                                                  \
            else if (m->kind == FLOAT32) ADD(float, V, (const float *)m->data + at, x[i])                   \
            else if (m->kind == CODES) ADD(uint8_t, V, (const uint8_t *)m->data + at, (int32_t)x[i] - zero) \
            else if (m->kind == INT32) ADD(int32_t, V, (const int32_t *)m->data + at, x[i])                 \
            else ADD(double, V, (const double *)m->data + at, x[i])                                         \
        }                                                                                                   \
    }                                                                                                       \
                                                                                                            \
    static void fire_##V(const V *restrict z, const Layer *a, int64_t step, int64_t first, int n,           \
                         int64_t count) {                                                                   \
        const V *restrict threshold = (const V *)a->threshold;                                              \
        const int32_t *restrict worth = a->worth;                                                           \
        V *restrict v = (V *)a->membrane + first;                                                           \
        int32_t *restrict net = a->net + first;                                                             \
        uint8_t *restrict out = a->codes + step * count + first;                                            \
        const int32_t zero = a->zero, levels = a->levels;                                                   \
        switch (a->kind) {                                                                                  \
        case SOFT:                                                                                          \
            soft_##V(&(Soft){.z = z, .threshold = threshold, .said = a->said, .zero = zero}, v, out, n);    \
            break;                                                                                          \
        case HARD:                                                                                          \
            for (int i = 0; i < n; i++) {                                                                   \
                const V now = v[i] + z[i];                                                                  \
                const int fires = now >= threshold[i];                                                      \
                v[i] = fires ? 0 : now;                                                                     \
                out[i] = (uint8_t)(fires ? worth[i] + zero : zero);                                         \
            }                                                                                               \
            break;                                                                                          \
        case SIGNED:                                                                                        \
            for (int i = 0; i < n; i++) {                                                                   \
                const V now = v[i] + z[i];                                                                  \
                const int32_t k = (now >= threshold[i]) - ((now < 0) & (net[i] > 0));                       \
                v[i] = now - k * threshold[i];                                                              \
                net[i] += k;                                                                                \
                out[i] = (uint8_t)(k * worth[i] + zero);                                                    \
            }                                                                                               \
            break;                                                                                          \
        default: /* the quotient in floating point is at most one off, and the remainder tells */           \
            for (int i = 0; i < n; i++) {                                                                   \
                const V now = v[i] + z[i];                                                                  \
                float about = (float)now / (float)threshold[i];                                             \
                about = about < -levels - 1 ? -levels - 1 : about > levels + 1 ? levels + 1 : about;        \
                int32_t k = (int32_t)about;                                                                 \
                const V left = now - (V)k * threshold[i];                                                   \
                k += (left >= threshold[i]) - (left < 0);                                                   \
                int32_t least = net[i] > levels ? -levels : -net[i];                                        \
                least = a->kind == LEVELS ? least : 0;                                                      \
                k = k > levels ? levels : k;                                                                \
                k = k < least ? least : k;                                                                  \
                v[i] = now - (V)k * threshold[i];                                                           \
                net[i] += k;                                                                                \
                out[i] = (uint8_t)(k * worth[i] + zero);                                                    \
            }                                                                                               \
        }                                                                                                   \
    }                                                                                                       \
                                                                                                            \
    static void block_##V(const Layer *a, int64_t first, int n) {                                           \
        V z[ROOM];                                                                                          \
        int32_t sums[a->weighed * a->together * n + 1];                                            \
        for (int64_t step = 0; step < a->steps; step++) {                                                   \
            if (step % a->together == 0) weigh(a, first, step, least(a->steps - step, a->together), n, sums);\
            const int32_t *now = sums + step % a->together * n;                                             \
            if (a->kind == SOFT && a->terms == 1 && a->weighed) {                                           \
                const Soft soft = {.sums = now, .bias = a->bias, .factor = a->term[0].factor,               \
                                   .threshold = a->threshold, .said = a->said, .zero = a->zero};            \
                soft_##V(&soft, (V *)a->membrane + first, a->codes + step * a->count + first, n);           \
            } else {                                                                                        \
                charge_##V(z, now, a, first, step, n);                                                      \
                fire_##V(z, a, step, first, n, a->count);                                                   \
            }                                                                                               \
        }                                                                                                   \
    }

NEURONS(int32_t)
NEURONS(double)

#include "pool.h"
#include "sparse.h"

void fire(const Layer *a, int wide, int threads) {
    const int64_t each = (a->row + a->block - 1) / a->block, blocks = a->count / a->row * each;
    (void)threads;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t b = 0; b < blocks; b++) {
        const int64_t from = b % each * a->block, first = b / each * a->row + from;
        const int n = least(a->row - from, a->block);
        if (wide)
            block_double(a, first, n);
        else
            block_int32_t(a, first, n);
    }
}

/* The same neurons in float32, spikes with their amplitude, step by step as torch's own operators round:
   v <- v + x;  s = [v >= threshold] * threshold;  v <- v - s. `out` may be `x`; `threshold` has `period` values;
   `each` is from the x of a step to that of the next, 0 where all steps see the same. */
void fire_floats(int64_t count, int64_t steps, int64_t period, int64_t each, const float *threshold, float *v,
                 const float *x, float *out, int threads) {
    const int64_t portions = (count + period - 1) / period;
    (void)threads;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t p = 0; p < portions; p++) {
        const int64_t first = p * period;
        const int n = least(count - first, period);
        for (int64_t step = 0; step < steps; step++) {
            const float *in = x + step * each + first;
            float *to = out + step * count + first;
#pragma GCC ivdep
            for (int i = 0; i < n; i++) {
                const float now = v[first + i] + in[i];
                const float said = now >= threshold[i] ? threshold[i] : 0.0f;
                v[first + i] = now - said;
                to[i] = said;
            }
        }
    }
}

/* Rounding to a grid as torch's own operators do it: floor(x * scale + 1/2) / scale, scale a power of two. */
void round_floats(int64_t count, float scale, const float *x, float *out, int threads) {
    const int64_t portion = 4096, portions = (count + portion - 1) / portion;
    (void)threads;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t p = 0; p < portions; p++) {
        const int n = least(count - p * portion, portion);
        const float *in = x + p * portion;
        float *to = out + p * portion;
#pragma GCC ivdep
        for (int i = 0; i < n; i++) to[i] = __builtin_floorf(in[i] * scale + 0.5f) * (1.0f / scale);
    }
}
