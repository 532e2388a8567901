/* Neurons in whole numbers: charge, fire and reset in one pass over memory, for all steps of a chunk.

   v <- v + bias + sum_i factor_i * (x_i - zero_i);  k by kind;  v <- v - k * threshold;  the code is k * worth + zero

   Every per-channel number comes as an array of `block` values, the channels over and over, so that the inner
   loops are flat. All steps of a block are run before the next block: its membranes stay in the nearest cache. */
#include <stdint.h>

enum { FLOAT32 = 0, CODES = 1, INT32 = 2 };
enum { SOFT = 0, HARD = 1, SIGNED = 2, LEVELS = 3 };
enum { MOST = 4096, TERMS = 8 };

typedef struct {
    const void *data;      /* of the first step */
    const int32_t *factor; /* [block] */
    int64_t stride;        /* values from a step to the next; 0 where all steps see the same */
    int32_t kind;
    int32_t zero;
} Term;

typedef struct {
    int64_t count; /* values in a step */
    int64_t steps;
    int64_t block;
    int32_t terms, kind, levels, zero;
    Term term[TERMS];
    const int32_t *bias, *threshold, *worth; /* [block] */
    void *membrane;                          /* int32 or int64 [count] */
    int32_t *net;                            /* [count]; for kinds that remember */
    uint8_t *codes;                          /* [steps, count] */
} Layer;

static void charge(int32_t *restrict z, const Layer *a, int64_t first, int64_t step, int n) {
    for (int i = 0; i < n; i++) z[i] = a->bias[i];
    for (int t = 0; t < a->terms; t++) {
        const Term *m = &a->term[t];
        const int32_t *restrict factor = m->factor;
        const int64_t at = step * m->stride + first;
        if (m->kind == FLOAT32) {
            const float *restrict x = (const float *)m->data + at;
            for (int i = 0; i < n; i++) z[i] += factor[i] * (int32_t)x[i];
        } else if (m->kind == CODES) {
            const uint8_t *restrict x = (const uint8_t *)m->data + at;
            const int32_t zero = m->zero;
            for (int i = 0; i < n; i++) z[i] += factor[i] * ((int32_t)x[i] - zero);
        } else {
            const int32_t *restrict x = (const int32_t *)m->data + at;
            for (int i = 0; i < n; i++) z[i] += factor[i] * x[i];
        }
    }
}

#define FIRE(NAME, V)                                                                                       \
    static void NAME(const int32_t *restrict z, const Layer *a, V *restrict v, int32_t *restrict net,       \
                     uint8_t *restrict out, int n) {                                                        \
        const int32_t *restrict threshold = a->threshold, *restrict worth = a->worth;                       \
        const int32_t zero = a->zero, levels = a->levels;                                                   \
        switch (a->kind) {                                                                                  \
        case SOFT:                                                                                          \
            for (int i = 0; i < n; i++) {                                                                   \
                const V now = v[i] + z[i];                                                                  \
                const int fires = now >= threshold[i];                                                      \
                v[i] = fires ? now - threshold[i] : now;                                                    \
                out[i] = (uint8_t)(fires ? worth[i] + zero : zero);                                         \
            }                                                                                               \
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
    }

FIRE(fire_narrow, int32_t)
FIRE(fire_wide, int64_t)

void fire(const Layer *a, int wide, int threads) {
    const int64_t blocks = (a->count + a->block - 1) / a->block;
    (void)threads;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t b = 0; b < blocks; b++) {
        int32_t z[MOST];
        const int64_t first = b * a->block;
        const int n = (int)(a->count - first < a->block ? a->count - first : a->block);
        int32_t *net = a->net + first;
        for (int64_t step = 0; step < a->steps; step++) {
            charge(z, a, first, step, n);
            uint8_t *out = a->codes + step * a->count + first;
            if (wide)
                fire_wide(z, a, (int64_t *)a->membrane + first, net, out, n);
            else
                fire_narrow(z, a, (int32_t *)a->membrane + first, net, out, n);
        }
    }
}
